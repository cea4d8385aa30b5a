"""How well the annotators do: their tables measured against the exact truth of rendered videos.

Each family (`pose`, `hands`, `masks`, `captions`) has a function that measures one video, without a lake, and one that
makes figures of many; `report` reads the tables, splits the figures by what the videos show, and writes them.
"""
