"""Networks and estimators. Nothing here knows of tables, batches or the orchestration."""
