"""The HaMeR adapter's mathematics, with a small model in place of the network and of MANO.

What the official package computes is written out here a second time from its published maths: the box, the mirrored
and normalised crop, and the camera of the full frame.
"""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from models.perception.hands import hamer
from models.perception.hands.base import HandObservation, HandTrack

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WIDTH, HEIGHT = 640, 480
FOCAL = 5000.0 / 256 * WIDTH


class Config(dict):
    """Attribute access and `defrost`/`freeze`, as yacs has them."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def defrost(self) -> None:
        self.frozen = False

    def freeze(self) -> None:
        self.frozen = True


def config() -> Config:
    return Config(
        MODEL=Config(
            IMAGE_SIZE=256,
            IMAGE_MEAN=MEAN.tolist(),
            IMAGE_STD=STD.tolist(),
            BACKBONE=Config(TYPE="vit", PRETRAINED_WEIGHTS="elsewhere.pth"),
        ),
        EXTRA=Config(FOCAL_LENGTH=5000),
    )


class TinyMano(torch.nn.Module):
    """A rigid cloud of 778 points that `global_orient` turns about its wrist and the first beta stretches."""

    def __init__(self) -> None:
        super().__init__()
        points = np.random.default_rng(0).normal((0.09, 0.0, 0.01), 0.05, (778, 3))
        self.register_buffer("points", torch.tensor(points, dtype=torch.float32))
        self.faces = np.array([[0, 1, 2], [2, 1, 3]])

    def forward(self, global_orient, hand_pose, betas, pose2rot):
        assert pose2rot is False and hand_pose.shape[1:] == (15, 3, 3)
        rest = self.points * (1 + betas[:, :1, None])
        wrist = rest[:, :1]
        posed = (rest - wrist) @ global_orient[:, 0].transpose(1, 2) + wrist
        return SimpleNamespace(joints=posed[:, :21], vertices=posed)


class TinyHamer(torch.nn.Module):
    """Answers with given cameras and rotations, in the form HaMeR's forward documents, and keeps what it was asked."""

    def __init__(self, cam: np.ndarray, orient: np.ndarray, betas: np.ndarray) -> None:
        super().__init__()
        self.mano = TinyMano()
        self.answer = [torch.tensor(a, dtype=torch.float32) for a in (cam, orient, betas)]
        self.batches: list[dict[str, torch.Tensor]] = []

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.batches.append(batch)
        cam, orient, betas = self.answer
        pose = torch.eye(3).expand(len(cam), 15, 3, 3)
        out = self.mano(orient[:, None], pose, betas, pose2rot=False)
        return {
            "pred_cam": cam.clone(),
            "pred_mano_params": {"global_orient": orient[:, None], "hand_pose": pose, "betas": betas},
            "pred_keypoints_3d": out.joints,
            "pred_vertices": out.vertices,
        }


class GivenFinder:
    """Finds the hands it is given."""

    def __init__(self, hands: list[HandObservation]) -> None:
        self.hands = hands

    def reset(self, inference=nullcontext) -> None:
        pass

    def __call__(self, rgb: np.ndarray, pose: np.ndarray | None) -> list[HandObservation]:
        return self.hands


def frame() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / a + y / b) for a, b in ((17, 23), (29, 13), (11, 41))]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def hands() -> list[HandObservation]:
    rng = np.random.default_rng(1)
    return [
        HandObservation(side, 0.9, rng.uniform(0, 1, (21, 2)) * size + corner, np.zeros((21, 3)))
        for side, size, corner in (("left", (60, 110), (300, 200)), ("right", (90, 50), (100, 260)))
    ]


@pytest.fixture
def estimator(monkeypatch: pytest.MonkeyPatch):
    cam = np.array([[0.9, 0.05, -0.1], [1.1, -0.02, 0.07]])
    orient = Rotation.from_rotvec([[0.2, -0.4, 0.6], [-0.5, 0.3, 0.1]]).as_matrix()
    betas = np.zeros((2, 10))
    betas[:, 0] = (0.1, 0.3)
    model, cfg = TinyHamer(cam, orient, betas), config()
    cfg.MODEL.BBOX_SHAPE = [192, 256]
    monkeypatch.setattr(hamer, "require", lambda data: None)
    monkeypatch.setattr(hamer, "load_model", lambda data, device: (model, cfg))
    return hamer.HamerHands(GivenFinder(hands()), device="cpu"), model


def test_box_is_widened_to_the_aspect_of_the_backbone() -> None:
    points = np.array([[10.0, 20.0], [40.0, 30.0]])  # 30 x 10
    centre, side = hamer.hand_box(points, 2.0, (192, 256))
    # 60 wide is kept; 20 high grows to 60 * 256/192 = 80.
    np.testing.assert_allclose(centre, (25, 25))
    assert side == pytest.approx(80)
    assert hamer.hand_box(points, 2.0, None)[1] == pytest.approx(60)
    assert hamer.hand_box(points[:, ::-1], 2.0, (192, 256))[1] == pytest.approx(60)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", [120.0, 380.0, 1500.0])
def test_crop_is_the_mirrored_blurred_resampled_square(flip: bool, side: float) -> None:
    rgb, centre, size = frame(), np.array([310.3, 222.8]), 256
    ours = hamer.crop(rgb, centre, side, size, flip)
    image = rgb.astype(np.float64)
    shrink = side / size / 2
    if shrink > 1.1:
        image = gaussian_filter(image, ((shrink - 1) / 2, (shrink - 1) / 2, 0), mode="nearest")
    if flip:
        image, centre = image[:, ::-1], np.array([WIDTH - centre[0] - 1, centre[1]])
    column = centre[0] + (np.arange(size) - size / 2) * side / size
    row = centre[1] + (np.arange(size) - size / 2) * side / size
    inside_x = (column >= 0) & (column <= WIDTH - 1)
    inside_y = (row >= 0) & (row <= HEIGHT - 1)
    grid = np.meshgrid(row, column, indexing="ij")
    expected = np.stack([map_coordinates(image[..., c], grid, order=1, mode="nearest") for c in range(3)], -1)
    both = inside_y[:, None] & inside_x[None]
    # OpenCV rounds source positions to a 32nd of a pixel.
    assert np.abs(ours - expected)[both].max() < 4.0
    assert np.abs(ours - expected)[both].mean() < 0.5
    outside = (column < -side / size) | (column > WIDTH - 1 + side / size)
    assert not ours[:, outside].any()


def test_network_is_asked_for_normalised_mirrored_crops(estimator) -> None:
    hands_, model = estimator
    hands_.detect(frame(), None)
    (batch,) = model.batches
    assert set(batch) == {"img", "personid", "box_center", "box_size", "img_size", "right"}
    assert batch["img"].shape == (2, 3, 256, 256) and batch["right"].tolist() == [0, 1]
    np.testing.assert_allclose(batch["img_size"].numpy(), [[WIDTH, HEIGHT]] * 2)
    for i, flip in ((0, True), (1, False)):
        raw = hamer.crop(frame(), batch["box_center"][i].numpy().astype(float), float(batch["box_size"][i]), 256, flip)
        expected = (raw / 255 - MEAN) / STD
        np.testing.assert_allclose(batch["img"][i].numpy(), np.moveaxis(expected, -1, 0), atol=0.03)


def test_full_frame_camera_agrees_with_the_crop(estimator) -> None:
    """A point seen through the crop's own camera falls where the full frame's camera puts it."""
    hands_, model = estimator
    seen = hands_.detect(frame(), None)
    (batch,) = model.batches
    cam, orient, betas = model.answer
    pose = torch.eye(3).expand(2, 15, 3, 3)
    points = model.mano(orient[:, None], pose, betas, pose2rot=False).joints.numpy().astype(float)
    for i, hand in enumerate(seen):
        centre, side = batch["box_center"][i].numpy().astype(float), float(batch["box_size"][i])
        s, tx, ty = cam[i].numpy().astype(float)
        # HaMeR's crop: focal length 5000, image 256, principal point in its middle.
        depth = points[i, :, 2] + 2 * 5000 / (256 * s)
        inside = 5000 * (points[i, :, :2] + (tx, ty)) / depth[:, None]
        if hand.handedness == "left":
            inside[:, 0] *= -1  # the crop was mirrored
        expected = centre + inside * side / 256
        np.testing.assert_allclose(hand.points, expected, atol=0.6)
        assert hand.extra["translation"][2] == pytest.approx(2 * FOCAL / (side * s), rel=1e-6)


def test_fit_shares_the_shape_and_places_the_wrist(estimator) -> None:
    hands_, model = estimator
    seen = hands_.detect(frame(), None)
    tracks = {
        h.handedness: HandTrack(
            h.handedness,
            np.arange(3),
            np.full(3, h.score),
            np.stack([h.points] * 3),
            np.stack([h.world] * 3),
            {k: np.stack([v] * 3) for k, v in h.extra.items()},
        )
        for h in seen
    }
    camera = hands_.camera(WIDTH, HEIGHT)
    assert camera.fx == pytest.approx(FOCAL) and camera.cx == WIDTH / 2
    fits = hands_.fit(tracks, camera)
    shared = np.median([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])
    _, orient, _ = model.answer
    mirror = np.diag([-1.0, 1.0, 1.0])
    for i, side in enumerate(("left", "right")):
        fit = fits[side]
        assert fit.pose.shape == (3, 16, 3) and fit.shape[0] == pytest.approx(shared)
        turn = orient[i].numpy().astype(float)
        expected = mirror @ turn @ mirror if side == "left" else turn
        np.testing.assert_allclose(Rotation.from_rotvec(fit.pose[0, 0]).as_matrix(), expected, atol=1e-6)
        keypoints = hands_.keypoints(side, fit)
        np.testing.assert_allclose(keypoints[:, 0], fit.translation, atol=1e-6)
        rest = model.mano.points.numpy()[:21].astype(float) * (1 + shared)
        about = (rest - rest[0]) @ turn.T
        if side == "left":
            about = about * (-1, 1, 1)
        np.testing.assert_allclose(keypoints[0], about + fit.translation[0], atol=1e-5)


def test_everything_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(hamer.HamerUnavailable) as e:
        hamer.require(tmp_path)
    message = str(e.value)
    for name in ("hamer.ckpt", "model_config.yaml", "mano_mean_params.npz", "MANO_RIGHT.pkl", "mano.is.tue.mpg.de"):
        assert name in message
    assert "github.com/geopavlakos/hamer" in message
    assert hamer.DATA_ENV in message and "hands.hamer.data is for finding hands alone" in message
    monkeypatch.setenv(hamer.DATA_ENV, str(tmp_path / "data"))
    assert hamer.data_folder() == tmp_path / "data"
    with pytest.raises(hamer.HamerUnavailable, match="MANO_RIGHT"):
        hamer.mano_hand("left", np.zeros((1, 16, 3)), np.zeros(10), np.zeros((1, 3)))
    with pytest.raises(hamer.HamerUnavailable, match=r"hamer\.ckpt"):
        hamer.checkpoint_digest(tmp_path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `hamer` and its files where the adapter looks for them."""
    for name in (
        "data/mano/MANO_RIGHT.pkl",
        "data/mano_mean_params.npz",
        "hamer_ckpts/model_config.yaml",
        "hamer_ckpts/checkpoints/hamer.ckpt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    calls: dict[str, dict] = {}

    class Loaded(TinyHamer):
        @classmethod
        def load_from_checkpoint(cls, path: str, **options) -> Loaded:
            calls["load"] = {"path": path, **options}
            return cls(np.ones((1, 3)), np.eye(3)[None], np.zeros((1, 10)))

    package, models_, configs = (types.ModuleType(n) for n in ("hamer", "hamer.models", "hamer.configs"))
    package.__spec__ = SimpleNamespace()
    configs.CACHE_DIR_HAMER = "./_DATA"
    configs.get_config = lambda path, update_cachedir: calls.setdefault("config", {"path": path}) and config()
    models_.HAMER = Loaded
    models_.MANO = lambda **options: TinyMano()
    package.configs, package.models, package.calls = configs, models_, calls
    for module in (package, models_, configs):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    hamer._mano_layer.cache_clear()
    yield tmp_path
    hamer._mano_layer.cache_clear()


def test_only_the_network_is_loaded(installed: Path) -> None:
    model, cfg = hamer.load_model(installed)
    package = sys.modules["hamer"]
    load = package.calls["load"]
    assert load["path"].endswith("hamer.ckpt") and load["init_renderer"] is False and load["strict"] is False
    assert str(installed) == package.configs.CACHE_DIR_HAMER
    assert cfg.MODEL.BBOX_SHAPE == [192, 256] and "PRETRAINED_WEIGHTS" not in cfg.MODEL.BACKBONE
    assert not model.training and cfg.frozen


def test_rows_are_posed_again_for_rendering(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hamer.DATA_ENV, str(installed))
    pose = np.zeros((1, 16, 3))
    pose[0, 0] = (0.2, 0.5, -0.3)
    wrist = np.array([[0.1, 0.2, 20.0]])
    right, faces = hamer.mano_hand("right", pose, np.zeros(10), wrist)
    np.testing.assert_allclose(right[0, 0], wrist[0], atol=1e-6)
    left, flipped = hamer.mano_hand("left", pose * (1, -1, -1), np.zeros(10), wrist)
    np.testing.assert_allclose((left - wrist) * (-1, 1, 1), right - wrist, atol=1e-6)
    np.testing.assert_array_equal(flipped, faces[:, ::-1])


def test_wrist_opening_is_closed() -> None:
    # A cube without its lid.
    sides = [(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7), (3, 2, 1, 0)]
    faces = np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])
    whole = hamer.closed(faces)
    edges = {(int(a), int(b)) for f in whole for a, b in zip(f, np.roll(f, -1))}
    assert len(whole) == 12 and all((b, a) in edges for a, b in edges)
    np.testing.assert_array_equal(hamer.closed(whole), whole)
