"""What the embedded judge sees of rendered clips, kept in files: fitting it again takes no decoding.

Each clip gives more than its cases: its videos may change roles, so that the other garment is the source's and the
clip's own the result's, or both wear the same one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contact.network import CLASSES
from models.judges.measures.cells import HandCells, cover_cells, joined, moved_cells, own_cells, pair_cells
from models.judges.measures.network import NOTHING
from models.judges.measures.train import Sample
from models.judges.measures.windows import BEFORE_S, SIDES, HandView, MomentSampling, hand_views, moments
from pipelines.captions.contact import ContactReader
from pipelines.evaluation.evidence import AnnotatedSource, read_pictures
from pipelines.evaluation.judges.cases import DONE, PANTOMIME, UNDONE, WRONG_TIME, JudgeCase
from pipelines.evaluation.judges.report import look_like
from pipelines.evaluation.judges.settings import Pictures as Look
from pipelines.store import DeltaStore

LOOKS: tuple[Look, ...] = ("rendered", "nano")
_SOURCE, _OTHER = "source", "other"
_ROLES = {
    DONE: ((_SOURCE, _OTHER), (_OTHER, _SOURCE), (_SOURCE, _SOURCE), (_OTHER, _OTHER)),
    UNDONE: ((_SOURCE, UNDONE), (_OTHER, UNDONE)),
    PANTOMIME: ((_SOURCE, _OTHER), (_OTHER, _SOURCE)),
    WRONG_TIME: ((_SOURCE, _OTHER), (_OTHER, _SOURCE)),
}
"""Kind of case -> source and result of the examples that it gives."""
_WINDOWS = 2
_CLEARLY = 0.03
"""Difference of a cell between done and undone that counts as moved to two thirds; 1 is from black to white."""


@dataclass(frozen=True)
class SeenClip:
    """All that the judge may see of one clip.

    Attributes:
        seed: Of the clip.
        cases: Its cases.
        arrays: Parts of `HandCells`. Names begin with span and side; `numbers`, `summary`, `cover`, `own` of a video,
            `pair` of two, and `moved` (what the interaction changes in the other garment) follow, and the window where
            there are two.
    """

    seed: int
    cases: tuple[JudgeCase, ...]
    arrays: dict[str, np.ndarray]

    def sides(self, span: tuple[int, int]) -> list[str]:
        """Hands of which something is known."""
        return [s for s in SIDES if f"{_hand(span, s)} numbers" in self.arrays]

    def cells(self, span: tuple[int, int], side: str, source: str, result: str, look: Look) -> HandCells:
        """One hand with two of the videos as source and result."""
        of, name = _hand(span, side), f"{result} {look}"
        windows = [
            joined(
                self.arrays[f"{of} own {name} {w}"],
                self.arrays[f"{of} own {source} {LOOKS[0]} {w}"],
                self.arrays[f"{of} pair {source} {name} {w}"],
                self.arrays[f"{of} cover {w}"],
            )
            for w in range(_WINDOWS)
        ]
        return HandCells(windows[0], windows[1], self.arrays[f"{of} numbers"], self.arrays[f"{of} summary"])

    def of_case(self, case: JudgeCase, look: Look) -> list[HandCells]:
        """What the judge sees of a case, of each hand."""
        result = UNDONE if case.kind == UNDONE else _OTHER
        return [self.cells(case.span, s, _SOURCE, result, look) for s in self.sides(case.span)]

    def samples(self) -> Iterator[Sample]:
        """Examples to learn from."""
        for case in self.cases:
            for side in self.sides(case.span):
                acts, done = side in case.hands, case.kind in (DONE, UNDONE)
                action = CLASSES.index(case.action) if done and acts else NOTHING
                # Of the other hand's deed nothing is asked; where nothing is done, no hand did anything.
                follows = None if done and not acts else case.kind == DONE
                moved = self._moved(case, side)
                for source, result in _ROLES.get(case.kind, ()):
                    for look in _looks(source, result):
                        seen = self.cells(case.span, side, source, result, look)
                        yield Sample(case.kind if acts else "idle", seen, action, follows, moved)

    def _moved(self, case: JudgeCase, side: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Where the interaction moves cloth, see `Sample.moved`. The source's garment is taken to move as the other."""
        if case.kind == WRONG_TIME:
            return None
        of = _hand(case.span, side)
        windows = []
        for w in range(_WINDOWS):
            still = np.zeros_like(self.arrays[f"{of} cover {w}"][:, 0], np.float32)
            if case.kind == PANTOMIME:
                windows.append(np.stack([still, still], 1))
            elif (apart := self.arrays.get(f"{of} moved {w}")) is not None:
                # Before the span both videos show the same, and differ by their compression only.
                apart = apart.astype(np.float32) - np.quantile(apart[: len(BEFORE_S)], 0.98)
                there = 1 - np.exp(-apart.clip(0) / _CLEARLY)
                windows.append(np.stack([there, there if case.kind == DONE else still], 1))
        return (windows[0], windows[1]) if len(windows) == _WINDOWS else None


def see_clip(
    store: DeltaStore, video: dict[str, Any], cases: Sequence[JudgeCase], reader: ContactReader, picture_height: int
) -> SeenClip:
    """Decode the videos of a clip and look at them.

    Args:
        store: The lake.
        video: Row of `videos`.
        cases: Its cases.
        reader: The contact network.
        picture_height: As the judge's settings say.
    """
    sampling = MomentSampling(picture_height)
    annotated = AnnotatedSource(store, video, reader)
    videos = {_SOURCE: annotated.path}
    videos |= {UNDONE if c.kind == UNDONE else _OTHER: store.blobs.local_path(c.result_uri) for c in cases}
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as work:
        paths = {f"{name} {look}": look_like(path, look, Path(work)) for name, path in videos.items() for look in LOOKS}
        for span in sorted({c.span for c in cases}):
            pictures: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {s: {} for s in SIDES}
            request = annotated.request(sampling, annotated.path, cases[0].action, cases[0].text, span)
            index, _ = moments(request)
            height, width = request.source.shape[1:3]
            views = hand_views(request)
            for name, path in paths.items():
                shown = read_pictures(path, request.frames.tolist(), width, height)
                for side, view in views.items():
                    pictures[side][name] = view.of(shown[index])
            for side, view in views.items():
                arrays |= {f"{_hand(span, side)} {k}": v for k, v in _seen(view, pictures[side]).items()}
    return SeenClip(cases[0].seed, tuple(cases), arrays)


def _seen(view: HandView, pictures: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of one hand by name, see `SeenClip.arrays`."""
    out = {"numbers": view.numbers, "summary": view.summary}
    for w, masks in enumerate(view.masks):
        out[f"cover {w}"] = cover_cells(masks)
        own = own_cells([p[w] for p in pictures.values()], masks, view.in_phase)
        out |= {f"own {name} {w}": cells for name, cells in zip(pictures, own)}
        if UNDONE in {name.split()[0] for name in pictures}:
            done, undone = (pictures[f"{name} {LOOKS[0]}"][w] for name in (_OTHER, UNDONE))
            out[f"moved {w}"] = moved_cells(done, undone)
        for source in (_SOURCE, _OTHER):
            for result in sorted({name.split()[0] for name in pictures}):
                for look in _looks(source, result):
                    pair = (pictures[f"{source} {LOOKS[0]}"][w], pictures[f"{result} {look}"][w])
                    out[f"pair {source} {result} {look} {w}"] = pair_cells(*pair, masks)
    return out


def _looks(source: str, result: str) -> tuple[Look, ...]:
    """A video that is both source and result is another one only through the autoencoder."""
    return LOOKS if source != result else LOOKS[1:]


def _hand(span: tuple[int, int], side: str) -> str:
    return f"{span[0]}-{span[1]} {side}"


def save_clip(clip: SeenClip, path: Path) -> None:
    """Write a clip to a file."""
    notes = {"seed": clip.seed, "cases": [asdict(c) for c in clip.cases]}
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, notes=np.array(json.dumps(notes)), **clip.arrays)  # type: ignore[arg-type]
    partial.replace(path)


def load_clip(path: Path) -> SeenClip:
    """Read what `save_clip` wrote."""
    with np.load(path) as file:
        arrays = dict(file)
    notes = json.loads(str(arrays.pop("notes")))
    cases = [JudgeCase(**c | {"span": tuple(c["span"]), "hands": tuple(c["hands"])}) for c in notes["cases"]]
    return SeenClip(notes["seed"], tuple(cases), arrays)
