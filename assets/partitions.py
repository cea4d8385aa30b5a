"""Partitions: a batch of videos, never one video, since a run costs seconds of bookkeeping.

What goes wrong with one video is a row of `stage_status`, not a failed partition.
"""

import dagster as dg

video_batches = dg.DynamicPartitionsDefinition(name="video_batches")
