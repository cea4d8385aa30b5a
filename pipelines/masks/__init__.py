"""Garment-agnostic masks: which pixels of each frame the try-on model may repaint."""
