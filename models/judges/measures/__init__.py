"""What the embedded judge measures, and the small model that reads it."""
