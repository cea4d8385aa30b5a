"""Pictures people look at: skeletons, contact sheets and plots."""
