"""Partitions: a batch of videos, never one video, since a run costs seconds of bookkeeping.

What goes wrong with one video is a row of `stage_status`, not a failed partition.
"""

import dagster as dg

BATCHES = "video_batches"
"""Name of the partitions on the Dagster instance."""

video_batches = dg.DynamicPartitionsDefinition(name=BATCHES)

ONE_BATCH_A_RUN = dg.BackfillPolicy.multi_run(1)
"""Backfills start a run for each batch: one that fails leaves the others alone, and checks speak of one batch."""
