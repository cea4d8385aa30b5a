"""Captions of whole videos, and timestamped captions of what the hands do to the garment."""
