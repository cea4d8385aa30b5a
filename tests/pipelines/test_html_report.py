"""The report of a checkpoint: parsed as a browser would, whole without a server, with hostile text in every place."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlparse

import pyarrow as pa
import pytest

from pipelines.checkpoints.train import CheckpointMissing
from pipelines.evaluation.html_report import write_report
from pipelines.evaluation.leaderboard import write_leaderboard
from pipelines.evaluation.promotion import promote
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import ISR_SCORES, TRYON_VIDEOS, VIDEO_METRICS, VIDEOS
from pipelines.store.studio_schemas import JUDGE_REPORTS
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set, metrics_of_videos, put

HOSTILE = '<script>alert("x")</script>'
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, what they name, and the text of the cells of each table."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.names: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.sections: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in _VOID:
            self._open.append(tag)
        values = dict(attrs)
        self.names += [(k, v) for k, v in values.items() if k in ("src", "href", "poster", "data", "action")]
        if tag == "table":
            self._table = values.get("id", "")
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        elif tag == "section":
            self.sections.append(values["id"])

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self._open and {"td", "th"} & set(self._open):
            self.tables[self._table][-1][-1] += data


@pytest.fixture
def page(lake: DeltaStore, tmp_path: Path):
    add_training_set(lake, "set0", batches=["old"])
    add_training_set(lake, batches=["b1", HOSTILE])
    add_checkpoint(lake, "parent", training_set_id="set0", videos=[])
    metrics = {"ssim": (0.9, 0.88, 0.92), "fvd_i3d_paired": (None, None, None)}
    add_checkpoint(lake, "mine", metrics=metrics, videos=["v1"], parent_checkpoint_id="parent", number=1)
    picture, video = tmp_path / "evidence.jpg", tmp_path / "side.mp4"
    picture.write_bytes(b"jpg")
    video.write_bytes(b"mp4")
    blob = lake.blobs.put_file(video)
    row = {"checkpoint_id": "mine", "garment_id": "g", "paired": True, "start_frame": 3, "num_frames": 17}
    row |= {"record": "{}", "status": "ok", "side_by_side_uri": blob}
    broken = {"status": "error", "reason": HOSTILE, "side_by_side_uri": None}
    put(
        lake,
        TRYON_VIDEOS,
        [
            row | {"tryon_id": "good", "video_id": "v1"},
            row | {"tryon_id": "undone", "video_id": "v2"},
            row | {"tryon_id": "broken", "video_id": "v3"} | broken,
            row | {"tryon_id": "lost", "video_id": "v4", "side_by_side_uri": "blobs/00/00.mp4"},
        ],
    )
    tryons = lake.read(TRYON_VIDEOS, where={"checkpoint_id": "mine"}).to_pylist()
    of_set = lake.read(VIDEO_METRICS, where={"checkpoint_id": "mine", "tryon_id": ""}).to_pylist()
    put(lake, VIDEO_METRICS, [*of_set, *metrics_of_videos(tryons)])
    verdict = {"checkpoint_id": "mine", "start_frame": 1, "end_frame": 9, "judge": HOSTILE, "judge_digest": "d"}
    verdict |= {"votes": [], "frames": [], "evidence_uri": lake.blobs.put_file(picture), "judge_kappa": None}
    said = [{"text": HOSTILE, "rationale": "moves"}, {"text": "zips", "rationale": HOSTILE}]
    put(
        lake,
        ISR_SCORES,
        [
            verdict | {"tryon_id": "good", "video_id": "v1", "action": "adjust_hem", "success": True} | said[0],
            verdict | {"tryon_id": "undone", "video_id": "v2", "action": "operate_zipper", "success": False} | said[1],
        ],
    )
    rows = [
        {"batch": "b1", "video_id": v, "source_path": f"{v} {HOSTILE}.mp4", "status": "ok", "fingerprint": "f"}
        for v in ("v1", "v2", "v3")
    ]
    lake.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": "b1"}, Commit())
    write_leaderboard(lake)
    promote(lake, "mine")
    report = write_report(lake, "mine", tmp_path / "report")
    return report, Page(report.page.read_text())


def test_nothing_is_taken_from_elsewhere_and_every_file_is_there(page):
    report, parsed = page
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert {n for _, n in parsed.names} == {"videos/good.mp4", "videos/undone.mp4", "evidence/good-0.jpg",
                                            "evidence/undone-0.jpg"}  # fmt: skip
    for _, name in parsed.names:
        assert not urlparse(name).scheme and not name.startswith("/")
        assert (report.page.parent / name).is_file()
    text = report.page.read_text()
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert report.videos == 2 and report.missing == ["blobs/00/00.mp4"]


def test_hostile_text_is_shown_and_not_run(page):
    _, parsed = page
    # The source of three videos, two captions or rationales, an error's reason, the judge and a batch.
    assert parsed.text.count(HOSTILE) >= 7
    assert 'alert("x")' in parsed.text


def test_what_failed_comes_first(page):
    _, parsed = page
    assert parsed.sections[:2] == ["broken", "undone"] and set(parsed.sections) == {"broken", "undone", "good", "lost"}


def test_rates_metrics_and_lineage_are_those_of_the_lake(page, lake):
    _, parsed = page
    rates = {r[0]: r[1:] for r in parsed.tables["rates"][1:]}
    assert rates["overall"][0] == "0.50" and rates["operate_zipper"][0] == "0.00" and rates["adjust_hem"][2] == "1"
    metrics = {r[0]: r for r in parsed.tables["metrics"][1:]}
    assert metrics["ssim"][1:4] == ["higher", "0.9000", "0.8800 to 0.9200"]
    missing = {r[0]: r for r in parsed.tables["not-computed"][1:]}
    assert missing["fvd_i3d_paired"][2] == "no network"
    assert len(metrics | missing) == lake.read(VIDEO_METRICS, where={"tryon_id": ""}).num_rows
    assert [r[0] for r in parsed.tables["lineage"][1:]] == ["mine", "parent"]
    assert parsed.tables["lineage"][1][3] == f"b1, {HOSTILE}" and parsed.tables["lineage"][2][3] == "old"
    assert parsed.tables["decisions"][1][0] == "promoted" and "never validated" in parsed.text


def test_every_rate_has_the_kappa_of_its_judge_on_that_action(page, lake, tmp_path):
    _, parsed = page
    assert parsed.tables["rates"][0][-1] == "judge's kappa on it"
    assert {r[-1] for r in parsed.tables["rates"][1:]} == {"–"} and "agrees so little" in parsed.text
    row = {"batch": "held", "judge_digest": "d", "judge": HOSTILE, "metric": "kappa", "held_back": True}
    row |= {"num_cases": 8, "num_clips": 4, "low": None, "high": None, "run_id": ""}
    figures = [("rendered", "all", 0.71), ("rendered", "action=adjust_hem", 0.31), ("nano", "action=adjust_hem", 0.1)]
    figures += [("nano", "all", 0.2), ("rendered", "action=operate_zipper", None), ("rendered", "case=undone", 0.9)]
    put(lake, JUDGE_REPORTS, [row | {"pictures": p, "split": s, "value": v} for p, s, v in figures])
    again = Page(write_report(lake, "mine", tmp_path / "validated").page.read_text())
    kappas = {r[0]: r[-1].strip() for r in again.tables["rates"][1:]}
    assert kappas == {"overall": "0.71", "adjust_hem": "0.31", "operate_zipper": "–"}
    assert "(Cohen's kappa): 0.71." in " ".join(again.text.split()) and "never validated" not in again.text


def test_a_kappa_whose_report_is_gone_is_the_one_that_was_known(page, lake, tmp_path):
    rows = lake.read(ISR_SCORES, where={"checkpoint_id": "mine"}).to_pylist()
    put(lake, ISR_SCORES, [r | {"judge_kappa": 0.44} for r in rows])
    again = Page(write_report(lake, "mine", tmp_path / "gone").page.read_text())
    assert "(Cohen's kappa): 0.44." in " ".join(again.text.split())
    assert {r[0]: r[-1].strip() for r in again.tables["rates"][1:]}["overall"] == "0.44"


def test_verdicts_on_videos_that_were_replaced_are_no_rate(page, lake, tmp_path):
    tryons = lake.read(TRYON_VIDEOS, where={"checkpoint_id": "mine"}).to_pylist()
    put(lake, TRYON_VIDEOS, [t for t in tryons if t["tryon_id"] != "undone"])
    again = Page(write_report(lake, "mine", tmp_path / "replaced").page.read_text())
    assert "No interaction was judged" in again.text and "rates" not in again.tables and "metrics" not in again.tables


def test_every_number_has_mode_network_samples_and_interval(page, lake, tmp_path):
    digest = "0123456789abcdef" * 4
    rows = lake.read(VIDEO_METRICS, where={"checkpoint_id": "mine"}).to_pylist()
    of_set = next(r for r in rows if r["metric"] == "ssim" and not r["tryon_id"]) | {"num_samples": 8}
    lpips = {"metric": "lpips", "value": 0.123, "low": 0.1, "high": 0.15, "network": f"lpips-alex {digest}"}
    legacy = lpips | {"metric": "lpips", "value": 0.456, "mode": "legacy", "network": f"lpips-squeeze {digest}"}
    of_video = lpips | {"tryon_id": "good", "video_id": "v1", "low": None, "high": None, "num_samples": 17}
    of_tryons = [r for r in rows if r["tryon_id"]]
    of_tryons += [r | {"mode": "legacy"} for r in of_tryons]
    put(lake, VIDEO_METRICS, [of_set, of_set | lpips, of_set | legacy, of_set | of_video, *of_tryons])
    parsed = Page(write_report(lake, "mine", tmp_path / "whole").page.read_text())
    assert parsed.tables["metrics"][0][2:] == ["value", "interval", "samples", "mode", "network"]
    cells = sorted(r[2:] for r in parsed.tables["metrics"][1:] if r[0] == "lpips")
    assert cells[0] == ["0.1230", "0.1000 to 0.1500", "8", "corrected", "lpips-alex 0123456789ab"]
    assert cells[1] == ["0.4560", "0.1000 to 0.1500", "8", "legacy", "lpips-squeeze 0123456789ab"]
    text = " ".join(parsed.text.split())
    assert "LPIPS, lower is better0.123 0.100 to 0.150, 8 videos, corrected, lpips-alex 0123456789ab" in text
    assert "0.456 0.100 to 0.150, 8 videos, legacy, lpips-squeeze 0123456789ab" in text
    assert "SSIM, higher is better0.900 0.880 to 0.920, 8 videos, corrected" in text
    assert "LPIPS 0.123 (corrected, 17 frames, lpips-alex 0123456789ab)" in text


def test_clips_and_votes_have_their_rates(page, lake, tmp_path):
    _, parsed = page
    assert parsed.text.count("1 of 1 interactions done.") == 1 and parsed.text.count("0 of 1 interactions done.") == 1
    assert "Votes for done" not in parsed.text
    rows = lake.read(ISR_SCORES, where={"checkpoint_id": "mine"}).to_pylist()
    good = next(r for r in rows if r["tryon_id"] == "good")
    more = {"start_frame": 20, "end_frame": 29, "success": False, "votes": [False, True, False]}
    unknown = {"start_frame": 40, "end_frame": 49, "success": None, "votes": [True]}
    put(lake, ISR_SCORES, [*rows, good | more, good | unknown])
    again = " ".join(Page(write_report(lake, "mine", tmp_path / "votes").page.read_text()).text.split())
    assert "1 of 2 interactions done, 0.50 (0.09 to 0.91), 1 unanswered." in again
    assert "Votes for done: 1 of 3, 0.33 (0.06 to 0.79)." in again and again.count("Votes for done") == 1


def test_a_checkpoint_without_anything_has_a_report_that_says_so(page, lake, tmp_path):
    parsed = Page(write_report(lake, "parent", tmp_path / "other").page.read_text())
    assert "There are no try-on videos" in parsed.text and "No interaction was judged" in parsed.text
    with pytest.raises(CheckpointMissing, match="itryon leaderboard"):
        write_report(lake, "nobody", tmp_path / "none")


def test_a_report_is_written_again_over_the_old_one(page, lake, tmp_path):
    report, _ = page
    before = report.page.read_text()
    assert write_report(lake, "mine", tmp_path / "report").page.read_text() == before
