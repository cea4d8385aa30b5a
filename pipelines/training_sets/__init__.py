"""Pinned selections of clips: the same set gives the same samples for ever."""
