"""Scores of try-on videos: picture quality against ground truth, and the interaction success rate."""
