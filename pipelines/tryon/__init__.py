"""Dresses the persons of annotated videos in other garments, with a trained checkpoint."""
