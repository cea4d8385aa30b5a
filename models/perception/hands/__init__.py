"""Hand estimators: MediaPipe landmarks on a CC0 mesh, or HaMeR."""
