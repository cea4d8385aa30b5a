"""iTryOn (arXiv 2605.21431): Wan2.1-VACE with hand guidance, timed action captions and an action-aware loss."""
