"""What the embedded judge sees of an interaction, and the small network that reads it."""
