"""Looks at this machine and says what is missing and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from dagster_project.instance import dagster_home
from models import weights
from models.machine import machine_memory
from models.vlm.settings import ChatSettings
from pipelines.store import DeltaStore

Level = Literal["ok", "note", "error"]
_MARK = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "error": "[red]error[/]"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `error` stops the default pipeline, `note` is about something optional.

    Attributes:
        level: How bad it is.
        text: What was found.
        remedy: The command that gets what the default pipeline lacks.
    """

    level: Level
    text: str
    remedy: str | None = None


def examine() -> list[Finding]:
    """Everything worth knowing about this machine, most basic first."""
    return [*_packages(), *_weights(), *_machine(), *_lake(), *_optional()]


def print_findings(findings: list[Finding], console: Console, brief: bool = False) -> None:
    """One line a finding; with `brief` errors alone, and what is left to do before all is ready."""
    for f in findings:
        if not brief or f.level == "error":
            console.print(_MARK[f.level], f.text, highlight=False)
    if brief and not any(f.level == "error" for f in findings):
        remedies = " and ".join(sorted({f"`{f.remedy}`" for f in findings if f.remedy}))
        console.print(f"ready{remedies and f' after {remedies}'}; `itryon doctor` shows details", highlight=False)


def _packages() -> Iterator[Finding]:
    names = ("dagster", "deltalake", "pyarrow", "av", "mediapipe", "torch", "diffusers", "transformers")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    yield Finding("ok", f"Python {platform.python_version()}; {versions}")
    owners = sorted(
        d.metadata["Name"]
        for d in importlib.metadata.distributions()
        if d.metadata["Name"] and d.metadata["Name"].lower().startswith("opencv-")
    )
    if len(owners) > 1:
        yield Finding(
            "error",
            f"{len(owners)} packages own the folder cv2 ({', '.join(owners)}) and overwrite each other: "
            "pip uninstall all of them, then pip install opencv-contrib-python",
        )


def _weights() -> Iterator[Finding]:
    problems = weights.verify(None)
    if not problems:
        yield Finding("ok", f"weights of the default backends in {weights.cache_root()}")
    for p in problems:
        yield Finding("note", f"{p}; `itryon weights` gets it", remedy="itryon weights")


def _machine() -> Iterator[Finding]:
    memory = machine_memory() / 2**30
    yield Finding("ok", f"{os.cpu_count()} cores, {memory:.0f} GiB of memory")
    import torch

    if torch.cuda.is_available():
        yield Finding("ok", f"GPU {torch.cuda.get_device_name(0)}")
    else:
        yield Finding("note", "no GPU: the nano preset trains here, the 1.3b and 14b presets need one")


def _lake() -> Iterator[Finding]:
    store = DeltaStore()
    try:
        store.ensure_tables()
        if "://" not in store.root:
            tempfile.TemporaryFile(dir=store.root).close()
    except Exception as e:
        yield Finding("error", f"the lake {store.root} cannot be written: {e}; choose another with ITRYON_LAKE")
        return
    yield Finding("ok", f"lake {store.root}")
    if "://" not in store.root:
        free = shutil.disk_usage(store.root).free / 2**30
        yield Finding("ok" if free > 5 else "note", f"{free:.0f} GiB free on its disk")
    yield Finding("ok", f"DAGSTER_HOME {dagster_home()}")


def _optional() -> Iterator[Finding]:
    if importlib.util.find_spec("hamer") is None:
        yield Finding("note", "HaMeR is not installed: hands come from MediaPipe landmarks (README, HaMeR)")
    else:
        yield Finding("ok", "HaMeR is installed; `hands: {backend: hamer}` uses it")
    name = ChatSettings().api_key_env or ""
    key = "set" if os.environ.get(name) else "not set"
    yield Finding("note", f"{name} is {key}; the vlm backends need an endpoint (README, Vision-language models)")
