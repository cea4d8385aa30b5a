"""Clocks that are hours off: those of one writer, while the others' are right.

A few lines of C put before the C library move the time of a process, of delta-rs in it too. The times of files come
from the kernel and stay right, as on a file server with a clock of its own.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.checkpoints.current import current_id
from pipelines.checkpoints.train import LATEST, TrainingPlan, named_checkpoint, register_checkpoint
from pipelines.stage.base import scratch
from pipelines.store import Commit, DeltaStore
from pipelines.store.leftovers import tidy
from pipelines.store.schemas import CHECKPOINTS, POSE
from tests.faults.lakes import Rows, check_clean, check_same, contents, end_processes_of, hold
from tests.faults.suite import Case, Kind, Outcome, Runner, draw
from tests.faults.victims import Victims

OFFSET_ENV = "ITRYON_TEST_CLOCK_OFFSET_S"
_SHIM = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) {{ const char *o = getenv("{OFFSET_ENV}"); return o ? atol(o) : 0; }}
int clock_gettime(clockid_t clock, struct timespec *t) {{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int r = real(clock, t);
    if (!r && clock == CLOCK_REALTIME) t->tv_sec += off();
    return r;
}}
int gettimeofday(struct timeval *t, void *zone) {{
    struct timespec now;
    int r = clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
    return r;
}}
/* The kernel ends this wait by its own clock. */
int sem_timedwait(sem_t *semaphore, const struct timespec *end) {{
    static int (*real)(sem_t *, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec shifted = {{end->tv_sec - off(), end->tv_nsec}};
    return real(semaphore, &shifted);
}}
time_t time(time_t *t) {{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}}
"""


def cases(seed: int, count: int | None) -> list[Case]:
    """Hours ahead and behind, some drawn by the seed."""
    rng = random.Random(seed + 4)
    hours = [-26.0, -3.0, 3.0, 26.0, round(rng.uniform(-48, 0), 1), round(rng.uniform(0, 48), 1)]
    return draw([Case(f"a writer's clock is {h:+} h off", {"hours": h}) for h in hours], seed, count)


def skip() -> str:
    """Why clocks cannot be moved here; empty where they can."""
    return "" if shutil.which("cc") else "no C compiler for the few lines that move a clock"


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """Processes whose clock follows an environment variable."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "clock.c").write_text(_SHIM)
    shim = work / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(work / "clock.c"), "-ldl"], check=True)
    victims = Victims(work / "victims", "stages", LD_PRELOAD=str(shim))
    try:
        yield lambda case: disturb(work / "lake", victims, case.values["hours"])
    finally:
        end_processes_of(str(work))
        victims.close()


def disturb(root: Path, victims: Victims, hours: float) -> Outcome:
    """Writers with the right and the wrong clock in turn; what was written last is what counts."""
    shutil.rmtree(root, ignore_errors=True)
    store = DeltaStore(root)

    def run(what: str, skewed: bool, **more: Any) -> None:
        offset = str(int(3600 * hours)) if skewed else "0"
        status = victims(what, root, environment={OFFSET_ENV: offset}, **more)
        hold(status == 0, f"{what} failed: {victims.last['error']}")

    def stage(shift: int, skewed: bool) -> Rows:
        run("fake", skewed, settings={"fake": {"shift": shift}})
        return contents(store, ("pose", "stage_status"))

    run("tests.faults.clocks:add_batch", False)
    first = stage(0, False)
    second = stage(1, True)
    hold(first != second, "the rows of a writer with another clock did not come")
    version = store.version(POSE)
    check_same(stage(1, False), second)
    hold(store.version(POSE) == version, "rows of a writer with another clock were taken for old ones")
    check_same(stage(0, False), first)
    stamps = [h["timestamp"] for h in store.open(POSE).history(limit=3)]
    hold(abs(stamps[1] - stamps[0]) > 3.6e6, "no commit carries the wrong time")
    for number, skewed in enumerate((False, True, False, True)):
        name = f"{number:016x}"
        run("tests.faults.clocks:file_checkpoint", skewed, named={"name": name})
        hold(
            named_checkpoint(store, LATEST)["checkpoint_id"] == name, "the newest checkpoint is not the one filed last"
        )
        run("tests.faults.clocks:promote", skewed, named={"name": name})
        hold(current_id(store) == name, "the current checkpoint is not the one promoted last")
    young = root / "blobs" / "tmp" / "being-written"
    young.parent.mkdir(parents=True, exist_ok=True)
    young.write_bytes(b"half a blob")
    run("tests.faults.clocks:tidy_up", True)
    hold(young.exists(), "a writer with another clock deleted what another one is writing")
    check_clean(store)
    return Outcome("what was written last counts")


# --- in the process with the other clock ---


def add_batch(store: DeltaStore) -> None:
    """Three videos to work on."""
    from tests.pipelines.test_stage import add_videos

    store.ensure_tables()
    add_videos(store, "a.mp4", "b.mp4", "c.mp4")


def file_checkpoint(store: DeltaStore, name: str) -> None:
    """File the result of a training run as the pipeline does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from models.training.checkpoint import METRICS
    from models.training.config import TrainConfig

    out = Path(store.root) / "training" / name
    (out / "final" / "transformer").mkdir(parents=True)
    (out / "final" / "transformer" / "config.json").write_text("{}")
    summary = {"weights_sha256": name * 4, "steps": 1, "final_loss": 1.0, "seconds": 1.0}
    (out / "summary.json").write_text(json.dumps(summary))
    row = {**{f.name: 0.5 for f in METRICS}, "step": 1}
    pq.write_table(pa.Table.from_pylist([row], METRICS), out / "metrics.parquet")
    config = TrainConfig(manifest="", blob_root="", output_dir=str(out), preset="nano", steps=1)
    plan = TrainingPlan(name, config, out, None, [])
    register_checkpoint(store, plan, {"training_set_id": "t"}, Commit())
    hold(store.read(CHECKPOINTS, where={"checkpoint_id": name}).num_rows == 1, "the checkpoint was not filed")


def promote(store: DeltaStore, name: str) -> None:
    """Promote a checkpoint by hand."""
    from pipelines.evaluation.promotion import rollback

    rollback(store, to=name)


def tidy_up(store: DeltaStore) -> None:
    """Delete leftovers, as each ingestion does."""
    tidy(store, scratch(store))


KIND = Kind(
    "clocks",
    "One of the writers has a clock that is hours ahead or behind",
    "rows, newest checkpoint and promoted checkpoint are those written last; what stands is not done again; nothing "
    "that another process is writing is deleted",
    cases,
    session,
    skip,
)
