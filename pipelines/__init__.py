"""The stages of the pipeline as plain functions over arrays and tables.

Nothing here knows about Dagster: a notebook can call every stage. Each family (`ingest`, `pose`, `hands`, `masks`,
`captions`, `clips`, `tryon`, `evaluation`) is a package whose `settings` module is light enough for the
orchestration to import at start-up; everything that needs cv2, torch or mediapipe lives in the other modules.
"""
