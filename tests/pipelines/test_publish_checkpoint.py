"""A published checkpoint: the folder loads, the card says what the lake says, and what cannot be published says why."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from dagster_project.cli import app
from models.itryon.pipeline import ITryOnPipeline
from models.itryon.transformer import ITryOnTransformer3DModel
from pipelines.checkpoints.train import CheckpointMissing
from pipelines.publish.card import LicenceUnknown, escaped
from pipelines.publish.checkpoint import CannotPublish, Published, publish_checkpoint
from pipelines.publish.evaluation import TryOn, evaluation_of, without_paths
from pipelines.publish.pictures import choose
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, CLIPS, ISR_SCORES, TRAINING_SETS, TRYON_VIDEOS, VIDEO_METRICS
from pipelines.training_sets.build import rows_digest
from tests.models.itryon_tiny import tiny_vae
from tests.models.test_itryon_diffusers import text_parts
from tests.pipelines.published_lake import COLOURS, ID, PARENT, fill, write_export
from tests.pipelines.scored_checkpoints import add_checkpoint, put

HEADINGS = [
    "Pictures",
    "Figures",
    "Quality",
    "Interaction success rate",
    "Where it comes from",
    "Training",
    "How to use it",
    "Limits",
    "Licence and intended use",
    "Files",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DeltaStore:
    root = tmp_path_factory.mktemp("published")
    lake = DeltaStore(root / "lake")
    lake.ensure_tables()
    fill(lake, root)
    return lake


@pytest.fixture(scope="module")
def done(store, tmp_path_factory) -> Published:
    return publish_checkpoint(store, "current", tmp_path_factory.mktemp("out") / "nested" / "model")


@pytest.fixture(scope="module")
def text(done) -> str:
    return done.card.read_text()


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Heading of the first column below a heading of the text -> rows of that table, by the heads of their columns."""
    found: dict[str, list[dict[str, str]]] = {}
    heads: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not heads:
            heads = cells
            found[heads[0]] = []
        elif not set(line) <= set("|-"):
            assert len(cells) == len(heads), line
            found[heads[0]].append(dict(zip(heads, cells)))
    return found


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_folder_loads_as_a_model_of_diffusers_in_half_precision(done, store):
    before = load_file(Path(store.root) / "checkpoints" / ID / "transformer" / "diffusion_pytorch_model.safetensors")
    model = ITryOnTransformer3DModel.from_pretrained(done.folder, subfolder="transformer", torch_dtype=torch.float16)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k].half(), after[k]) and before[k].dtype == torch.float32 for k in before)
    assert sorted(p.name for p in done.folder.iterdir()) == ["README.md", "figures", "training.json", "transformer"]
    assert [p.name for p in done.folder.parent.iterdir()] == ["model"]


def test_the_hub_reads_the_metadata(text):
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "diffusers", "video-to-video")
    assert {"itryon", "virtual-try-on", "preset-nano"} <= set(data.tags) and data.base_model is None
    values = {r.metric_type: (r.metric_value, r.metric_name) for r in data.eval_results}
    assert values.keys() == {"lpips", "ssim", "fvd_i3d_paired", "isr"}, "what is missing has no value to give"
    assert values["ssim"] == (0.8, "ssim, mode corrected")
    assert values["isr"] == (0.5, "ISR, by judge kinematic 2, whose kappa with known truth is 0.23")


def test_figures_have_mode_network_samples_and_interval_and_missing_ones_a_reason(text):
    assert re.findall(r"^##+ (.*)$", text, re.MULTILINE) == HEADINGS
    rows = {r["metric"]: r for r in tables(text)["metric"]}
    assert rows["lpips"]["value (interval)"] == "0.233 (0.100 to 0.400)" and rows["lpips"]["samples"] == "3"
    assert rows["lpips"]["network"] == f"lpips-alex {'c' * 64}" and rows["lpips"]["mode"] == "corrected"
    assert rows["fvd_i3d_paired"]["value (interval)"] == "2452 (2002 to 2858)"
    lost = rows["vfid_resnext_unpaired"]
    assert (lost["value (interval)"], lost["samples"]) == ("missing", "–") and lost["garment"] == "another"
    assert lost["why it is missing"] == "needs x.pth: put it into …/metrics (zoo)"
    assert "fvd_i3d_paired: 3 clips cannot span 400 dimensions." in text
    assert "4 try-on videos of 5 videos (3 paired, 1 unpaired); 1 could not be made." in text
    assert "v5 (no person in …/film.mp4)" in text and "steps 8, guidance_scale 2.0, seed 0" in text


def test_every_success_rate_stands_beside_its_judge_and_the_judges_kappa(text):
    rows = {r["action"]: r for r in tables(text)["action"]}
    assert list(rows) == ["overall", r"adjust\_hem", r"operate\_zipper"]
    assert all(r["judge"] == "kinematic 2" and r["its kappa"] == "0.23" for r in rows.values())
    assert (rows["overall"]["rate"], rows["overall"]["judged"], rows["overall"]["unanswered"]) == ("0.50", "2", "1")
    assert rows[r"adjust\_hem"]["rate"] == "missing: the judge gave no answer"
    assert "The judge: its kappa is the one known when it judged" in text, "its report is not in the lake"


def test_lineage_names_parents_batches_with_versions_encoders_and_code(text, store, done):
    line = tables(text)["checkpoint"]
    assert [r["checkpoint"] for r in line] == [ID, PARENT]
    pinned = store.read(TRAINING_SETS, where={"training_set_id": line[0]["training set"]}).to_pylist()[0]
    assert line[0]["batches"] == "new, old" and pinned["num_clips"] == 4
    assert line[0]["clips (with interactions)"] == f"4 ({pinned['num_interaction_clips']})"
    assert line[1]["batches"] == "old" and line[0]["clip encoders"] == "e1"
    assert "started from the nano checkpoint that comes with" in text
    parts = {r["batch"]: r for r in tables(text)["batch"]}
    clips = store.read(CLIPS, where={"batch": "new"})
    assert parts["new"]["version"] == rows_digest(clips.take(_order(clips)))[:16] and parts["new"]["clips"] == "3"
    assert (parts["old"]["clips"], parts["old"]["replayed"], parts["new"]["replayed"]) == ("1", "1", "0")
    assert f"vae `{'a' * 64}`" in text and "version 2 of table `clips`" in text
    commits = Commit("run-9", "7")
    row = store.read(CHECKPOINTS, where={"checkpoint_id": PARENT})
    store.replace(CHECKPOINTS, row, {"checkpoint_id": PARENT}, commits)
    again = publish_checkpoint(store, ID, done.folder.parent / "again", pictures=False).card.read_text()
    assert [r["code version"] for r in tables(again)["checkpoint"]] == ["missing: not in the table's log", "7"]
    (shown,) = blocks(text, "json")
    assert json.loads(shown)["learning_rate"] == 1e-2 and "keep_last" not in json.loads(shown)


def _order(clips: Any) -> list[int]:
    names = clips["clip_id"].to_pylist()
    return sorted(range(len(names)), key=names.__getitem__)


def test_the_code_of_the_card_runs_where_the_folder_is(text, done, monkeypatch):
    monkeypatch.chdir(done.folder)
    names: dict[str, Any] = {}
    for block in blocks(text, "python"):
        exec(block, names)
    assert isinstance(names["transformer"], ITryOnTransformer3DModel) and names["transformer"].dtype == torch.float32
    assert isinstance(names["pipe"], ITryOnPipeline) and names["pipe"].text_encoder is not None
    assert names["settings"].sizes == [(128, 96), (96, 128)] and names["pipe"].config.num_frames == 17
    for command in blocks(text, "bash"):
        program, name, *arguments = shlex.split(command)
        assert program == "itryon"
        # Refuses options that there are not, and runs nothing.
        typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_the_code_for_wans_encoders_runs_too(lake, tmp_path, monkeypatch):
    wan = {"text_dim": 4096, "in_channels": 16, "out_channels": 16, "vace_in_channels": 96}
    base = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
    digest, config = write_export(tmp_path / "export", base, **wan)
    add_checkpoint(lake, "large", preset="1.3b", weights_sha256=digest, config=config, videos=[])
    (tmp_path / "export").rename(Path(lake.root) / "checkpoints" / "large")
    done = publish_checkpoint(lake, "large", tmp_path / "out")
    text = done.card.read_text()
    assert ModelCard(text).data.base_model == base and f"](https://huggingface.co/{base})" in text
    tiny_vae().save_pretrained(tmp_path / "base" / "vae")
    encoder, tokenizer = text_parts()
    tokenizer.save_pretrained(tmp_path / "base" / "tokenizer")
    encoder.save_pretrained(tmp_path / "base" / "text_encoder")
    monkeypatch.chdir(done.folder)
    names: dict[str, Any] = {}
    for block in blocks(text, "python"):
        exec(block.replace(base, str(tmp_path / "base")), names)
    assert names["pipe"].transformer is names["transformer"] and (done.folder / "whole" / "model_index.json").is_file()


def test_encoders_that_nobody_has_are_not_promised(lake, tmp_path):
    digest, config = write_export(tmp_path / "export", None, text_dim=8)
    add_checkpoint(lake, "odd", weights_sha256=digest, config=config, videos=[])
    (tmp_path / "export").rename(Path(lake.root) / "checkpoints" / "odd")
    text = publish_checkpoint(lake, "odd", tmp_path / "out").card.read_text()
    assert len(blocks(text, "python")) == 1 and not blocks(text, "bash")
    assert "random weights" in text and "do not fit these sizes" in text


def test_the_worst_and_the_best_are_shown(text, done):
    named = re.findall(r"!\[.*\]\((.*)\)", text)
    assert [n.split("-t-")[0] for n in named] == [
        "figures/paired-worst",
        "figures/paired-best",
        "figures/unpaired-example1",
    ]
    assert [p.relative_to(done.folder).as_posix() for p in done.pictures] == named
    for name, video in zip(named, ("v2", "v3", "v4")):
        picture = np.asarray(Image.open(done.folder / name).convert("RGB")).reshape(-1, 3)
        near = (np.abs(picture.astype(int) - COLOURS[video]) < 30).all(-1)
        assert near.mean() > 0.7, "most of the picture are frames of that video"
    assert "worst of 3 by LPIPS: 0.400; SSIM 0.900; 0 of 1 interactions judged done." in text


def test_nothing_of_this_machine_is_handed_on(done, store):
    for file in ("README.md", "training.json", "transformer/config.json"):
        content = (done.folder / file).read_text()
        for path in (store.root, str(done.folder), "/home", "/root", "/tmp"):
            assert path not in content, file
    state = json.loads((done.folder / "training.json").read_text())
    assert state["parent"] is None and state["config"]["validation_vae"] is None


def test_the_card_looks_as_it_was_accepted(text, snapshot):
    """Digests, versions and the fields of a training change with what made them; the rest is as somebody wanted it."""
    masked = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
    masked = re.sub(r"\b[0-9a-f]{16}\b", lambda m: m[0] if m[0] in (ID, PARENT) else "<digest>", masked)
    masked = re.sub(r"```json.*?```", "<settings>", masked, flags=re.DOTALL)
    masked = re.sub(r"evaluation set [0-9a-f]{12}|Evaluation set `[0-9a-f]{12}`", "<evaluation set>", masked)
    assert re.sub(r"\b0\.1\.0\b", "<version>", masked) == snapshot


def test_without_pictures_no_frame_is_handed_on(store, tmp_path):
    done = publish_checkpoint(store, ID, tmp_path / "plain", pictures=False)
    assert not (done.folder / "figures").exists() and not done.pictures
    assert "None: pictures were left out." in done.card.read_text()


def test_a_checkpoint_of_which_nothing_is_known_says_so_everywhere(store, tmp_path):
    folder = Path(store.root) / "checkpoints" / "bare"
    digest, config = write_export(tmp_path / "export", "embedded")
    add_checkpoint(store, "bare", videos=[], training_set_id="gone", weights_sha256=digest, config=config)
    (tmp_path / "export").rename(folder)
    done = publish_checkpoint(store, "bare", tmp_path / "bare")
    text = done.card.read_text()
    for said in (
        "None: the lake holds no try-on video of this checkpoint.",
        "This checkpoint was not evaluated: it dressed no video.",
        "Missing: no metric was computed.",
        "Missing: there are no try-on videos: run `itryon tryon`, then `itryon evaluate`.",
        "Versions of the batches are missing: training set gone is no longer in the lake.",
        "missing: the training set is no longer in the lake",
        "- No figure was measured.",
        "not the current checkpoint",
    ):
        assert said in text, said
    assert ModelCard(text).data.eval_results is None
    assert any(m.startswith("ISR: ") for m in done.missing) and any("training set gone" in m for m in done.missing)


def test_pinned_rows_that_are_gone_are_missing_with_the_reason(lake, tmp_path):
    fill(lake, tmp_path)
    for row in lake.read(TRAINING_SETS).to_pylist():
        lake.blobs.local_path(row["manifest_uri"]).unlink()
    done = publish_checkpoint(lake, ID, tmp_path / "out", pictures=False)
    text = done.card.read_text()
    assert "Versions of the batches are missing: " in text and "vacuumed or deleted" in text
    assert "| new, old |" in text, "the names of the batches are known all the same"


def test_hostile_words_are_shown_and_are_no_markup(lake, tmp_path):
    fill(lake, tmp_path)
    hostile = "<img src=x> | [a](b) **c** `d`\n\n# e"
    rows = lake.read(ISR_SCORES, where={"checkpoint_id": ID}).to_pylist()
    put(lake, ISR_SCORES, [r | {"judge": hostile, "judge_kappa": None} for r in rows])
    tryons = lake.read(TRYON_VIDEOS, where={"checkpoint_id": ID}).to_pylist()
    put(lake, TRYON_VIDEOS, [t | ({"reason": hostile} if t["status"] == "error" else {}) for t in tryons])
    text = publish_checkpoint(lake, ID, tmp_path / "out", pictures=False).card.read_text()
    assert re.findall(r"^#+ (.*)$", text, re.MULTILINE)[1:] == HEADINGS
    assert {r["judge"] for r in tables(text)["action"]} == {escaped(hostile)}
    assert {r["its kappa"] for r in tables(text)["action"]} == {"never validated"}
    assert "The judge: never validated: run `itryon evaluate judge" in text
    assert r"\<img src=x\> \| \[a\](b) \*\*c\*\* \`d\` \# e" in text


def test_what_cannot_be_published_says_what_to_do(store, tmp_path):
    with pytest.raises(CheckpointMissing, match="itryon leaderboard"):
        publish_checkpoint(store, "nobody", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(CannotPublish, match="not an empty folder: name another one with --out"):
            publish_checkpoint(store, ID, taken)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    add_checkpoint(store, "gone", videos=[], config="{}")
    (Path(store.root) / "checkpoints" / "gone").rmdir()
    with pytest.raises(CheckpointMissing, match=r"gone from .*restore the folder from a copy"):
        publish_checkpoint(store, "gone", tmp_path / "out")
    add_checkpoint(store, "another", videos=[], config="{}")
    write_export(Path(store.root) / "checkpoints" / "another")
    with pytest.raises(CannotPublish, match=r"not those that were trained .*restore"):
        publish_checkpoint(store, "another", tmp_path / "out")
    digest, _ = write_export(tmp_path / "export")
    add_checkpoint(store, "partial", videos=[], weights_sha256=digest, config="{}")
    (tmp_path / "export" / "training.json").unlink()
    (tmp_path / "export").rename(Path(store.root) / "checkpoints" / "partial")
    with pytest.raises(CannotPublish, match=r"incomplete .*itryon train"):
        publish_checkpoint(store, "partial", tmp_path / "out")
    digest, config = write_export(tmp_path / "export", scale=1e8)
    add_checkpoint(store, "huge", videos=[], weights_sha256=digest, config=config)
    (tmp_path / "export").rename(Path(store.root) / "checkpoints" / "huge")
    with pytest.raises(ValueError, match=r"proj_out.weight .*half precision"):
        publish_checkpoint(store, "huge", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"], "no half-written folder is left"


def test_the_folder_appears_as_one_and_with_the_usual_mode(store, tmp_path, monkeypatch):
    out, usual, before = tmp_path / "out", tmp_path / "usual", []
    out.mkdir()
    usual.mkdir()
    plain = Path.replace
    monkeypatch.setattr(Path, "replace", lambda p, to: before.append((to, list(out.iterdir()))) or plain(p, to))
    done = publish_checkpoint(store, ID, out, pictures=False)
    assert before[-1] == (out, []) and done.card.is_file()
    assert done.folder.stat().st_mode == usual.stat().st_mode and sorted(tmp_path.iterdir()) == [out, usual]


def test_values_of_mode_legacy_stand_in_only_where_there_are_no_others_and_are_named(lake, tmp_path):
    fill(lake, tmp_path)
    rows = lake.read(VIDEO_METRICS, where={"checkpoint_id": ID}).to_pylist()
    noted = [r | {"note": "of few"} if r["metric"] == "fvd_i3d_paired" else r for r in rows]
    legacy = [r | {"mode": "legacy", "value": None if r["value"] is None else 0.55} for r in noted]
    put(lake, VIDEO_METRICS, [*noted, *legacy])
    found = evaluation_of(lake, ID)
    values = {v.tryon_id: {k: x for k, x in v.values.items() if k != "interactions"} for v in found.videos}
    assert values["t-v1"] == {"lpips": 0.2, "ssim": 0.8} and values["t-v2"] == {"lpips": 0.4, "ssim": 0.9}
    assert found.notes == {"of few": ["fvd_i3d_paired", "fvd_i3d_paired (legacy)"]}
    of_ssim = [r for r in noted if r["metric"] != "lpips"]
    put(lake, VIDEO_METRICS, [*of_ssim, *legacy])
    found = evaluation_of(lake, ID)
    assert found.videos[0].values == {"ssim": 0.8, "lpips (legacy)": 0.55, "interactions": 1.0}
    worst = choose(found.videos)[0]
    assert "by SSIM: 0.700" in worst.why and "LPIPS (legacy) 0.550" in worst.also
    put(lake, VIDEO_METRICS, legacy)
    assert "by LPIPS (legacy): 0.550" in choose(evaluation_of(lake, ID).videos)[0].why


def test_figures_of_other_videos_are_not_published(lake, tmp_path):
    fill(lake, tmp_path)
    tryons = lake.read(TRYON_VIDEOS, where={"checkpoint_id": ID}).to_pylist()
    put(lake, TRYON_VIDEOS, [t | {"tryon_id": f"new-{t['tryon_id']}"} for t in tryons])
    found = evaluation_of(lake, ID)
    assert not found.rates and "run `itryon evaluate`" in found.no_rates and not found.notes
    assert all(v.values == {} for v in found.videos)


def test_a_video_that_cannot_be_read_stops_before_anything_is_there(lake, tmp_path):
    fill(lake, tmp_path)
    rows = lake.read(TRYON_VIDEOS, where={"checkpoint_id": ID}).to_pylist()
    uri = next(r["side_by_side_uri"] for r in rows if r["tryon_id"] == "t-v2")
    lake.blobs.local_path(uri).write_bytes(b"no video")
    with pytest.raises(CannotPublish, match="--no-pictures"):
        publish_checkpoint(lake, ID, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".publish-*"))


@pytest.mark.parametrize("start", ["some/model", "/data/weights"])
def test_a_licence_is_not_guessed(lake, tmp_path, start):
    digest, config = write_export(tmp_path / "export", start)
    add_checkpoint(lake, "c1", weights_sha256=digest, config=config, videos=[])
    (tmp_path / "export").rename(Path(lake.root) / "checkpoints" / "c1")
    with pytest.raises(LicenceUnknown, match="--license"):
        publish_checkpoint(lake, "c1", tmp_path / "out")
    text = publish_checkpoint(lake, "c1", tmp_path / "out", licence="cc-by-nc-4.0").card.read_text()
    data = ModelCard(text).data
    assert data.license == "cc-by-nc-4.0" and data.base_model == ("some/model" if start == "some/model" else None)
    assert "/data" not in text and "published under cc-by-nc-4.0" in text


def tryon(name: str, paired: bool = True, uri: str | None = "u", reason: str | None = None, **values: float) -> TryOn:
    return TryOn(name, name, paired, reason, uri, 0, 17, values, int("interactions" in values))


def test_videos_are_ranked_by_what_was_measured():
    def shown(videos: list[TryOn]) -> list[tuple[str, str]]:
        return [(c.place, c.video.tryon_id) for c in choose(videos)]

    paired = [tryon("a", lpips=0.3, ssim=0.9), tryon("b", lpips=0.1, ssim=0.1), tryon("c", lpips=0.2, ssim=0.5)]
    assert shown(paired) == [("worst", "a"), ("best", "b")]
    assert shown([tryon("a", ssim=0.3), tryon("b", ssim=0.9)]) == [("worst", "a"), ("best", "b")]
    assert shown([tryon("a", lpips=0.3), tryon("b")]) == [("only", "a")]
    unpaired = [tryon("d", False, interactions=1.0), tryon("e", False, interactions=0.0)]
    assert shown([*unpaired, *paired]) == [("worst", "a"), ("best", "b"), ("worst", "e"), ("best", "d")]
    assert shown([tryon(n, False) for n in "zyx"]) == [("example1", "x"), ("example2", "y")]
    assert shown([tryon("a", uri=None, lpips=0.9), tryon("b", reason="no person"), *paired[1:]]) == [
        ("worst", "c"),
        ("best", "b"),
    ]
    assert choose([]) == []
    level = choose([tryon(n, lpips=0.2) for n in "abc"])
    assert "which 3 of them have" in level[0].why and level[0].video != level[1].video


def test_paths_are_cut_down_and_addresses_are_not():
    assert without_paths("put it into /root/.cache/itryon/metrics (zoo)") == "put it into …/metrics (zoo)"
    assert without_paths("see https://example.org/a/b/c, 17x128/96 and a/b/c") == (
        "see https://example.org/a/b/c, 17x128/96 and a/b/c"
    )
    assert without_paths("'/data/x/y.mp4': cut off; ~/films/z.mp4") == "'…/y.mp4': cut off; …/z.mp4"
