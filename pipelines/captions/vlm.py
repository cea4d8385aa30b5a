"""Captions by a vision-language model: a caption of the whole video, and interaction labels of frames seen in windows.

As in the paper, the model labels frames, and morphological smoothing makes spans of the labels. Unlike there, a frame
is never judged alone but among its neighbours in time, and windows overlap, so most frames get several opinions: how
far they agree is the confidence. An answer that cannot be had is an error of the video, never a guess.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from models.vlm.client import AnswerError, ChatClient, Usage
from pipelines.captions.base import ActionCaption, GlobalCaption, Side
from pipelines.captions.settings import CaptionSettings
from pipelines.captions.spans import frames_of, smoothed_runs
from pipelines.stage import VideoTask
from pipelines.video import VideoReader

log = logging.getLogger(__name__)

_SYSTEM = "You annotate videos of people for a virtual try-on data set. You report only what the pictures show."

_GLOBAL_PROMPT = (
    "These are {count} frames of one video, in order, each with its time. Describe in one or two English sentences how "
    "the person moves over the whole video: posture, turns, and what the hands do. Do not describe the garment's look, "
    "the person's looks or the background."
)

_WINDOW_PROMPT = (
    "These are {count} consecutive frames of a video, {step:.2f} s apart, each with its number and time. For every "
    "frame decide, from the frames together, whether a hand of the person touches and handles the garment that the "
    "person wears. A hand that only passes in front of the garment, gestures, hangs down, or touches face, hair, "
    "another hand or an object is no interaction.\n"
    "Actions: adjust_collar (collar or neckline), adjust_hem (lower edge is pulled, lifted or straightened), "
    "operate_zipper (zip or buttons are opened or closed), stretch_fabric (cloth is pulled away from the body), "
    "roll_sleeve (sleeve is rolled, pushed or pulled), other (any other contact of hand and garment, such as rubbing "
    "or smoothing it). For frames without interaction the action is none and the text is empty. Hands are the "
    "person's own left and right. The text is a short English clause, such as 'the right hand pulls down the zipper'."
)


class WholeVideo(BaseModel):
    """The answer to the question for a global caption."""

    model_config = ConfigDict(str_strip_whitespace=True)

    caption: str = Field(min_length=8, max_length=600, description="One or two English sentences")


class FrameLabel(BaseModel):
    """What the model says of one frame."""

    model_config = ConfigDict(str_strip_whitespace=True)

    frame: int = Field(ge=1, description="Number of the frame as given")
    interaction: bool = Field(description="Whether a hand handles the garment in this frame")
    action: Literal[
        "none", "adjust_collar", "adjust_hem", "operate_zipper", "stretch_fabric", "roll_sleeve", "other"
    ] = Field(description="Category of the interaction; none where there is no interaction")
    hand: Literal["none", "left", "right", "both"] = Field(description="Which of the person's own hands")
    text: str = Field(max_length=200, description="What happens, a short clause; empty where there is no interaction")

    @model_validator(mode="after")
    def _consistent(self) -> FrameLabel:
        if self.interaction != (self.action != "none"):
            raise ValueError(f"frame {self.frame}: interaction is {self.interaction} but the action is {self.action}")
        if self.interaction and not self.text:
            raise ValueError(f"frame {self.frame}: an interaction needs a text")
        return self


class WindowLabels(BaseModel):
    """Labels of the frames of one window, each exactly once and in order."""

    frames: list[FrameLabel]

    @model_validator(mode="after")
    def _numbered(self) -> WindowLabels:
        numbers = [f.frame for f in self.frames]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"label each frame once, in order from 1, not {numbers}")
        return self


def window_schema(count: int) -> type[WindowLabels]:
    """`WindowLabels` for exactly `count` frames."""
    frames = Annotated[list[FrameLabel], Field(min_length=count, max_length=count)]
    return create_model(f"WindowLabels{count}", __base__=WindowLabels, frames=(frames, ...))


@dataclass
class Sample:
    """One sampled frame and the opinions on it.

    Attributes:
        frame: Frame number in the video.
        time_s: Seconds.
        labels: One for each window that showed it.
    """

    frame: int
    time_s: float
    labels: list[FrameLabel] = field(default_factory=list)


def window_starts(count: int, length: int, overlap: int) -> list[int]:
    """First samples of windows of `length` that cover `count` samples and share at least `overlap`.

    The last window is moved back to be full, so the end of the video is judged with as much context as the rest.
    """
    if count <= length:
        return [0] if count else []
    starts = list(range(0, count - length, length - overlap))
    return [*starts, count - length]


def spans_from_samples(
    samples: list[Sample], num_frames: int, fps: float, settings: CaptionSettings, cuts: Iterable[int] = ()
) -> list[ActionCaption]:
    """Vote over the opinions, spread each sample to the frames nearest to it, smooth, and name what is left.

    Args:
        samples: In order of time; each with at least one opinion.
        num_frames: Frames of the video.
        fps: Frames a second.
        settings: Lengths of the smoothing.
        cuts: First frame of every shot but the first; no span reaches across.
    """
    if not samples:
        return []
    at = np.array([s.frame for s in samples])
    nearest = np.searchsorted((at[:-1] + at[1:]) / 2, np.arange(num_frames), side="right")
    chosen = [_majority(s.labels) for s in samples]
    evidence = np.array([c is not None for c in chosen])[nearest]
    smoothing = settings.smoothing
    shortest = frames_of(smoothing.opening_s, fps)
    out = []
    for start, end in smoothed_runs(evidence, fps, smoothing.closing_s, smoothing.opening_s, cuts):
        for action, a, b in _split_by_action([chosen[k] for k in nearest[start:end]], start, shortest):
            inside = [samples[k] for k in sorted(set(nearest[a:b]))]
            agreeing = [v for s in inside for v in s.labels if v.action == action]
            share = np.mean([np.mean([v.action == action for v in samples[k].labels]) for k in nearest[a:b]])
            text = Counter(v.text for v in agreeing).most_common(1)[0][0]
            hand = Counter(v.hand for v in agreeing).most_common(1)[0][0]
            out.append(ActionCaption(action, a, b, text, float(share), _SIDES.get(hand)))
    return out


_SIDES: dict[str, Side] = {"left": "left", "right": "right", "both": "both"}


def _majority(labels: list[FrameLabel]) -> str | None:
    """The action most opinions name, None unless at least half of them see an interaction."""
    actions = Counter(v.action for v in labels if v.interaction)
    if not actions or 2 * actions.total() < len(labels):
        return None
    return actions.most_common(1)[0][0]


def _split_by_action(actions: list[str | None], start: int, shortest: int) -> list[tuple[str, int, int]]:
    """Runs of equal action in a span; what is too short, and gaps that were closed, join the longest neighbour."""
    parts: list[list] = []
    for i, action in enumerate(actions):
        if action is None:
            action = parts[-1][0] if parts else next(a for a in actions if a is not None)
        if parts and parts[-1][0] == action:
            parts[-1][2] = start + i + 1
        else:
            parts.append([action, start + i, start + i + 1])
    while len(parts) > 1:
        k = min(range(len(parts)), key=lambda i: parts[i][2] - parts[i][1])
        if parts[k][2] - parts[k][1] >= shortest:
            break
        beside = [j for j in (k - 1, k + 1) if 0 <= j < len(parts)]
        keep = max(beside, key=lambda j: parts[j][2] - parts[j][1])
        parts[keep][1], parts[keep][2] = min(parts[k][1], parts[keep][1]), max(parts[k][2], parts[keep][2])
        del parts[k]
        merged: list[list] = []
        for part in parts:
            if merged and merged[-1][0] == part[0]:
                merged[-1][2] = part[2]
            else:
                merged.append(part)
        parts = merged
    return [(a, b, c) for a, b, c in parts]


class VlmBackend:
    """Captions of videos through one endpoint.

    Args:
        settings: Of the captions stage.
        cache: Folder for answers; a question already answered there costs nothing.

    Attributes:
        usage: Tokens and requests so far, those of answers that did not fit included; answers from the cache cost
            nothing.

    Raises:
        models.vlm.client.EndpointError: The endpoint or its key is not configured.
    """

    def __init__(self, settings: CaptionSettings, cache: Path | None):
        self.settings = settings
        self.usage = Usage()
        self._cache = cache
        self._client = ChatClient(settings.vlm.endpoint, cache)

    def caption(
        self, task: VideoTask, want_global: bool = True, want_actions: bool = True
    ) -> tuple[GlobalCaption, list[ActionCaption]]:
        """Captions of one video; what is not wanted comes back empty.

        Raises:
            models.vlm.client.VlmError: The endpoint cannot be reached, refuses, or gives no valid answer.
        """
        before = self.usage
        try:
            return self._caption(task, want_global, want_actions)
        finally:
            self._account(task, before)

    def _caption(
        self, task: VideoTask, want_global: bool, want_actions: bool
    ) -> tuple[GlobalCaption, list[ActionCaption]]:
        settings = self.settings.vlm
        fps = min(settings.sample_fps, task.row["fps"])
        count = max(1, round(task.row["num_frames"] / task.row["fps"] * fps))
        spread = set(np.linspace(0, count - 1, min(settings.global_frames, count)).round().astype(int).tolist())
        starts = deque(window_starts(count, settings.frames_per_call, settings.overlap) if want_actions else [])
        samples: list[Sample] = []
        pictures: dict[int, np.ndarray] = {}
        overview: list[tuple[float, np.ndarray]] = []
        for frame in self._frames(task, fps, count):
            samples.append(Sample(frame.source_index, frame.time_s))
            if want_global and frame.index in spread:
                overview.append((frame.time_s, frame.rgb))
            if starts:
                pictures[frame.index] = frame.rgb
            while starts and frame.index + 1 >= min(count, starts[0] + settings.frames_per_call):
                self._label(samples, pictures, starts.popleft(), fps, task)
                for k in [k for k in pictures if not starts or k < starts[0]]:
                    del pictures[k]
            task.advance(max(0, min(frame.source_index + 1, task.row["num_frames"]) - task.frames))
        if not samples:
            raise ValueError("No frame of the video could be read for captions")
        for start in starts:  # fewer frames decoded than the table promises
            self._label(samples, pictures, start, fps, task)
        whole = self._overview(overview, task) if want_global else GlobalCaption("", 0.0)
        judged = [s for s in samples if s.labels]
        cuts = task.row.get("cut_frames") or ()
        return whole, spans_from_samples(judged, task.row["num_frames"], task.row["fps"], self.settings, cuts)

    def _frames(self, task: VideoTask, fps: float, count: int) -> Iterator:
        with VideoReader(task.path, fps, self.settings.vlm.endpoint.image_max_side, task.threads) as reader:
            yield from reader.frames(0, count)

    def _label(
        self, samples: list[Sample], pictures: dict[int, np.ndarray], start: int, fps: float, task: VideoTask
    ) -> None:
        window = [k for k in range(start, start + self.settings.vlm.frames_per_call) if k in pictures]
        if not window:
            return
        prompt = _WINDOW_PROMPT.format(count=len(window), step=1 / fps)
        names = [f"Frame {i}, {samples[k].time_s:.2f} s:" for i, k in enumerate(window, 1)]
        answer = self._ask(prompt, window_schema(len(window)), [pictures[k] for k in window], names, task)
        for k, label in zip(window, answer.frames):
            samples[k].labels.append(label)

    def _overview(self, overview: list[tuple[float, np.ndarray]], task: VideoTask) -> GlobalCaption:
        prompt = _GLOBAL_PROMPT.format(count=len(overview))
        names = [f"{time_s:.2f} s:" for time_s, _ in overview]
        answer = self._ask(prompt, WholeVideo, [rgb for _, rgb in overview], names, task)
        # A single opinion has nothing to agree with: its confidence is not known, and 0.5 says so.
        return GlobalCaption(answer.caption, 0.5)

    def _ask(self, prompt: str, schema, images: list[np.ndarray], names: list[str], task: VideoTask):
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt}]
        try:
            with task.inference():
                answer, usage = self._client.complete_json(messages, schema, images, names)
        except AnswerError as e:
            self.usage += e.usage
            raise
        if not usage.cached:
            self.usage += usage
        return answer

    def _account(self, task: VideoTask, before: Usage) -> None:
        entry = {
            "video_id": task.video_id,
            "model": self._client.name,
            "requests": self.usage.requests - before.requests,
            "prompt_tokens": self.usage.prompt_tokens - before.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens - before.completion_tokens,
        }
        log.info("captions: %s", json.dumps(entry))
        if self._cache is not None:
            self._cache.mkdir(parents=True, exist_ok=True)
            # One write below the size of a pipe buffer, so that lines of several workers do not mix.
            with (self._cache / "usage.jsonl").open("a", encoding="utf-8") as f:
                f.write(json.dumps(entry) + "\n")
