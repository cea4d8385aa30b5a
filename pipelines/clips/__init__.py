"""Training windows: frames, conditions and encoded clips."""
