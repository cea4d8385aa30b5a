"""Which try-on videos a model card shows, the worst and the best, and the pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.publish.evaluation import TryOn
from pipelines.store import DeltaStore

FOLDER = "figures"
_LOWER_IS_BETTER = {"lpips", "lpips (legacy)"}
_PAIRED = ("lpips", "ssim", "lpips (legacy)", "ssim (legacy)")
# What tells good from bad where there is a ground truth, and where there is none.
_MEASURES = {True: (*_PAIRED, "interactions"), False: ("interactions",)}
_NAMES = {m: m.replace("lpips", "LPIPS").replace("ssim", "SSIM") for m in _PAIRED}
_NAMES["interactions"] = "share of interactions done"
_UNRANKED = 2


@dataclass(frozen=True)
class Choice:
    """A try-on video to show.

    Attributes:
        video: The video.
        place: worst, best, only, or an example where nothing ranks them.
        why: By what it was chosen, for people.
        measure: What it was chosen by; None where nothing ranks them.
    """

    video: TryOn
    place: str
    why: str
    measure: str | None = None

    @property
    def file(self) -> str:
        """Path of its picture, relative to the model card."""
        setting = "paired" if self.video.paired else "unpaired"
        return f"{FOLDER}/{setting}-{self.place}-{self.video.tryon_id}.jpg"

    @property
    def also(self) -> list[str]:
        """What else was measured of it, for people."""
        values = self.video.values
        found = [f"{_NAMES[m]} {values[m]:.3f}" for m in _PAIRED if m in values and m != self.measure]
        if self.video.judged:
            done = round(values["interactions"] * self.video.judged)
            found.append(f"{done} of {self.video.judged} interactions judged done")
        return found


def choose(videos: Sequence[TryOn]) -> list[Choice]:
    """The worst and the best video of each setting, paired first.

    Paired ones are ranked by LPIPS (SSIM where there is none; by mode legacy where there is neither), unpaired ones by
    the share of their interactions that were done. Where nothing ranks them, two are shown that their identities draw.
    Videos that could not be made, or are gone, cannot be shown.
    """
    chosen: list[Choice] = []
    for paired in (True, False):
        there = [v for v in videos if v.paired == paired and v.reason is None and v.side_by_side_uri]
        measure = next((m for m in _MEASURES[paired] if any(m in v.values for v in there)), None)
        if measure is None:
            why = f"one of {len(there)}, drawn by its identity: nothing that was measured ranks them"
            if len(there) == 1:
                why = "the only one"
            for number, video in enumerate(sorted(there, key=lambda v: v.tryon_id)[:_UNRANKED], 1):
                chosen.append(Choice(video, f"example{number}", why))
            continue
        sign = 1 if measure in _LOWER_IS_BETTER else -1
        ranked = sorted((v for v in there if measure in v.values), key=lambda v: (sign * v.values[measure], v.tryon_id))
        ends = [("worst", ranked[-1]), ("best", ranked[0])] if len(ranked) > 1 else [("only", ranked[0])]
        for place, video in ends:
            value = video.values[measure]
            level = sum(v.values[measure] == value for v in ranked)
            among = f"{place} of {len(ranked)} by" if place != "only" else "the only one with a"
            ties = f", which {level} of them have" if level > 1 else ""
            chosen.append(Choice(video, place, f"{among} {_NAMES[measure]}: {value:.3f}{ties}", measure))
    return chosen


def draw(store: DeltaStore, choices: Sequence[Choice], folder: Path) -> None:
    """Write the picture of each choice below `folder`.

    Args:
        store: The lake.
        choices: From `choose`.
        folder: The published folder.

    Raises:
        pipelines.video.VideoError: A video of the lake cannot be read.
    """
    from pipelines.previews.sheets import tryon_moments

    (folder / FOLDER).mkdir(exist_ok=True)
    for choice in choices:
        video = choice.video
        assert video.side_by_side_uri is not None
        setting = "its own garment" if video.paired else "another garment"
        picture = tryon_moments(
            store.blobs.local_path(video.side_by_side_uri),
            start=video.start_frame,
            num_frames=video.num_frames,
            title=f"{video.video_id} in {setting}",
            note=choice.why,
        )
        (folder / choice.file).write_bytes(picture)
