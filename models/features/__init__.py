"""Feature networks that metrics are computed with."""
