"""Runs the command line and kills it at a chosen moment: the other half of `test_kills`.

One process imports everything once and forks a child, in a session of its own, for every run that a line on its
standard input asks for: `{"arguments": [...], "moment": "after:pose", "whole_group": true}`. It answers with one JSON
line holding the child's exit status. Workers and the trainer are started by the child as in any other run.

Moments: `none`; `flush`, when a blob's bytes are written under a temporary name; `blob:<n>`, when the n-th blob is
stored; `before:<table>` and `after:<table>`, around the commit of a table (`after:stage_status/pose`: of one stage's
status rows); `file:<pattern>`, as soon as such a path is below the lake.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def die(whole_group: bool) -> None:
    if whole_group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, whole_group: bool) -> None:
    """Make this process kill itself, or its whole group, at the moment."""
    from pipelines.store import blobs, delta

    kind, _, what = moment.partition(":")
    if kind in ("before", "after"):
        replace = delta.DeltaStore.replace

        def killing_replace(self, spec, rows, where, commit):
            hit = what in (spec.name, f"{spec.name}/{where.get('stage')}")
            if hit and kind == "before":
                die(whole_group)
            version = replace(self, spec, rows, where, commit)
            if hit:
                die(whole_group)
            return version

        delta.DeltaStore.replace = killing_replace
    elif kind == "flush":
        blobs.os.fsync = lambda descriptor: die(whole_group)
    elif kind == "blob":
        put_file, stored = blobs.BlobStore.put_file, []

        def killing_put_file(self, path, suffix=None):
            stored.append(put_file(self, path, suffix))
            if len(stored) == int(what):
                die(whole_group)
            return stored[-1]

        blobs.BlobStore.put_file = killing_put_file
    elif kind == "file":
        lake = Path(os.environ["ITRYON_LAKE"])

        def watch() -> None:
            while not any(lake.glob(what)):
                time.sleep(0.002)
            die(whole_group)

        threading.Thread(target=watch, daemon=True).start()
    elif kind != "none":
        raise ValueError(moment)


def serve() -> None:
    """Fork a run for every line of standard input."""
    import pipelines.clips.samples
    import pipelines.clips.stage
    import pipelines.evaluation.metrics
    import pipelines.tryon.batch  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            os.dup2(1, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ["ITRYON_LAKE"] = request["lake"]
            arm(request["moment"], request["whole_group"])
            from dagster_project.cli import app

            try:
                app(request["arguments"])
            except SystemExit as e:
                sys.stdout.flush()
                os._exit(int(e.code or 0))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    serve()
