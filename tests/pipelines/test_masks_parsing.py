"""The human parsing backend, with networks that honour SegFormer's interface."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.masks.base import Observation
from pipelines.masks.parsing import LABELS, ParsingBackend, labels_at
from pipelines.masks.settings import MasksSettings, ParsingSettings
from pipelines.masks.stage import AgnosticMaskStage, compose
from pipelines.store import DeltaStore
from tests.pipelines.mask_figures import (
    silhouette,
    standing,
    task,
    write_tables,
)


class PaintedParser:
    """A network that honours the SegFormer interface and reads the class from the colour of the pixel."""

    def __init__(self, colours: dict[str, tuple[int, int, int]]):
        import torch

        self.config = SimpleNamespace(id2label=dict(enumerate(LABELS)))
        self.table = [colours.get(name) for name in LABELS]
        self.weight = torch.zeros(1)
        self.calls: list[tuple[int, ...]] = []

    def parameters(self):
        return iter([self.weight])

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, pixel_values):
        import torch

        self.calls.append(tuple(pixel_values.shape))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        rgb = 255 * (pixel_values.permute(0, 2, 3, 1) * std + mean)[:, ::4, ::4]
        scores = [
            torch.full(rgb.shape[:3], -1e6) if c is None else -(rgb - torch.tensor(c, dtype=torch.float32)).norm(dim=-1)
            for c in self.table
        ]
        return SimpleNamespace(logits=torch.stack(scores, 1))


COLOURS = {
    "background": (0, 0, 0),
    "face": (255, 0, 0),
    "top": (0, 255, 0),
    "hands": (0, 0, 255),
    "pants": (255, 255, 0),
}


def painted(height: int, width: int) -> tuple[np.ndarray, dict[str, tuple[slice, slice]]]:
    places = {
        "face": (slice(height // 10, height // 4), slice(2 * width // 5, 3 * width // 5)),
        "top": (slice(height // 3, 2 * height // 3), slice(width // 4, 3 * width // 4)),
        "pants": (slice(2 * height // 3, height), slice(width // 3, 2 * width // 3)),
        "hands": (slice(height // 2, 7 * height // 12), slice(width // 2, 5 * width // 8)),
    }
    picture = np.zeros((height, width, 3), np.uint8)
    for name, place in places.items():
        picture[place] = COLOURS[name]
    return picture, places


@pytest.mark.parametrize(("category", "inside"), [("upper_body", "top"), ("lower_body", "pants"), ("dresses", "top")])
def test_parsing_backend_masks_the_classes_of_the_category(category, inside):
    picture, places = painted(301, 233)
    options = MasksSettings(backend="parsing", temporal_window=1)
    network = PaintedParser(COLOURS)
    backend = ParsingBackend(options, network)
    backend.setup(1)
    seen = [Observation(i, None, None, (301, 233), 1.0) for i in range(3)]
    masks = [m for _, m in compose(zip(seen, backend.regions(seen, [picture] * 3, category)), options)]
    assert network.calls == [(3, 3, 576, 384)]
    shrunk = {k: tuple(slice(s.start + 6, s.stop - 6) for s in v) for k, v in places.items()}
    assert masks[0][shrunk["face"]].max() == 0
    assert masks[0][shrunk["hands"]].max() == 0
    cloth = masks[0][places[inside]].copy()
    if inside == "top":
        outside_hand = cloth[: cloth.shape[0] // 3]
        assert outside_hand.mean() > 0.99
    else:
        assert cloth.mean() > 0.97
    assert masks[0][shrunk["pants"]].mean() == pytest.approx(float(category != "upper_body"), abs=0.2)


def test_parsing_stage_reads_the_video_and_accounts_inference(lake: DeltaStore, moving_video):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    small = SegformerConfig(
        num_labels=18, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=16,
    )  # fmt: skip
    folder = moving_video.parent / "parser"
    SegformerForSemanticSegmentation(small).save_pretrained(folder)
    options = MasksSettings(backend="parsing", parsing=ParsingSettings(model=str(folder), device="cpu"))
    landmarks = standing(64, 96, 16, (48, 36))
    frames = 9
    write_tables(lake, [landmarks] * frames, [silhouette(landmarks, 64, 96)] * frames)
    work = task(lake, 64, 96, uri=lake.blobs.put_file(moving_video))
    stage = pickle.loads(pickle.dumps(AgnosticMaskStage(options)))
    stage.setup(1)
    rows = pa.Table.from_batches(list(stage.annotate(work)))
    assert rows["frame"].to_pylist() == list(range(frames))
    assert set(rows["source"].to_pylist()) == {"parsing"}
    assert work.model_seconds > 0
    assert stage.weights() == {"human_parser": f"{folder}@unpinned"}


def test_parser_that_is_not_there_or_has_other_classes_says_what_to_do(tmp_path):
    options = MasksSettings(backend="parsing", parsing=ParsingSettings(model=str(tmp_path / "nothing")))
    with pytest.raises(RuntimeError, match=r"masks\.backend: geometric"):
        ParsingBackend(options).setup(1)
    network = PaintedParser(COLOURS)
    network.config.id2label = {0: "background", 1: "hat"}
    with pytest.raises(RuntimeError, match="needed are those of fashn-human-parser"):
        ParsingBackend(MasksSettings(backend="parsing"), network).setup(1)


def test_labels_at_enlarges_scores_and_not_classes():
    scores = np.zeros((18, 4, 4), np.float32)
    scores[3, :, 2:] = 1.0
    scores[0, :, :2] = 1.0
    labels = labels_at(scores, (31, 47))
    assert labels.shape == (31, 47)
    assert set(np.unique(labels)) == {0, 3}
    assert (labels[:, :20] == 0).all() and (labels[:, 28:] == 3).all()
