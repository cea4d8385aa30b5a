"""From a landing folder to the tables `videos` and `garments`: probe, judge, store by content.

Whatever a folder holds ends as a row; people in the picture are the pose stage's business, not this package's.
"""
