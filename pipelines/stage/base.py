"""What a stage is, and one video as a stage sees it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from platformdirs import user_cache_path
from pydantic import BaseModel, Field

from models.machine import machine_memory
from pipelines.store import TABLES, DeltaStore, TableSpec

# Networks, threads and buffers of the default stages take 1.9 GiB of what the limit counts, of which 0.7 are used.
_LEAST_SHARE_GB = 4.0


class WorkerSettings(BaseModel):
    """How annotation stages use the machine."""

    workers: int | None = Field(None, ge=1, description="Worker processes; the number of cores by default")
    timeout_s: float | None = Field(
        7200, gt=0, description="Longest time for one video in one stage; past it the video is an error row"
    )
    memory_gb: float | None = Field(
        None,
        ge=0,
        description="Most memory of one worker, GiB, networks included; a video that wants more is an error row. By "
        "default an equal share of the machine's memory, at least 4; 0 sets no limit",
    )

    def limit_gb(self, workers: int) -> float | None:
        """GiB that each of so many workers may take; None without a limit."""
        if self.memory_gb is None:
            return max(_LEAST_SHARE_GB, machine_memory() / 2**30 / workers)
        return self.memory_gb or None


class StageSettings(BaseModel):
    """Settings of one stage."""

    def content(self) -> dict[str, object]:
        """The settings that rows depend on, for fingerprints.

        Stages leave out where and how fast rows are made, and what only a backend is told that is not used.
        """
        return self.model_dump(mode="json")


def digest(*parts: Any) -> str:
    """SHA-256 over the canonical JSON of `parts`, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str, ensure_ascii=True).encode()).hexdigest()


def scratch(store: DeltaStore) -> Path:
    """Folder for what is prepared on this machine: the lake, or a folder in the user's cache for a remote one."""
    return user_cache_path("itryon") / digest(store.root)[:16] if "://" in store.root else Path(store.root)


class VideoTask:
    """One video as a stage sees it, inside a worker.

    Attributes:
        row: The video's row of `videos`.
        store: The lake.
        threads: Threads that one worker should use.
    """

    def __init__(self, store: DeltaStore, row: dict[str, Any], threads: int, report: Callable[[int], None]):
        self.store = store
        self.row = row
        self.threads = threads
        self.model_seconds = 0.0
        self.frames = 0
        self._report = report

    @property
    def video_id(self) -> str:
        """Identity of the video."""
        return self.row["video_id"]

    @cached_property
    def path(self) -> Path:
        """Local file with the video, whose bytes are those that were ingested.

        Raises:
            OSError: They are not, or the file is gone.
        """
        return self.store.blobs.verified_path(self.row["uri"])

    def rows(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """This video's rows of an upstream table, in frame order."""
        spec = TABLES[table]
        return self.store.read(spec, columns, {"batch": self.row["batch"], "video_id": self.video_id})

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Counts the time spent inside as network inference."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.model_seconds += time.perf_counter() - start

    def advance(self, frames: int = 1) -> None:
        """Report that `frames` more frames are done."""
        self.frames += frames
        self._report(frames)


class Stage(ABC):
    """What an annotation stage does to one video.

    A stage is built from its settings, must pickle, and loads nothing heavy before `setup`.
    """

    name: ClassVar[str]
    """Name of the stage and of the table it writes."""
    code_version: ClassVar[str]
    """Raise it when the same input gives other rows."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Upstream stages whose rows it reads."""
    video_columns: ClassVar[tuple[str, ...]] = ("sha256",)
    """Columns of `videos` that its rows depend on."""
    blob_columns: ClassVar[tuple[str, ...]] = ()
    """Columns of its rows that name blobs: rows stand only while these are there."""

    def __init__(self, settings: StageSettings):
        self.settings = settings

    @property
    def spec(self) -> TableSpec:
        """The table it writes."""
        return TABLES[self.name]

    def weights(self) -> Mapping[str, str]:
        """Name -> SHA-256 of the weights its rows depend on."""
        return {}

    def beside(self, store: DeltaStore, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """video_id -> what its rows depend on beside its row of `videos` and the stages upstream; mostly nothing.

        Args:
            store: The lake.
            rows: Usable videos of one batch.
        """
        return {}

    def setup(self, threads: int) -> None:  # noqa: B027 - a stage without models has nothing to load
        """Load models, once in each worker. Raises what a user has to read when something is missing."""

    @abstractmethod
    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Yield the video's rows in chunks, without the columns batch, video_id and fingerprint.

        Raises anything: it becomes the reason in the video's status row.
        """

    def fingerprint(self, row: Mapping[str, Any], upstream: Mapping[str, str], beside: Any = None) -> str:
        """What the rows of a video depend on: content, code, weights, settings and upstream fingerprints.

        Args:
            row: Row of `videos`.
            upstream: Stage -> fingerprint.
            beside: The video's entry in `beside`, where it has one.
        """
        return digest(
            self.name,
            self.code_version,
            self.settings.content(),
            dict(self.weights()),
            {c: row[c] for c in self.video_columns},
            dict(upstream),
            *([] if beside is None else [beside]),
        )[:32]
