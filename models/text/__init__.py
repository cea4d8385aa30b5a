"""Frozen text encoders: MiniLM for the nano preset, UMT5 for the Wan presets."""
