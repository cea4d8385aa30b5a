"""Moments at which a process kills itself, its run, or all of them.

A moment is a text; `arm` makes this process die at it, `ArmedStage` carries it into the workers of a stage.

In the process of a run:
    `plan`                  before the first worker starts
    `flush`                 a blob's bytes are written under a temporary name
    `move`, `moved`         before and after a blob gets its name
    `blob:<n>`              the n-th blob is stored
    `before:<table>`, `after:<table>`   around a table's commit (`after:stage_status/pose`: of one stage's status)
    `file:<pattern>`        such a path is below the lake, that was not there when the run began
    `checkpoint:<n>`, `checkpointed:<n>`    before and after the trainer's n-th folder gets its name
    `filled:<n>`            the n-th folder holds its first files
    `forgotten:<n>`         the n-th old checkpoint lost its name and is not deleted yet
    `step:<n>`              the trainer is done with its n-th step
In a worker:
    `chunk:<n>`             the n-th part of a video's rows was made
    `staged`, `renamed`     before and after a video's staged file gets its name
    `w-flush`, `w-move`, `w-moved`      as above, of a blob that a worker writes
    `analyse`               a file is about to be decoded
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WHOM = ("worker", "run", "all")
"""The process itself, the run that started it, or all processes of the run."""
IN_WORKER = ("chunk", "staged", "renamed", "w-flush", "w-move", "w-moved", "analyse")


def die(whom: str, in_worker: bool = False) -> None:
    """Kill without a warning: nothing is flushed and no handler runs."""
    if whom == "all":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getppid() if in_worker and whom == "run" else os.getpid(), signal.SIGKILL)
    time.sleep(60)  # Until the signal is there, which is at once for this process.


class Once:
    """Dies at the n-th call of one kind; a worker only if none did before."""

    def __init__(self, whom: str, nth: int = 1, token: str | None = None):
        self.whom, self.nth, self.token, self.calls = whom, nth, token, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls != self.nth:
            return
        if self.token is not None:
            try:
                os.close(os.open(self.token, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        die(self.whom, self.token is not None)


def arm(moment: str, whom: str, lake: str) -> None:
    """Make this process of a run die at the moment."""
    from pipelines.store import delta

    kind, _, what = moment.partition(":")
    if kind in ("none", "random"):
        return
    if kind in ("before", "after"):
        replace, now = delta.DeltaStore.replace, Once(whom)

        def killing_replace(self: Any, spec: Any, rows: Any, where: Any, commit: Any, **more: Any) -> int:
            hit = what in (spec.name, f"{spec.name}/{where.get('stage')}")
            if hit and kind == "before":
                now()
            version = replace(self, spec, rows, where, commit, **more)
            if hit:
                now()
            return version

        delta.DeltaStore.replace = killing_replace  # type: ignore[method-assign]
    elif kind == "plan":
        from pipelines.stage import runner

        _before(runner, "annotate_missing", Once(whom))
    elif kind in ("flush", "move", "moved", "blob"):
        arm_blobs(kind, Once(whom, int(what or 1)))
    elif kind == "file":
        threading.Thread(target=_watch, args=(Path(lake), what, whom, set(Path(lake).glob(what))), daemon=True).start()
    elif kind in ("checkpoint", "checkpointed", "filled", "forgotten", "step"):
        arm_trainer(kind, Once(whom, int(what)))
    else:
        raise ValueError(moment)


def _watch(lake: Path, pattern: str, whom: str, before: set[Path]) -> None:
    while not any(p not in before for p in lake.glob(pattern)):
        time.sleep(0.002)
    die(whom)


def _before(module: Any, name: str, now: Callable[[], None]) -> None:
    original = getattr(module, name)

    def killing(*arguments: Any, **named: Any) -> Any:
        now()
        return original(*arguments, **named)

    setattr(module, name, killing)


def _after(module: Any, name: str, now: Callable[[], None]) -> None:
    original = getattr(module, name)

    def killing(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        now()
        return result

    setattr(module, name, killing)


def arm_blobs(kind: str, now: Once) -> None:
    """Die while a blob is being written."""
    from pipelines.store import blobs

    if kind == "flush":
        _before(blobs.os, "fsync", now)
    elif kind == "blob":
        _after(blobs.BlobStore, "put_file", now)
    else:
        write = blobs.BlobStore._write

        class Mover:
            def __init__(self, system: Any):
                self._system = system

            def __getattr__(self, name: str) -> Any:
                return getattr(self._system, name)

            def move(self, *arguments: Any) -> None:
                if kind == "move":
                    now()
                self._system.move(*arguments)
                if kind == "moved":
                    now()

        def killing_write(self: Any, *arguments: Any) -> None:
            self._fs = Mover(self._fs)
            write(self, *arguments)

        blobs.BlobStore._write = killing_write  # type: ignore[method-assign]


def arm_trainer(kind: str, now: Once) -> None:
    """Die at a step of the trainer, or while it writes a folder."""
    from models.training import checkpoint, loop

    if kind == "step":
        _after(loop.Reporter, "step", now)
    elif kind == "forgotten":
        _before(checkpoint.shutil, "rmtree", now)
    elif kind in ("checkpoint", "checkpointed"):
        rename = Path.rename

        def killing_rename(self: Path, target: Any) -> Path:
            mine = self.name.endswith(".tmp") and self.is_dir()
            if mine and kind == "checkpoint":
                now()
            result = rename(self, target)
            if mine and kind == "checkpointed":
                now()
            return result

        Path.rename = killing_rename  # type: ignore[assignment,method-assign]
    else:
        write = checkpoint.write_folder

        def killing_write(target: Path, fill: Callable[[Path], None]) -> None:
            def killing_fill(folder: Path) -> None:
                original = checkpoint._pack_optimizer
                if target.name == "final":
                    fill(folder)
                    now()
                    return

                def pack(state: Any) -> Any:
                    now()  # The weights are there, the optimiser is not.
                    return original(state)

                checkpoint._pack_optimizer = pack
                try:
                    fill(folder)
                finally:
                    checkpoint._pack_optimizer = original

            write(target, killing_fill)

        from models.training import run

        checkpoint.write_folder = killing_write
        run.write_folder = killing_write


class ArmedStage:
    """A stage whose workers die at a moment; to the runner it is the stage itself.

    Args:
        stage: The stage.
        moment: One of a worker's.
        whom: Whom to kill.
        token: File that says that it happened.
    """

    def __init__(self, stage: Any, moment: str, whom: str, token: str):
        self._stage, self._moment, self._whom, self._token = stage, moment, whom, token

    def __reduce__(self) -> Any:
        return ArmedStage, (self._stage, self._moment, self._whom, self._token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def setup(self, threads: int) -> None:
        """As the stage's; from then on the worker is armed."""
        kind, _, what = self._moment.partition(":")
        now = Once(self._whom, int(what or 1), self._token)
        if kind in ("staged", "renamed"):
            replace = Path.replace

            def killing_replace(path: Path, target: Any) -> Path:
                if kind == "staged":
                    now()
                result = replace(path, target)
                if kind == "renamed":
                    now()
                return result

            Path.replace = killing_replace  # type: ignore[assignment,method-assign]
        elif kind.startswith("w-"):
            arm_blobs(kind[2:], now)
        elif kind == "chunk":
            self._now = now
        self._stage.setup(threads)

    def annotate(self, task: Any) -> Iterator[Any]:
        """As the stage's."""
        for chunk in self._stage.annotate(task):
            yield chunk
            if "_now" in self.__dict__:
                self._now()


def dying_analysis(whom: str, token: str, path: str, settings: Any) -> Any:
    """`analyse_video` in a worker that dies instead, once."""
    from pipelines.ingest.analyse import analyse_video

    Once(whom, 1, token)()
    return analyse_video(path, settings)
