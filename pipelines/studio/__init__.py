"""The capture studio: rendered interactive try-on video with the exact truth of every annotation table.

World frame of everything here: metres, x to the person's left, y backwards (the person faces -y), z up, the origin
between the hips of the unposed body.
"""
