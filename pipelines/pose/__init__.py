"""Body pose and person mask of the main person in every frame."""
