"""Cases to judge, made of a rendered batch: the source is a clip, the result the same clip in the other garment.

| case | result | caption | truth |
|---|---|---|---|
| done | the interaction in the other garment | true | done |
| undone | hands move alike, the other garment stays as it was | true | not done |
| pantomime | mimed in the source and in the other garment | the mimed action | not done |
| wrong_action | the interaction in the other garment | another action that suits the garment | not done |
| wrong_time | the interaction in the other garment | true, but of a span in which nothing is done | not done |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.captions.spans import Span, runs
from pipelines.evaluation.annotators.captions import true_spans
from pipelines.store import DeltaStore
from pipelines.store.schemas import STAGE_STATUS, VIDEOS
from pipelines.store.studio_schemas import JUDGE_CASE_KINDS, STUDIO_CLIPS, STUDIO_FRAMES
from pipelines.studio.motion import ACTIONS_OF, Script
from pipelines.studio.motion.timeline import Phases
from pipelines.studio.sentences import sentence

DONE, UNDONE, PANTOMIME, WRONG_ACTION, WRONG_TIME = JUDGE_CASE_KINDS
STAGES = ("pose", "hands", "agnostic_masks")
_SHORTEST_S = 0.3
"""Where less time is free of any interaction, there is no case of the wrong time."""


class NothingToJudge(LookupError):
    """The batch yields no cases; the message says why and what to do."""


@dataclass(frozen=True)
class JudgeCase:
    """One question with a known answer.

    Attributes:
        video_id: The source.
        seed: Seed of its clip.
        kind: See the module.
        action: Action that the caption names.
        done_action: Action that the result shows in its own time; None where it shows none.
        span: Half-open, frames.
        text: Caption.
        expected: Whether the interaction is done as captioned.
        result_uri: Blob of the result.
        hands: Hands that do or mime the interaction in its own time.
    """

    video_id: str
    seed: int
    kind: str
    action: str
    done_action: str | None
    span: Span
    text: str
    expected: bool
    result_uri: str
    hands: tuple[str, ...] = ()


def read_cases(
    store: DeltaStore, batch: str, most_clips: int | None = None
) -> list[tuple[dict[str, Any], list[JudgeCase]]]:
    """Rows of `videos` of a batch with the cases of each, in the order of files.

    Args:
        store: The lake.
        batch: Rendered with `undone`, and annotated up to `agnostic_masks`.
        most_clips: Use that many clips only.

    Raises:
        NothingToJudge: The batch has no truth, no undone videos, or was not annotated.
    """
    clips = store.read(STUDIO_CLIPS, where={"batch": batch}).to_pylist()
    if not clips:
        raise NothingToJudge(
            f"batch {batch!r} has no truth in the lake: only rendered batches have one. Render one with `itryon studio "
            f"--batch {batch} --undone --interaction-share 0.37 --pantomime-share 1`, then `itryon materialize --batch "
            f"{batch} --to agnostic_masks`"
        )
    if not any(c["undone_uri"] for c in clips):
        raise NothingToJudge(
            f"batch {batch!r} shows no interaction left undone: render it with `itryon studio --undone`"
        )
    done = {
        stage: {
            r["video_id"]
            for r in store.read(STAGE_STATUS, where={"batch": batch, "stage": stage}).to_pylist()
            if r["status"] == "ok"
        }
        for stage in STAGES
    }
    videos = {r["video_id"]: r for r in store.read(VIDEOS, where={"batch": batch}).to_pylist() if r["status"] == "ok"}
    out = []
    for clip in clips:
        video = videos.get(clip["video_id"])
        if video is None or not all(clip["video_id"] in found for found in done.values()):
            continue
        where = {"batch": batch, "video_id": clip["video_id"]}
        frames = store.read(STUDIO_FRAMES, ["batch", "video_id", "frame", "action"], where)
        spans = [s.span for s in true_spans(frames)]
        if cases := list(clip_cases(clip, spans, video["num_frames"], video["fps"])):
            out.append((video, cases))
    if not out:
        raise NothingToJudge(
            f"batch {batch!r} is not annotated: run `itryon materialize --batch {batch} --to agnostic_masks`"
        )
    return out[:most_clips]


def clip_cases(clip: dict[str, Any], spans: list[Span], num_frames: int, fps: float) -> Iterator[JudgeCase]:
    """The cases of one clip.

    Args:
        clip: Its row of `studio_clips`.
        spans: When its interaction is done; empty where none is.
        num_frames: Frames of the clip.
        fps: Frames a second.
    """
    script = _script(clip)
    if not clip["counterfactual_uri"] or script.action is None:
        return
    garment, action = clip["garment_type"], script.action
    hands = ("left", "right") if script.both else (script.side,) if script.side else ()

    def case(kind: str, asked: Script, span: Span, result: str, shown: str | None) -> JudgeCase:
        assert asked.action is not None
        text, done = sentence(asked, garment), kind == DONE
        return JudgeCase(clip["video_id"], clip["seed"], kind, asked.action, shown, span, text, done, result, hands)

    if clip["performance"] == "pantomime":
        at_place = [script.phases.at_place(t / fps) for t in range(num_frames)]
        for span in runs(np.array(at_place)):
            yield case(PANTOMIME, script, span, clip["counterfactual_uri"], None)
        return
    if clip["performance"] != "interaction" or not spans:
        return
    (span, *_) = spans
    yield case(DONE, script, span, clip["counterfactual_uri"], action)
    if clip["undone_uri"]:
        yield case(UNDONE, script, span, clip["undone_uri"], None)
    others = sorted(set(ACTIONS_OF[garment]) - {action})
    other = replace(script, action=others[clip["seed"] % len(others)])
    yield case(WRONG_ACTION, other, span, clip["counterfactual_uri"], action)
    least = math.ceil(_SHORTEST_S * fps)
    if (free := free_span(spans, num_frames, max(least, span[1] - span[0]))) and free[1] - free[0] >= least:
        yield case(WRONG_TIME, script, free, clip["counterfactual_uri"], action)


def free_span(spans: list[Span], num_frames: int, longest: int) -> Span | None:
    """The longest stretch outside of all spans, at most `longest` frames of it, far from them; None without."""
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    before, after = first, num_frames - last
    if max(before, after) <= 0:
        return None
    if before >= after:
        return (0, min(before, longest))
    return (num_frames - min(after, longest), num_frames)


def _script(clip: dict[str, Any]) -> Script:
    values = json.loads(clip["look"])["script"]
    return Script(**{**values, "phases": Phases(**values["phases"]), "place": tuple(values["place"])})
