"""Partitions: a batch of videos, never one video, since a run costs seconds of bookkeeping.

What goes wrong with one video is a row of `stage_status`, not a failed partition.
"""

import warnings

import dagster as dg

BATCHES = "video_batches"
"""Name of the partitions on the Dagster instance."""

video_batches = dg.DynamicPartitionsDefinition(name=BATCHES)

# Said by Dagster of a parameter that it calls beta, at every start of every command; nothing that a user could change.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

ONE_BATCH_A_RUN = dg.BackfillPolicy.multi_run(1)
"""Backfills start a run for each batch: one that fails leaves the others alone, and checks speak of one batch."""
