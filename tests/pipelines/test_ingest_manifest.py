"""The manifest's format: what is right comes through whole, what is wrong is told, nothing raises."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captions.manifest import read_labels
from pipelines.ingest.manifest import ManifestEntry, parse_manifest
from pipelines.store.schemas import ACTIONS, GARMENT_CATEGORIES

names = st.text(st.characters(exclude_categories=("C",), exclude_characters="/\\:"), min_size=1, max_size=12).filter(
    lambda s: s.strip() and s not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
spans = st.builds(
    lambda action, start, length, text: {"action": action, "start_s": start, "end_s": start + length, "text": text},
    st.sampled_from(ACTIONS),
    st.floats(0, 1e5),
    st.floats(0.01, 1e4),
    st.text(min_size=1, max_size=20).filter(str.strip),
)
entries = st.fixed_dictionaries(
    {"video": paths},
    optional={
        "garment": paths,
        "tryon_garment": paths,
        "garment_category": st.sampled_from(GARMENT_CATEGORIES),
        "split": st.sampled_from(["train", "val", "test"]),
        "global_caption": st.text(max_size=20),
        "actions": st.lists(spans, max_size=3),
        "camera": st.integers(),
    },
)


def lines(*objects: object) -> list[bytes]:
    return [o if isinstance(o, bytes) else json.dumps(o).encode() for o in objects]


@given(entries)
def test_a_right_entry_comes_back_as_it_was_and_survives_a_round_trip(entry: dict) -> None:
    [line] = parse_manifest(lines(entry))
    assert line.error is None and line.entry is not None
    kept = json.loads(line.entry.as_json())
    assert {k: kept[k] for k in entry if k not in ("video", "garment", "tryon_garment", "actions")} == {
        k: v for k, v in entry.items() if k not in ("video", "garment", "tryon_garment", "actions")
    }
    assert [(a["action"], a["start_s"], a["end_s"]) for a in kept.get("actions", [])] == [
        (a["action"], a["start_s"], a["end_s"]) for a in entry.get("actions", [])
    ]
    assert ("actions" in kept) == ("actions" in entry), "no list and an empty list say different things"
    assert ManifestEntry.model_validate(kept) == line.entry


@given(st.lists(st.one_of(st.binary(max_size=40), entries.map(lambda e: json.dumps(e).encode())), max_size=8))
def test_no_content_raises_and_every_line_is_accounted_for(raw: list[bytes]) -> None:
    raw = [r.replace(b"\n", b" ") for r in raw]
    parsed = list(parse_manifest(raw))
    filled = [i for i, r in enumerate(raw, start=1) if (r.removeprefix(b"\xef\xbb\xbf") if i == 1 else r).strip()]
    assert [p.number for p in parsed] == filled
    assert all((p.entry is None) == (p.error is not None) for p in parsed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*ManifestEntry.model_fields, "extra"]), json_values, max_size=6))
def test_accepted_paths_stay_inside(value: dict) -> None:
    for line in parse_manifest(lines(value)):
        for path in (line.entry.video, line.entry.garment, line.entry.tryon_garment) if line.entry else (line.video,):
            if path is not None:
                clean = PurePosixPath("/base", path)
                assert ".." not in clean.parts and clean.is_relative_to("/base") and clean != PurePosixPath("/base")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{not json", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1, 2]", "an object is needed"),
        (b'"text"', "an object is needed"),
        (b"[" * 100_000, "not JSON"),
        (b'{"video": "a.mp4", "note": ' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 levels"),
        ({"garment": "a.jpg"}, "video: Field required"),
        ({"video": 5}, "video: "),
        ({"video": "../x.mp4"}, "leaves the landing folder"),
        ({"video": "/etc/passwd"}, "leaves the landing folder"),
        ({"video": "C:/x.mp4"}, "leaves the landing folder"),
        ({"video": "a\\..\\b.mp4"}, "leaves the landing folder"),
        ({"video": "a.mp4", "garment": "b/../../c.jpg"}, "garment: 'b/../../c.jpg' leaves"),
        ({"video": "a.mp4", "garment_category": "shoes"}, "garment_category"),
        ({"video": "a.mp4", "split": "training"}, "split"),
        ({"video": "a.mp4", "garment_catgory": "dresses"}, "is 'garment_category' meant"),
        ({"video": "a.mp4", "actions": [{"action": "dance", "start_s": 0, "end_s": 1}]}, "unknown action 'dance'"),
        ({"video": "a.mp4", "actions": [{"action": "other", "start_s": 2, "end_s": 2}]}, "not after its start"),
        ({"video": "a.mp4", "actions": [{"action": "other", "start_s": -1, "end_s": 2}]}, "actions.0.start_s"),
        (b'{"video": "a.mp4", "actions": [{"action": "other", "start_s": 0, "end_s": NaN}]}', "actions.0.end_s"),
    ],
)
def test_what_is_wrong_is_told(line: object, says: str) -> None:
    [parsed] = parse_manifest(lines(line))
    assert parsed.entry is None and says in (parsed.error or "")


def test_a_deep_value_that_is_accepted_can_be_kept_and_read_again() -> None:
    [line] = parse_manifest([b'{"video": "a.mp4", "note": ' + b'[{"a": ' * 31 + b"[]" + b"}]" * 31 + b"}"])
    assert line.entry and read_labels(line.entry.as_json()).actions is None


def test_a_wrong_label_still_names_its_video() -> None:
    [parsed] = parse_manifest(lines({"video": "a.mp4", "split": "nothing"}))
    assert parsed.video == "a.mp4"


def test_a_video_described_twice_is_told() -> None:
    first, second = parse_manifest(lines({"video": "a.mp4"}, {"video": "./a.mp4"}))
    assert first.entry and second.error == "'a.mp4' was described by line 1 already"


def test_blank_lines_and_a_byte_order_mark_are_nothing() -> None:
    [line] = parse_manifest([b'\xef\xbb\xbf{"video": "a.mp4"}\r\n', b"\n", b"  \n"])
    assert line.entry and line.entry.video == "a.mp4" and line.source == "manifest.jsonl:1"


def test_an_action_without_words_gets_those_of_its_category() -> None:
    [line] = parse_manifest(lines({"video": "a", "actions": [{"action": "roll_sleeve", "start_s": 0, "end_s": 1}]}))
    assert line.entry and line.entry.actions[0].text == "roll sleeve"
