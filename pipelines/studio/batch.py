"""Renders a batch of clips in landing-folder form, in parallel; what is whole is not rendered again."""

from __future__ import annotations

import json
import os
import queue
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.ingest.manifest import MANIFEST
from pipelines.studio.mark import STUDIO_MARK, TRUTH
from pipelines.studio.settings import CODE_VERSION, StudioSettings
from pipelines.workers import SPAWN, worker_pool

_PERFORMED = {"idle": "stands", "walk": "walks and turns", "hover": "gestures", "rest": "rests a hand on the clothes"}
_QUIET = "moves a hand"


@dataclass
class StudioReport:
    """What a batch has become.

    Attributes:
        folder: Batch folder.
        clips: Clips in it.
        frames: Frames in them.
        interaction_frames: Frames in which an interaction happens.
        performances: Performance -> clips.
        failures: Clip number -> why it could not be rendered.
    """

    folder: Path
    clips: int = 0
    frames: int = 0
    interaction_frames: int = 0
    performances: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def interaction_share(self) -> float:
        """Share of frames in which an interaction happens."""
        return self.interaction_frames / self.frames if self.frames else 0.0


def batch_settings(folder: Path) -> StudioSettings | None:
    """The settings that a batch folder was rendered with; None where it is no studio batch."""
    mark = folder / TRUTH / STUDIO_MARK
    if not mark.is_file():
        return None
    values = json.loads(mark.read_text())
    return StudioSettings.model_validate({k: v for k, v in values.items() if k != "version"})


def settings_to_render(folder: Path, asked: StudioSettings) -> StudioSettings:
    """The settings to render a batch folder with: its own where it is a studio batch, whoever rendered it.

    Args:
        folder: Batch folder.
        asked: What is asked for; the defaults ask for whatever is there to be completed.

    Raises:
        FileExistsError: The folder is a batch of other settings than those asked for.
    """
    own = batch_settings(folder)
    if own is None:
        return asked
    here, wanted, unasked = (s.model_dump(exclude={"workers"}) for s in (own, asked, StudioSettings()))
    if wanted not in (here, unasked):
        differing = ", ".join(f"{k} {here[k]} and not {wanted[k]}" for k in here if here[k] != wanted[k])
        raise FileExistsError(
            f"{folder} was rendered with {differing}: name another batch, or give the same settings, or none, to "
            "complete this one"
        )
    return own.model_copy(update={"workers": asked.workers})


def render_batch(
    settings: StudioSettings,
    folder: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> StudioReport:
    """Render a batch into a folder.

    Run again after a kill, it renders what is missing; with more clips it adds some; clips of other settings in the
    folder are rendered anew. Files of clips that are not of the batch (any more), or not whole, are removed.

    Args:
        settings: The studio.
        folder: Where to; made if needed.
        on_progress: Called with frames done and frames in all.

    Raises:
        ValueError: No wanted action suits any garment.
        FileExistsError: The folder holds something that is not a studio batch.
        FileNotFoundError: The folder of fabrics holds no photos.
    """
    from pipelines.studio.clip import remove_others, render_clip, settings_digest
    from pipelines.studio.plan import plan_clip

    mark = folder / TRUTH / STUDIO_MARK
    if folder.exists() and any(folder.iterdir()) and not mark.is_file():
        raise FileExistsError(f"{folder} is not empty and holds no studio batch: name another folder")
    plan_clip(settings, 0)
    settings_digest(settings)
    mark.parent.mkdir(parents=True, exist_ok=True)
    _write(mark, json.dumps({"version": CODE_VERSION, **settings.model_dump(exclude={"workers"})}, indent=1) + "\n")
    report = StudioReport(folder)
    total = settings.clips * settings.frames
    workers = min(settings.workers or os.cpu_count() or 1, settings.clips)
    records: dict[int, dict[str, Any]] = {}
    ticks: Any = SPAWN.Queue()
    with _counted(ticks, total, on_progress), worker_pool(workers, 1, _send_to, ticks) as pool:
        futures: dict[int, Future] = {
            i: pool.schedule(_render, args=(render_clip, settings, i, folder)) for i in range(settings.clips)
        }
        for index, future in futures.items():
            try:
                records[index] = future.result()
            except Exception as e:  # one clip that cannot be rendered must not cost the others
                report.failures[index] = f"{type(e).__name__}: {e}"
    # What the manifest does not list would be ingested without labels.
    remove_others(settings, folder)
    entries = [entry for index, record in sorted(records.items()) for entry in _entries(settings, index, record)]
    lines = [json.dumps(entry, sort_keys=True) for entry in entries]
    _write(folder / MANIFEST, "".join(f"{line}\n" for line in lines))
    for record in records.values():
        report.clips += 1
        report.frames += settings.frames
        report.interaction_frames += sum(s["end_frame"] - s["start_frame"] for s in record["spans"])
        performance = record["performance"]
        report.performances[performance] = report.performances.get(performance, 0) + 1
    return report


def _entries(settings: StudioSettings, index: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the manifest that a clip gives: its own, and its twins' where those are clips too."""
    from pipelines.studio.plan import plan_clip

    entry = {
        "video": record["video"],
        "garment": record["garment"],
        "garment_category": record["garment_category"],
        "tryon_garment": record["counterfactual_garment"],
        "split": plan_clip(settings, index).split,
    }
    if settings.labels:
        entry["actions"] = [
            {
                "action": s["action"],
                "start_s": s["start_frame"] / settings.fps,
                "end_s": s["end_frame"] / settings.fps,
                "text": s["text"],
            }
            for s in record["spans"]
        ]
        doing = record["spans"][0]["text"] if record["spans"] else _PERFORMED.get(record["performance"], _QUIET)
        entry["global_caption"] = _caption(settings, record, doing)
    if not settings.twins:
        return [entry]
    other = entry | {"garment": entry["tryon_garment"], "tryon_garment": entry["garment"]}
    twins = [entry, other | {"video": record["counterfactual"]}]
    if record["undone"]:
        said = {"actions": [], "global_caption": _caption(settings, record, _QUIET)} if settings.labels else {}
        twins.append(other | {"video": record["undone"]} | said)
    return twins


def _caption(settings: StudioSettings, record: dict[str, Any], doing: str) -> str:
    person = f"A person in a {record['garment_type'].replace('_', ' ')}"
    return person if settings.neutral else f"{person} {doing}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


class _counted:
    """Adds up frames that workers report."""

    def __init__(self, ticks: Any, total: int, on_progress: Callable[[int, int], None] | None):
        self._ticks, self._total, self._on_progress = ticks, total, on_progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def _drain(self) -> None:
        done = 0
        while not self._stop.is_set():
            try:
                done += self._ticks.get(timeout=0.2)
            except queue.Empty:
                continue
            if self._on_progress:
                self._on_progress(done, self._total)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# --- inside a worker ---

_ticks: Any = None


def _send_to(ticks: Any) -> None:
    global _ticks
    _ticks = ticks


def _render(
    render: Callable[..., dict[str, Any]], settings: StudioSettings, index: int, folder: Path
) -> dict[str, Any]:
    return render(settings, index, folder, lambda n: _ticks.put(n))
