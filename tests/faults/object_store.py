"""An object store that refuses, errs, waits, or takes a request and hangs up before it answers."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.settings import IngestSettings
from pipelines.stage import WorkerSettings, run_stage
from pipelines.store import DeltaStore
from pipelines.store.errors import LakeError
from tests.faults.lakes import BATCH, Rows, check_no_more, check_same, contents, hold, make_source, names_remedy
from tests.faults.proxy import Proxy, Trouble
from tests.faults.suite import Case, Kind, Outcome, Runner, draw, environment
from tests.pipelines.fake_stages import FakePose, FakeSettings
from tests.s3_store import S3Store

TABLES = ("videos", "garments", "pose", "stage_status")
OPTIONS = {"max_retries": "3", "retry_timeout": "20s"}
"""Of delta-rs, which gives up after three minutes by default."""


def cases(seed: int, count: int | None) -> list[Case]:
    """Stores that are gone from some request on, that err, that lose answers, that are slow."""
    rng = random.Random(seed + 3)
    found: list[tuple[str, dict[str, Any]]] = [("refuses every request", {"down_after": 0})]
    for _ in range(7):
        after = rng.randrange(10, 160)
        found.append((f"refuses from request {after} on", {"down_after": after}))
    for share, status in ((0.1, 500), (0.3, 503), (0.6, 503)):
        found.append((f"answers {share:.0%} of the requests by {status}", {"errors": share, "status": status}))
    for share in (0.1, 0.2, 0.4):
        found.append((f"does {share:.0%} of the requests without an answer", {"lost": share}))
    for delay in (0.1, 0.4):
        found.append((f"waits up to {delay} s before each request", {"delay_s": delay}))
    made = [Case(name, {**values, "seed": rng.randrange(1 << 30)}) for name, values in found]
    return draw(made, seed, count)


def skip() -> str:
    """Why there is no server here; empty where there is one."""
    return "" if importlib.util.find_spec("moto") else "the package moto is not installed"


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """A server, a proxy before it, and the rows of an undisturbed lake."""
    import boto3

    shutil.rmtree(work, ignore_errors=True)
    make_source(work / "source", videos=1)
    with S3Store() as server, Proxy(server.environment["AWS_ENDPOINT_URL"]) as proxy:
        around = {"XDG_CACHE_HOME": str(work / "cache"), "ITRYON_LANDING": str(work / "landing")}
        with environment(**server.environment, **around):
            client = boto3.client("s3", region_name="us-east-1")
            with environment(AWS_ENDPOINT_URL=proxy.url):
                yield _Store(work, client, proxy)


class _Store:
    def __init__(self, work: Path, client: Any, proxy: Proxy):
        self.work, self.client, self.proxy = work, client, proxy
        self.wanted: Rows = {}

    def lake(self) -> DeltaStore:
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        store = DeltaStore(f"s3://{bucket}/lake", OPTIONS)
        shutil.rmtree(self.work / "landing", ignore_errors=True)
        land(self.work / "source" / "videos", store, BATCH)
        return store

    def work_on(self, store: DeltaStore) -> list[str]:
        """What a run does: tables, ingestion with blobs, a stage. Returns the reasons of its error rows."""
        from pipelines.store import TABLES as ALL

        store.ensure_tables(ALL[n] for n in TABLES)
        done = ingest_batch(store, BATCH, IngestSettings(workers=1))
        report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
        return [r for p, r in done.problems.items() if p != "bad.mp4"] + list(report.failures.values())

    def __call__(self, case: Case) -> Outcome:
        if not self.wanted:
            undisturbed = self.lake()
            self.work_on(undisturbed)
            self.wanted = contents(undisturbed, TABLES)
        store = self.lake()
        self.proxy.trouble(Trouble(**case.values))
        said = []
        try:
            said = self.work_on(store)
        except LakeError as e:
            said = [str(e)]
        numbers = self.proxy.trouble(Trouble())
        hold(numbers["injected"], f"nothing happened to any of {numbers['requests']} requests")
        for text in said:
            hold(names_remedy(text), f"an error names no remedy: {text}")
        mine = contents(store, TABLES)
        check_no_more(mine, self.wanted)
        self.check_blobs(store, mine)
        hold(not self.work_on(store), "the run with the store back failed")
        mine = contents(store, TABLES)
        check_same(mine, self.wanted)
        self.check_blobs(store, mine)
        ending = "the run ended with an error that names the remedy" if said else "the run came through"
        return Outcome(ending, {"requests disturbed": numbers["injected"]})

    def check_blobs(self, store: DeltaStore, rows: Rows) -> None:
        for row in [*rows["videos"], *rows["garments"]]:
            for uri in (row["uri"], row.get("mask_uri")):
                if uri:
                    store.blobs.verify(uri)


KIND = Kind(
    "object-store",
    "An S3 server that refuses from some request on, answers 500 or 503, does a request without answering, or is slow",
    "the run comes through, or its error says what to do; no row lost or doubled; each blob hashes to its name; with "
    "the store back the same command ends with the rows of an undisturbed run",
    cases,
    session,
    skip,
)
