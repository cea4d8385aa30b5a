"""The ablation's verdicts, intervals and bookkeeping."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.ablation import report
from benchmarks.ablation.data import pairs
from benchmarks.ablation.denoising import frame_errors
from benchmarks.ablation.evaluate import interaction_frames, response
from benchmarks.ablation.plan import ROWS, AblationSettings, Job, jobs
from benchmarks.ablation.run import read_result, result_file
from models.training.config import TrainConfig
from models.training.data import ClipSet
from models.training.objective import step_generator
from pipelines.evaluation.ablation import interval
from tests.models.training_clips import make_set
from tests.models.training_runs import config

FRAMES, SIZE = 6, 20


@pytest.fixture
def truths() -> tuple[np.ndarray, np.ndarray]:
    """A clip done and undone: a strip of cloth turns white from the third frame on."""
    undone = np.full((FRAMES, SIZE, SIZE, 3), 60, np.uint8)
    done = undone.copy()
    done[3:, 5:15, 8:12] = 250
    return done, undone


SPAN = (2, 4)


def test_truths_are_told_apart(truths):
    done, undone = truths
    assert response(done, done, undone, SPAN) == pytest.approx(1)
    assert response(undone, done, undone, SPAN) == 0
    half = ((done.astype(int) + undone) // 2).astype(np.uint8)
    assert response(half, done, undone, SPAN) == pytest.approx(0.5, abs=0.01)
    assert response(done[::-1], done, undone, SPAN) == pytest.approx(-1)


def test_only_what_the_interaction_changes_counts(truths):
    done, undone = truths
    elsewhere = done.copy()
    elsewhere[3:, :, :5] = 0  # a background that changes, where the interaction does not show
    assert response(elsewhere, done, undone, SPAN) == pytest.approx(1)


def test_what_looks_done_all_the_time_is_no_interaction(truths):
    done, undone = truths
    always = np.broadcast_to(done[-1], done.shape)
    assert response(always, done, undone, SPAN) == 0
    tinted = (done.astype(int) * 0.5 + 40).astype(np.uint8)  # other colours, the same change but half as strong
    assert response(tinted, done, undone, SPAN) == pytest.approx(0.5, abs=0.01)


def test_motion_of_the_person_is_no_interaction(truths):
    done, undone = (v.copy() for v in truths)
    for video in (done, undone):
        video[4:, 8:12, 6:10] = 130  # a hand that comes and stays
    assert response(undone, done, undone, SPAN) == 0
    assert response(done, done, undone, SPAN) == pytest.approx(1)


def test_a_blur_is_no_interaction_though_the_person_moves():
    """An open jacket moves to the right and is closed meanwhile."""
    undone = np.full((FRAMES, 40, 40, 3), 60, np.uint8)
    undone[:2, 10:30, 12:18] = 250
    undone[2:, 10:30, 15:21] = 250
    done = undone.copy()
    done[4:] = 60
    blur = np.full_like(undone, 110)
    assert response(done, done, undone, SPAN) == pytest.approx(1)
    assert response(undone, done, undone, SPAN) == pytest.approx(0)
    assert response(blur, done, undone, SPAN) == pytest.approx(0)
    faint = (0.5 * done.astype(float) + 0.5 * blur).astype(np.uint8)
    assert response(faint, done, undone, SPAN) == pytest.approx(0.5, abs=0.01)


def test_frames_in_which_the_interaction_shows(truths):
    assert interaction_frames(*truths).tolist() == [False, False, False, True, True, True]


def test_an_interaction_at_either_end_of_the_clip_has_a_verdict(truths):
    done, undone = truths
    for span in ((0, 4), (2, FRAMES)):
        assert response(done, done, undone, span) == pytest.approx(1)


def test_an_interaction_that_nobody_sees_has_no_verdict(truths):
    with pytest.raises(ValueError, match="same done and undone"):
        response(truths[0], truths[1], truths[1], SPAN)


def test_interval_covers_the_mean_and_shrinks_with_clips():
    rng = np.random.default_rng(3)
    few, many = (interval((rng.random((2, n)) < 0.4).astype(float)) for n in (10, 400))
    for found in (few, many):
        assert found.low <= found.mean <= found.high
    # The normal approximation, by itself: 1.96 standard errors either side, clips shared by seeds.
    assert many.high - many.low < 0.5 * (few.high - few.low)
    constant = interval(np.ones((3, 5)))
    assert (constant.low, constant.mean, constant.high) == (1, 1, 1)


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(0.5, 0.2, (1, 500))
    found = interval(values)
    error = 1.96 * values.std() / np.sqrt(500)
    assert found.low == pytest.approx(values.mean() - error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.2 * error)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_every_row_is_a_training_configuration(row):
    settings = AblationSettings()
    config = TrainConfig(
        manifest="m",
        blob_root="b",
        output_dir="o",
        steps=settings.steps,
        model=settings.model | row.model,
        **row.training,
    )
    assert config.use_hands or row.name in ("a", "b")


def test_rows_differ_from_the_full_one_in_one_thing_only():
    full = next(r for r in ROWS if r.name == "e")
    for row in ROWS:
        if row.main:
            continue
        differs = {k for k in row.training if row.training[k] != full.training.get(k)} | set(row.model)
        assert len(differs) == 1, row.name
        assert row.batches == full.batches


def test_first_seed_first_then_variants_then_other_seeds():
    wanted = jobs(2)
    names = [j.name for j in wanted]
    assert names[:5] == ["a-0", "b-0", "c-0", "d-0", "e-0"]
    assert names[-5:] == ["a-1", "b-1", "c-1", "d-1", "e-1"]
    assert len(names) == len(set(names)) == len(ROWS) + 5
    with pytest.raises(ValueError, match="no row zzz"):
        jobs(1, ("zzz",))


def _result(job: Job, settings: AblationSettings, asked: list[float], quiet: list[float]) -> dict:
    clips = [
        {"clip": f"c{i}", "asked": a, "quiet": q, "unasked": 1 - q}
        | {"error": 0.1, "error_interaction": 0.2, "error_changed": 0.4, "unchanged": 0.3}
        for i, (a, q) in enumerate(zip(asked, quiet))
    ]
    return {"row": job.row.name, "seed": job.seed, "settings": settings.digest, "clips": clips}


def test_results_of_other_settings_are_not_read(tmp_path):
    settings, job = AblationSettings(), jobs(1)[0]
    assert read_result(job, settings, tmp_path) is None
    result_file(job, tmp_path).write_text(json.dumps(_result(job, settings, [0.7], [0.2])))
    assert read_result(job, settings, tmp_path) is not None
    assert read_result(job, AblationSettings(steps=7), tmp_path) is None


def test_other_held_back_clips_are_measured_without_training_anew():
    settings = AblationSettings()
    for other in ({"test_seed": 5}, {"test_clips": 7}, {"guidance_scale": 2.0}, {"denoising_steps": 3}, {"measure": 9}):
        changed = AblationSettings(**other)
        assert changed.digest != settings.digest and changed.training_digest == settings.training_digest
    assert AblationSettings(test_seed=5).test_batch != settings.test_batch
    for other in ({"steps": 7}, {"interactive_clips": 7}, {"learning_rate": 0.5}, {"design": 9}):
        assert AblationSettings(**other).training_digest != settings.training_digest


def test_table_shows_shares_over_seeds(tmp_path):
    settings = AblationSettings()
    for job in jobs(2, ("e",)):
        asked = [0.7, 0.6, 0.4, 0.9] if job.seed == 0 else [0.7, 0.6, 0.6, 0.9]
        result_file(job, tmp_path).write_text(json.dumps(_result(job, settings, asked, [0.1, 0.2, 0.6, 0.3])))
    found = report.measured(settings, tmp_path)
    text = report.markdown(settings, found)
    (row,) = [line for line in text.splitlines() if line.startswith("| (e)")]
    isr, false, leaked = (cell.split("(")[0].strip() for cell in row.split("|")[3:6])
    assert (isr, false, leaked) == ("88 %", "25 %", "75 %")
    report.plot(found, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_seeds_measured_on_other_clips_are_not_averaged():
    settings = AblationSettings()
    one, two = (_result(job, settings, [0.7] * n, [0.1] * n) for n, job in zip((2, 3), jobs(2, ("e",))))
    with pytest.raises(ValueError, match="different clips"):
        report.summary([one, two])


def test_clips_to_train_on_are_done_and_left_undone_in_the_same_garment(tmp_path):
    rendered, folder = tmp_path / "rendered", tmp_path / "pairs"
    (rendered / "garments").mkdir(parents=True)
    (rendered / "garments" / "red.png").touch()
    names = ["clip_0.mp4", "clip_0_other.mp4", "clip_0_undone.mp4", "clip_1.mp4", "clip_1_other.mp4"]
    (rendered / "manifest.jsonl").write_text("".join(f'{{"video": "{n}"}}\n' for n in names))
    for name in names:
        (rendered / name).touch()
    for _ in range(2):
        assert pairs(rendered, folder) == folder
        kept = {"clip_0_other.mp4", "clip_0_undone.mp4", "clip_1.mp4", "clip_1_other.mp4"}
        assert {p.name for p in folder.glob("*.mp4")} == kept
        assert {line["video"] for line in map(json.loads, (folder / "manifest.jsonl").open())} == kept
        assert (folder / "garments" / "red.png").is_file()
    assert len(list(rendered.glob("*.mp4"))) == len(names), "what is rendered is not rendered again"


def test_errors_of_the_frames_that_the_loss_weighs_are_told_from_the_others(tmp_path):
    make_set(tmp_path)
    run = config(tmp_path, tmp_path / "run", caption_dropout=0.9, action_dropout=0.9, reference_dropout=0.9)
    clips = ClipSet(run.manifest, run.blob_root, "train")
    clips.rows = [r for r in clips.rows if 0 < sum(r["action_mask"]) < len(r["action_mask"])]
    assert clips.rows

    class Off(torch.nn.Module):
        """Predicts no velocity at all, so that the error is the velocity itself."""

        def forward(self, hidden_states, timestep, return_dict, **conditions):
            return (torch.zeros_like(hidden_states),)

    found = frame_errors(Off(), clips, run, draws=2)
    assert found.keys() == {r["clip_id"] for r in clips.rows}
    for index, row in enumerate(clips.rows):
        batch = clips.collate([index])
        clean = torch.cat([batch.reference, batch.target], 2)[0].numpy()
        noise = torch.randn((1, *clean.shape), generator=step_generator(1, index))[0].numpy()
        squares = ((noise - clean) ** 2)[:, batch.reference.shape[2] :]
        acting = np.array(row["action_mask"]) > 0
        assert found[row["clip_id"]].acting == pytest.approx(squares[:, acting].mean(), rel=1e-5)
        assert found[row["clip_id"]].resting == pytest.approx(squares[:, ~acting].mean(), rel=1e-5)
