"""Runs an annotation stage over the videos of a batch: in worker processes, resumable, each error a row.

What a stage does to one video is in the stage's own package; here is only what all stages share. The order of writes
makes a kill harmless at any point: a finished video is a renamed file in staging; the stage's table is replaced for the
batch in one commit; then the status rows are, and only a status row makes a video count as done.
"""

from pipelines.stage.base import Stage, StageSettings, VideoTask, WorkerSettings, digest
from pipelines.stage.pool import Progress
from pipelines.stage.runner import StageReport, run_stage

__all__ = ["Progress", "Stage", "StageReport", "StageSettings", "VideoTask", "WorkerSettings", "digest", "run_stage"]
