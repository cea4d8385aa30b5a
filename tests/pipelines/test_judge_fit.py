"""Fitting the embedded judge: what rendered clips are examples of, and the score that counts as done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.contact.network import CLASSES
from models.judges.measures.cells import CHANNELS, COVER, OWN, PAIR
from models.judges.measures.network import NOTHING
from models.judges.measures.windows import BEFORE_S, MOMENTS, NUMBERS, SUMMARY
from pipelines.evaluation.judges import fit
from pipelines.evaluation.judges.cases import DONE, PANTOMIME, UNDONE, WRONG_ACTION, WRONG_TIME, JudgeCase
from pipelines.evaluation.judges.fit import ScoredCase, best_threshold, folds
from pipelines.evaluation.judges.samples import LOOKS, SeenClip, load_clip, save_clip
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import STAGE_STATUS
from tests.pipelines.annotator_scene import BATCH
from tests.pipelines.judge_scene import fill_cases

SPAN, FREE = (6, 18), (0, 6)
SHAPES = ((12, 12), (6, 12))
VIDEOS = ("source", "other", "undone")


def case(kind: str, action: str = "operate_zipper", span: tuple[int, int] = SPAN) -> JudgeCase:
    return JudgeCase("v", 7, kind, action, None, span, "text", kind == DONE, "uri", ("right",))


def clip(*cases: JudgeCase) -> SeenClip:
    """Each video's cells hold a number of its own: 1, 2, 3 as rendered, 11, 12, 13 through the autoencoder."""
    arrays: dict[str, np.ndarray] = {}
    for span in {c.span for c in cases}:
        for side in ("left", "right"):
            of = f"{span[0]}-{span[1]} {side}"
            arrays[f"{of} numbers"] = np.zeros((MOMENTS, len(NUMBERS)), np.float32)
            arrays[f"{of} summary"] = np.zeros(len(SUMMARY), np.float32)
            for w, shape in enumerate(SHAPES):
                arrays[f"{of} cover {w}"] = np.zeros((MOMENTS, len(COVER), *shape), np.float16)
                apart = np.full((MOMENTS, *shape), 0.01, np.float16)
                apart[len(BEFORE_S) :, 2, 2] = 0.31
                arrays[f"{of} moved {w}"] = apart
                for n, video in enumerate(VIDEOS, 1):
                    for k, look in enumerate(LOOKS):
                        own = np.full((MOMENTS, len(OWN), *shape), n + 10 * k, np.float16)
                        arrays[f"{of} own {video} {look} {w}"] = own
                        for source in VIDEOS[:2]:
                            pair = np.zeros((MOMENTS, len(PAIR), *shape), np.float16)
                            arrays[f"{of} pair {source} {video} {look} {w}"] = pair
    return SeenClip(7, cases, arrays)


def videos_of(body: np.ndarray) -> tuple[int, int]:
    """Numbers of result and source."""
    return tuple(int(body[0, CHANNELS.index(f"{who}_changed"), 0, 0]) for who in ("result", "source"))  # type: ignore[return-value]


def test_a_clip_is_an_example_in_all_roles_of_its_videos() -> None:
    seen = clip(case(DONE), case(UNDONE), case(WRONG_ACTION, "adjust_collar"), case(WRONG_TIME, span=FREE))
    samples = list(seen.samples())
    mine = {k: [videos_of(s.seen.body) for s in samples if s.kind == k] for k in (DONE, UNDONE, WRONG_TIME)}
    # What is both source and result differs through the autoencoder only; the source is always as rendered.
    assert sorted(mine[DONE]) == sorted([(2, 1), (12, 1), (1, 2), (11, 2), (11, 1), (12, 2)])
    assert sorted(mine[UNDONE]) == sorted([(3, 1), (13, 1), (3, 2), (13, 2)])
    assert sorted(mine[WRONG_TIME]) == sorted([(2, 1), (12, 1), (1, 2), (11, 2)])
    acting = [s for s in samples if s.kind in (DONE, UNDONE)]
    assert {(s.kind, s.action, s.follows) for s in acting} == {
        (DONE, CLASSES.index("operate_zipper"), True),
        (UNDONE, CLASSES.index("operate_zipper"), False),
    }
    # The other hand does nothing, and what its side of the result shows is not its deed.
    idle = {(s.action, s.follows, s.moved is None) for s in samples if s.kind == "idle"}
    assert idle == {(NOTHING, None, False), (NOTHING, False, True)}


def test_cloth_moves_where_done_and_undone_differ_by_more_than_compression() -> None:
    by_kind = {s.kind: s for s in clip(case(DONE), case(UNDONE)).samples() if s.kind != "idle"}
    by_kind |= {s.kind: s for s in clip(case(PANTOMIME)).samples() if s.kind != "idle"}
    for kind, where in ((DONE, (True, True)), (UNDONE, (True, False)), (PANTOMIME, (False, False))):
        moved = by_kind[kind].moved
        assert moved is not None
        for window, shape in zip(moved, SHAPES):
            assert window.shape == (MOMENTS, 2, *shape) and np.count_nonzero(window[: len(BEFORE_S)]) == 0
            for video, moves in enumerate(where):
                assert window[-1, video, 2, 2] == pytest.approx(1 - np.exp(-0.3 / 0.03) if moves else 0, abs=1e-3)
                assert np.count_nonzero(window[-1, video]) == int(moves)


def test_what_the_judge_is_asked_shows_the_result_of_the_case() -> None:
    seen = clip(case(DONE), case(UNDONE))
    said = {(c.kind, look): [videos_of(h.body) for h in seen.of_case(c, look)] for c in seen.cases for look in LOOKS}
    assert said == {
        (DONE, "rendered"): [(2, 1)] * 2,
        (DONE, "nano"): [(12, 1)] * 2,
        (UNDONE, "rendered"): [(3, 1)] * 2,
        (UNDONE, "nano"): [(13, 1)] * 2,
    }


def test_seen_clips_come_back_from_their_files(tmp_path: Path) -> None:
    seen = clip(case(DONE), case(UNDONE))
    save_clip(seen, tmp_path / "clip.npz")
    again = load_clip(tmp_path / "clip.npz")
    assert (again.seed, again.cases) == (seen.seed, seen.cases) and again.arrays.keys() == seen.arrays.keys()
    assert all(np.array_equal(again.arrays[k], v) for k, v in seen.arrays.items())


def test_every_clip_is_left_out_once() -> None:
    parts = folds(11, 4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(11)) and {len(p) for p in parts} == {2, 3}
    assert [p.tolist() for p in parts] == [p.tolist() for p in folds(11, 4)]


def test_the_score_that_counts_as_done_lies_between_those_of_both_truths() -> None:
    scored = [
        ScoredCase(n, look, case(kind), score)
        for look in LOOKS
        for n, (kind, score) in enumerate([(DONE, 0.7), (DONE, 0.61), (UNDONE, 0.4), (PANTOMIME, 0.1)])
    ]
    # All from 0.41 to 0.61 agree with the truth; the middle is the least likely to be wrong.
    assert best_threshold(scored, 4) == pytest.approx(0.51, abs=0.011)
    assert scored[2].answer(0.41).success is False and scored[2].answer(0.4).success is True
    assert ScoredCase(0, "nano", case(DONE), None).answer(0.5).success is None


def test_a_clip_is_seen_again_where_its_annotations_changed(
    lake: DeltaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cases(lake, tmp_path)
    seen: list[str] = []

    def see(store: DeltaStore, video: dict[str, Any], cases: list[JudgeCase], *_: object) -> SeenClip:
        seen.append(video["video_id"])
        return clip(*cases)

    monkeypatch.setattr(fit, "see_clip", see)
    first = fit.see_batch(lake, BATCH, tmp_path / "seen")
    assert fit.see_batch(lake, BATCH, tmp_path / "seen") == first and len(seen) == len(first) > 0
    rows = lake.read(STAGE_STATUS, where={"batch": BATCH, "stage": "hands"}).to_pylist()
    rows = [r | {"fingerprint": "another"} if r["video_id"] == seen[0] else r for r in rows]
    where = {"batch": BATCH, "stage": "hands"}
    lake.replace(STAGE_STATUS, pa.Table.from_pylist(rows, STAGE_STATUS.schema), where, Commit())
    again = fit.see_batch(lake, BATCH, tmp_path / "seen")
    assert again[0] != first[0] and again[1:] == first[1:] and seen[len(first) :] == [seen[0]]
