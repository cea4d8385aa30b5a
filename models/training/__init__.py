"""The trainer process: `python -m models.training --config FILE`.

It reads a pinned manifest (Parquet) and cached latents (safetensors), nothing of the lake's tables, so that it runs
wherever those files are: in a child of Dagster, under `accelerate launch`, or by hand.
"""
