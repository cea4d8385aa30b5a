"""Dagster assets: partition key in, one call into `pipelines`, `MaterializeResult` out.

Nothing here computes. Modules import no torch, cv2 or mediapipe at module level, so that the code location loads in
seconds; the pipeline modules are imported inside the asset bodies.
"""
