"""Captions by a vision-language model, against a server on this machine that speaks the protocol."""

import base64
import io
import itertools
import json
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.vlm.client import AnswerError, EndpointError, Usage
from pipelines.captions.settings import CaptionSettings, SmoothingSettings
from pipelines.captions.stage import CaptionsStage
from pipelines.captions.vlm import FrameLabel, Sample, VlmBackend, spans_from_samples, window_schema, window_starts
from pipelines.stage import VideoTask
from tests.chat_endpoint import ChatEndpoint, completion
from tests.conftest import frame_number

SECRET = "key-that-must-not-be-seen"


class ScriptedModel(ChatEndpoint):
    """A chat endpoint. `script` holds what goes wrong on the next requests; after it, answers are right.

    The model it plays sees an interaction where `interacting(time_s)` holds.
    """

    def __init__(self, interacting=lambda t: 0.5 <= t < 1.5):
        super().__init__()
        self.interacting = interacting
        self.script: list[str] = []

    def answer(self, path, body):
        trouble = self.script.pop(0) if self.script else "good"
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": f"no {path} here"}}
        if trouble == "500":
            return 500, {"error": {"message": "out of memory"}}
        if trouble == "slow":
            time.sleep(1.5)
        content = self._content(body)
        if trouble == "nonsense":
            content = "I am sorry, I see a nice shirt."
        if trouble == "wrong":
            content = json.dumps({"frames": [], "caption": ""})
        if trouble == "fenced":
            content = f"<think>hm {{</think>Here you are:\n```json\n{content}\n```"
        return 200, completion(body, content, completion_tokens=10)

    def _content(self, body):
        user = next(m for m in body["messages"] if isinstance(m["content"], list))
        parts = user["content"]
        names = [p["text"] for p in parts if p["type"] == "text"][1:]
        assert len(names) == sum(p["type"] == "image_url" for p in parts)
        times = [float(re.search(r"([\d.]+) s:", n)[1]) for n in names]
        if "Frame 1" not in names[0]:
            return json.dumps({"caption": f"A person is seen in {len(times)} frames."})
        labels = []
        for number, t in enumerate(times, 1):
            touching = bool(self.interacting(t))
            labels.append(
                {
                    "frame": number,
                    "interaction": touching,
                    "action": "adjust_hem" if touching else "none",
                    "hand": "left" if touching else "none",
                    "text": "the left hand lifts the hem" if touching else "",
                }
            )
        return json.dumps({"frames": labels})


@pytest.fixture
def endpoint() -> Iterator[ScriptedModel]:
    with ScriptedModel() as server:
        yield server


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("TEST_VLM_KEY", SECRET)


def settings_for(endpoint, **vlm) -> CaptionSettings:
    connection = {
        "base_url": endpoint.url,
        "model": "test-vl",
        "api_key_env": "TEST_VLM_KEY",
        "timeout_s": 0.7,
        "max_retries": 1,
        "answer_attempts": 2,
        "image_max_side": 96,
    }
    return CaptionSettings(
        backend="vlm",
        smoothing=SmoothingSettings(closing_s=0.3, opening_s=0.4),
        vlm={"endpoint": connection, "sample_fps": 10, "frames_per_call": 6, "overlap": 3, "global_frames": 4, **vlm},
    )


@pytest.fixture
def task(lake, moving_video) -> VideoTask:
    """A video of 2 s, 30 frames a second."""
    blob = lake.blobs.put_file(moving_video)
    row = {"batch": "b", "video_id": "v", "uri": getattr(blob, "uri", blob), "num_frames": 60, "fps": 30.0}
    row |= {"width": 96, "height": 64, "manifest": None, "global_caption": None}
    return VideoTask(lake, row, 1, lambda n: None)


def test_a_video_gets_its_captions(endpoint, key, task, tmp_path):
    backend = VlmBackend(settings_for(endpoint), tmp_path)
    whole, actions = backend.caption(task)
    assert whole.text == "A person is seen in 4 frames."
    assert [(a.action, a.hand, a.text) for a in actions] == [("adjust_hem", "left", "the left hand lifts the hem")]
    assert abs(actions[0].start - 15) <= 2 and abs(actions[0].end - 45) <= 2
    assert actions[0].confidence == 1.0
    # 20 samples in windows of 6 that share 3, and one question for the whole.
    windows = len(window_starts(20, 6, 3))
    assert len(endpoint.requests) == windows + 1
    assert (backend.usage.requests, backend.usage.prompt_tokens) == (windows + 1, 100 * (windows + 1))
    assert 50 < task.frames <= 60 and task.model_seconds > 0
    account = json.loads((tmp_path / "usage.jsonl").read_text())
    assert account == {
        "video_id": "v",
        "model": "test-vl",
        "requests": windows + 1,
        "prompt_tokens": 100 * (windows + 1),
        "completion_tokens": 10 * (windows + 1),
    }


def test_pictures_are_those_of_the_named_times(endpoint, key, task):
    VlmBackend(settings_for(endpoint), None).caption(task, want_global=False)
    for request in endpoint.requests:
        parts = request["messages"][-1]["content"]
        names = [p["text"] for p in parts[1:] if p["type"] == "text"]
        pictures = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        for name, url in zip(names, pictures):
            frame = round(float(re.search(r"([\d.]+) s:", name)[1]) * 30)
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))
            assert max(picture.shape) == 96
            assert frame_number(picture) == frame


@pytest.mark.parametrize("trouble", [["500"], ["slow"], ["nonsense"], ["wrong"], ["fenced"]])
def test_passing_trouble_is_overcome(endpoint, key, task, trouble):
    endpoint.script = list(trouble)
    _, actions = VlmBackend(settings_for(endpoint), None).caption(task)
    assert [a.action for a in actions] == ["adjust_hem"]


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [("500", EndpointError, "500"), ("slow", EndpointError, "0.7 s"), ("nonsense", AnswerError, "no JSON")],
)
def test_lasting_trouble_is_an_error_not_a_guess(endpoint, key, task, trouble, error, message, caplog, tmp_path):
    endpoint.script = [trouble] * 20
    with pytest.raises(error, match=message) as raised, caplog.at_level("DEBUG"):
        VlmBackend(settings_for(endpoint), tmp_path).caption(task)
    assert SECRET not in str(raised.value)
    # What was answered was paid for, whether it was of use or not.
    answered = 2 if trouble == "nonsense" else 0
    account = json.loads((tmp_path / "usage.jsonl").read_text())
    assert (account["requests"], account["completion_tokens"]) == (answered, 10 * answered)


def test_a_known_question_is_not_asked_again(endpoint, key, task, tmp_path):
    first = VlmBackend(settings_for(endpoint), tmp_path).caption(task)
    asked = len(endpoint.requests)
    again = VlmBackend(settings_for(endpoint), tmp_path)
    assert again.caption(task) == first
    assert len(endpoint.requests) == asked and again.usage == Usage()
    accounts = [json.loads(line) for line in (tmp_path / "usage.jsonl").read_text().splitlines()]
    assert [a["requests"] for a in accounts] == [asked, 0] and accounts[1]["prompt_tokens"] == 0
    other_model = settings_for(endpoint)
    other_model.vlm.endpoint.model = "another-vl"
    VlmBackend(other_model, tmp_path).caption(task)
    assert len(endpoint.requests) == 2 * asked


def test_the_key_is_sent_and_nowhere_else(endpoint, key, task, tmp_path, caplog):
    caplog.set_level("DEBUG", logger="pipelines")
    stage = CaptionsStage(settings_for(endpoint))
    stage.setup(1)
    rows = list(stage.annotate(task))
    assert set(endpoint.keys) == {f"Bearer {SECRET}"}
    kept = [str(r.to_pydict()) for r in rows] + [stage.settings.model_dump_json(), caplog.text]
    kept += [p.read_text() for p in (tmp_path / "lake").rglob("cache/vlm/**/*") if p.is_file()]
    assert len(kept) > 4
    assert not any(SECRET in text for text in kept)
    row = {"sha256": "0", "manifest": None, "global_caption": None, "cut_frames": None}
    before = stage.fingerprint(row, {})
    assert SECRET not in before


def test_rows_of_the_stage_and_human_labels_that_win(endpoint, key, task):
    stage = CaptionsStage(settings_for(endpoint))
    (rows,) = stage.annotate(task)
    assert rows.column("source").to_pylist() == ["vlm", "vlm"]
    assert rows.column("kind").to_pylist() == ["global", "action"]
    asked = len(endpoint.requests)
    task.row["global_caption"] = "A person lifts the hem."
    task.row["manifest"] = json.dumps({"video": "a.mp4", "actions": []})
    (rows,) = stage.annotate(task)
    assert rows.column("source").to_pylist() == ["manifest"]
    assert rows.column("text").to_pylist() == ["A person lifts the hem."]
    assert len(endpoint.requests) == asked


def test_a_missing_endpoint_or_key_is_said_before_any_video(monkeypatch, endpoint):
    monkeypatch.delenv("TEST_VLM_KEY", raising=False)
    with pytest.raises(EndpointError, match="TEST_VLM_KEY"):
        CaptionsStage(settings_for(endpoint)).setup(1)
    with pytest.raises(EndpointError, match="base_url"):
        CaptionsStage(CaptionSettings(backend="vlm")).setup(1)


def label(number, action="none", text="t", hand="left"):
    touching = action != "none"
    return FrameLabel(
        frame=number,
        interaction=touching,
        action=action,
        hand=hand if touching else "none",
        text=text if touching else "",
    )


def test_labels_are_consistent_complete_and_in_order():
    schema = window_schema(2)
    good = [label(1).model_dump(), label(2, "other").model_dump()]
    assert len(schema.model_validate({"frames": good}).frames) == 2
    for frames in (
        good[:1],
        good[::-1],
        [good[0], {**good[1], "action": "none"}],
        [good[0], {**good[1], "text": " "}],
        [good[0], {**good[1], "action": "sing"}],
    ):
        with pytest.raises(ValueError):
            schema.model_validate({"frames": frames})


@given(st.integers(0, 200), st.integers(2, 12), st.integers(0, 11))
def test_windows_cover_every_sample_and_overlap(count, length, overlap):
    overlap = min(overlap, length - 1)
    starts = window_starts(count, length, overlap)
    covered = [set(range(s, min(count, s + length))) for s in starts]
    assert set().union(*covered) == set(range(count))
    if count > length:
        assert all(len(c) == length for c in covered)
        assert all(len(a & b) >= overlap for a, b in itertools.pairwise(covered))


def samples(*opinions):
    return [Sample(i * 10, i / 3, [label(1, a) for a in o]) for i, o in enumerate(opinions)]


def test_opinions_are_voted_and_their_agreement_is_the_confidence():
    none, hem = ["none", "none"], ["adjust_hem", "adjust_hem"]
    split = ["adjust_hem", "none"]
    found = spans_from_samples(samples(none, hem, hem, split, none, none), 60, 30.0, CaptionSettings())
    assert [(c.action, c.start, c.end) for c in found] == [("adjust_hem", 5, 35)]
    assert found[0].confidence == pytest.approx((1 + 1 + 0.5) / 3)
    minority = ["adjust_hem", "none", "none"]
    assert spans_from_samples(samples(minority, minority), 20, 30.0, CaptionSettings()) == []


def test_a_change_of_action_splits_a_span_and_a_slip_does_not():
    hem, zipper = ["adjust_hem"], ["operate_zipper"]
    settings = CaptionSettings(smoothing={"closing_s": 0.3, "opening_s": 0.5})
    found = spans_from_samples(samples(hem, hem, hem, zipper, zipper, zipper), 60, 30.0, settings)
    assert [(c.action, c.start, c.end) for c in found] == [("adjust_hem", 0, 25), ("operate_zipper", 25, 60)]
    found = spans_from_samples(samples(hem, hem, zipper, hem, hem, hem), 60, 30.0, settings)
    assert [(c.action, c.start, c.end) for c in found] == [("adjust_hem", 0, 60)]
    assert found[0].confidence == pytest.approx(50 / 60)


@given(
    st.lists(
        st.lists(st.sampled_from(["none", "other", "adjust_hem"]), min_size=1, max_size=3), min_size=1, max_size=12
    )
)
def test_spans_are_disjoint_ordered_and_named(opinions):
    found = spans_from_samples(samples(*opinions), 10 * len(opinions), 30.0, CaptionSettings())
    assert all(0 <= c.start < c.end <= 10 * len(opinions) and 0 <= c.confidence <= 1 and c.text for c in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
