"""HaMeR behind the hand interface: the official package's model, with boxes from the embedded hand finder.

HaMeR (Pavlakos et al., "Reconstructing Hands in 3D with Transformers", CVPR 2024) and MANO come under licences of their
own, so nothing of them is here: `hamer` is imported when asked for, and what is missing is named in the error. Only its
network is used. Its own detectors (ViTDet, ViTPose) are replaced by `HandFinder`, and its data set, which blurs the
whole frame for every hand, by `crop`.

Left hands are mirrored into the network and back. Poses in the table are those of the hand as it is: for a left hand
they are mirrored, which makes them parameters of MANO's left hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.perception.hand_mesh import axis_angles, mirrored, rotation_matrices
from models.perception.hands.base import MIRROR, Camera, HandEstimator, HandFit, HandObservation, HandTrack, Inference
from models.perception.hands.finder import HandFinder

TOPOLOGY = "mano"
DATA_ENV = "ITRYON_HAMER"
_CHUNK = 256


class HamerUnavailable(RuntimeError):
    """The hamer backend was asked for and something of it is missing."""


def data_folder(data: str | os.PathLike[str] | None = None) -> Path:
    """HaMeR's `_DATA` folder: the argument, else `ITRYON_HAMER`, else `./_DATA`."""
    return Path(data or os.environ.get(DATA_ENV) or "_DATA").expanduser().absolute()


def checkpoint_path(data: Path) -> Path:
    """HaMeR's checkpoint below its data folder."""
    return data / "hamer_ckpts" / "checkpoints" / "hamer.ckpt"


def require(data: Path, network: bool = True) -> None:
    """Check that HaMeR can run.

    Args:
        data: HaMeR's data folder.
        network: Whether its network is needed, or MANO alone.

    Raises:
        HamerUnavailable: Names everything that is missing and where each thing comes from.
    """
    release = "part of hamer_demo_data.tar.gz, which fetch_demo_data.sh of github.com/geopavlakos/hamer downloads"
    files = {
        data
        / "data"
        / "mano"
        / "MANO_RIGHT.pkl": "MANO, for non-commercial use: register at https://mano.is.tue.mpg.de",
    }
    if network:
        checkpoint = checkpoint_path(data)
        files |= {
            checkpoint: release,
            checkpoint.parent.parent / "model_config.yaml": release,
            data / "data" / "mano_mean_params.npz": release,
        }
    missing = [f"{path} ({source})" for path, source in files.items() if not path.is_file()]
    if importlib.util.find_spec("hamer") is None:
        missing.insert(
            0,
            "the package hamer (not on PyPI: clone github.com/geopavlakos/hamer and `pip install --no-deps -e .`, "
            "then pytorch-lightning, yacs, smplx, einops, timm, pyrender and chumpy-fixed; detectron2, mmcv and "
            "ViTPose are not needed)",
        )
    if missing:
        raise HamerUnavailable(
            "The hamer backend lacks:\n- "
            + "\n- ".join(missing)
            + f"\nPut the files there, or set the environment variable {DATA_ENV} to the folder that holds them (the "
            "setting hands.hamer.data is for finding hands alone), or set the hands backend to mediapipe"
        )


def checkpoint_digest(data: str | os.PathLike[str] | None = None) -> str:
    """SHA-256 of the checkpoint, computed once for each state of the file.

    Raises:
        HamerUnavailable: There is none.
    """
    path = checkpoint_path(data_folder(data))
    if not path.is_file():
        require(data_folder(data))
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def load_model(data: Path, device: str = "cpu") -> tuple[Any, Any]:
    """HaMeR's network and configuration, without its renderers.

    The checkpoint and MANO are pickles, which can run code when loaded: they have to be the authors' own files.

    Raises:
        HamerUnavailable: Something is missing.
    """
    require(data)
    from hamer import configs
    from hamer.models import HAMER

    # Where relative paths of the configuration start; the package's own value depends on the working directory.
    configs.CACHE_DIR_HAMER = str(data)
    checkpoint = checkpoint_path(data)
    cfg = configs.get_config(str(checkpoint.parent.parent / "model_config.yaml"), update_cachedir=True)
    cfg.defrost()
    if cfg.MODEL.BACKBONE.TYPE == "vit" and "BBOX_SHAPE" not in cfg.MODEL:
        cfg.MODEL.BBOX_SHAPE = [192, 256]
    # The checkpoint holds the backbone; the file it was trained from is not released.
    cfg.MODEL.BACKBONE.pop("PRETRAINED_WEIGHTS", None)
    cfg.freeze()
    model = HAMER.load_from_checkpoint(str(checkpoint), strict=False, cfg=cfg, init_renderer=False, map_location=device)
    return model.to(device).eval(), cfg


def hand_box(points: np.ndarray, scale: float, aspect: tuple[float, float] | None) -> tuple[np.ndarray, float]:
    """Centre (2,) and side of the square that HaMeR looks at, pixels.

    Args:
        points: (21, 2) keypoints.
        scale: How much larger than the box around the keypoints.
        aspect: Width and height that the box is first widened to, `MODEL.BBOX_SHAPE`.
    """
    low, high = points.min(0), points.max(0)
    width, height = np.maximum((high - low) * scale, 1e-3)
    if aspect is not None:
        width, height = max(width, height * aspect[0] / aspect[1]), max(height, width * aspect[1] / aspect[0])
    return (low + high) / 2, float(max(width, height))


def crop(rgb: np.ndarray, centre: np.ndarray, side: float, size: int, flip: bool) -> np.ndarray:
    """The square around `centre` as (size, size, 3) float32, 0 to 255, mirrored for left hands.

    Shrinking by more than 2.2 is blurred first, as HaMeR's data set does, but only where it is looked at.
    """
    shrink = side / size / 2.0
    k = size / side
    origin = np.zeros(2)
    image = rgb
    if shrink > 1.1:
        sigma = (shrink - 1) / 2
        margin = int(4 * sigma + 0.5) + 2
        low = np.clip(np.floor(centre - side / 2) - margin, 0, (rgb.shape[1] - 1, rgb.shape[0] - 1)).astype(int)
        high = np.clip(np.ceil(centre + side / 2) + margin, low + 1, (rgb.shape[1], rgb.shape[0])).astype(int)
        image = rgb[low[1] : high[1], low[0] : high[0]].astype(np.float32)
        kernel = 2 * int(4 * sigma + 0.5) + 1
        image = cv2.GaussianBlur(image, (kernel, kernel), sigma, borderType=cv2.BORDER_REPLICATE)
        origin = low.astype(float)
    x, y = centre - origin
    across = -k if flip else k
    matrix = np.array([[across, 0, size / 2 - across * x], [0, k, size / 2 - k * y]])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT).astype(
        np.float32
    )


def full_frame_translation(
    cam: np.ndarray, centre: np.ndarray, side: np.ndarray, frame: tuple[int, int], focal: float
) -> np.ndarray:
    """Weak-perspective cameras of crops (N, 3: scale, x, y) as translations (N, 3) before one camera of the frame.

    Args:
        cam: `pred_cam` of unmirrored hands.
        centre: (N, 2) centres of the crops, pixels.
        side: (N,) sides of the crops, pixels.
        frame: Width and height.
        focal: Focal length of the frame's camera, pixels.
    """
    pixels = side * cam[:, 0] + 1e-9
    away = 2 * (centre - np.array(frame) / 2) / pixels[:, None]
    return np.column_stack([away + cam[:, 1:], 2 * focal / pixels])


class HamerHands(HandEstimator):
    """HaMeR on every hand that the finder finds.

    Args:
        finder: Finds the hands, whose keypoints give the boxes.
        data: HaMeR's data folder; see `data_folder`.
        device: auto, cpu or cuda.
        box_scale: Side of the crop in sides of the box around the keypoints.

    Raises:
        HamerUnavailable: The package or its files are missing.
    """

    source = "hamer"
    topology = TOPOLOGY

    def __init__(self, finder: HandFinder, data: str | None = None, device: str = "auto", box_scale: float = 2.0):
        require(data_folder(data))
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model, self._cfg = load_model(data_folder(data), device)
        self._device, self._finder, self._scale = device, finder, box_scale
        self._inference: Inference = nullcontext
        self._mean = 255.0 * np.asarray(self._cfg.MODEL.IMAGE_MEAN, np.float32)
        self._std = 255.0 * np.asarray(self._cfg.MODEL.IMAGE_STD, np.float32)

    def camera(self, width: int, height: int) -> Camera:
        """The long camera that HaMeR's crops imply for the full frame."""
        focal = float(self._cfg.EXTRA.FOCAL_LENGTH) / float(self._cfg.MODEL.IMAGE_SIZE) * max(width, height)
        return Camera(focal, focal, width / 2, height / 2)

    def reset(self, inference: Inference = nullcontext) -> None:
        """Forget the video before."""
        self._inference = inference
        self._finder.reset(inference)

    def detect(self, rgb: np.ndarray, pose: np.ndarray | None) -> list[HandObservation]:
        """Hands in the next frame, each with MANO parameters in `extra`."""
        found = self._finder(rgb, pose)
        return self._regress(rgb, found) if found else []

    def _regress(self, rgb: np.ndarray, found: list[HandObservation]) -> list[HandObservation]:
        import torch

        size = int(self._cfg.MODEL.IMAGE_SIZE)
        boxes = [hand_box(h.points, self._scale, self._cfg.MODEL.get("BBOX_SHAPE", None)) for h in found]
        right = np.array([h.handedness == "right" for h in found])
        centre, side = np.array([b[0] for b in boxes]), np.array([b[1] for b in boxes])
        crops = np.stack([crop(rgb, c, s, size, not r) for c, s, r in zip(centre, side, right)])
        height, width = rgb.shape[:2]
        batch = {
            "img": torch.from_numpy(np.moveaxis((crops - self._mean) / self._std, -1, 1).copy()),
            "personid": torch.arange(len(found)),
            "box_center": torch.from_numpy(centre.astype(np.float32)),
            "box_size": torch.from_numpy(side.astype(np.float32)),
            "img_size": torch.tensor([[width, height]] * len(found), dtype=torch.float32),
            "right": torch.from_numpy(right.astype(np.float32)),
        }
        with self._inference(), torch.inference_mode():
            out = self._model({k: v.to(self._device) for k, v in batch.items()})
        mirror = np.where(right, 1.0, -1.0)
        cam = _numpy(out["pred_cam"])
        cam[:, 1] *= mirror
        camera = self.camera(width, height)
        moved = full_frame_translation(cam, centre, side, (width, height), camera.fx)
        keypoints = _numpy(out["pred_keypoints_3d"])[:, :21]
        keypoints[..., 0] *= mirror[:, None]
        params = {k: _numpy(v) for k, v in out["pred_mano_params"].items()}
        hands = []
        for i, hand in enumerate(found):
            extra = {
                "rotations": np.concatenate(
                    [params["global_orient"][i].reshape(1, 3, 3), params["hand_pose"][i].reshape(15, 3, 3)]
                ),
                "betas": params["betas"][i],
                "translation": moved[i],
            }
            points = camera.project(keypoints[i] + moved[i])
            hands.append(HandObservation(hand.handedness, hand.score, points, keypoints[i], extra))
        return hands

    def fit(self, tracks: Mapping[str, HandTrack], camera: Camera) -> dict[str, HandFit]:
        """One shape for both hands, the median over the video."""
        seen = {side: t for side, t in tracks.items() if len(t.frames)}
        if not seen:
            return {}
        betas = np.median(np.concatenate([t.extra["betas"] for t in seen.values()]), axis=0)
        rest, _ = mano_forward(self._model.mano, np.zeros((1, 16, 3)), betas)
        fits = {}
        for side, track in seen.items():
            pose = axis_angles(track.extra["rotations"])
            wrist = rest[0, 0] * (MIRROR if side == "left" else 1.0)
            fits[side] = HandFit(mirrored(pose) if side == "left" else pose, betas, track.extra["translation"] + wrist)
        return fits

    def keypoints(self, handedness: str, fit: HandFit) -> np.ndarray:
        """Keypoints of fitted hands."""
        return _placed(self._model.mano, handedness, fit.pose, fit.shape, fit.translation)[0]


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().astype(np.float64)


def mano_forward(layer: Any, pose: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 21, 3) and vertices (N, 778, 3) of MANO's right hand, its origin where MANO has it.

    Args:
        layer: `hamer.models.MANO`, whose joints are in OpenPose order, which is MediaPipe's.
        pose: (N, 16, 3) axis-angle, the wrist first.
        betas: (10,) shape.
    """
    import torch

    device = next(iter(layer.buffers()), torch.zeros(0)).device
    keypoints, vertices = [], []
    for start in range(0, len(pose), _CHUNK):
        matrices = torch.from_numpy(rotation_matrices(pose[start : start + _CHUNK])).float().to(device)
        shape = torch.from_numpy(np.tile(betas, (len(matrices), 1))).float().to(device)
        with torch.inference_mode():
            out = layer(global_orient=matrices[:, :1], hand_pose=matrices[:, 1:], betas=shape, pose2rot=False)
        keypoints.append(_numpy(out.joints)[:, :21])
        vertices.append(_numpy(out.vertices))
    return np.concatenate(keypoints), np.concatenate(vertices)


def _placed(
    layer: Any, handedness: str, pose: np.ndarray, shape: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if not len(pose):
        return np.zeros((0, 21, 3)), np.zeros((0, 778, 3))
    left = handedness == "left"
    keypoints, vertices = mano_forward(layer, mirrored(pose) if left else pose, shape)
    if left:
        keypoints, vertices = keypoints * MIRROR, vertices * MIRROR
    move = translation[:, None] - keypoints[:, :1]
    return keypoints + move, vertices + move


@lru_cache(maxsize=2)
def _mano_layer(folder: Path) -> Any:
    from hamer.models import MANO

    return MANO(model_path=str(folder), is_rhand=True)


def closed(faces: np.ndarray) -> np.ndarray:
    """MANO's faces (F, 3) with the opening at the wrist filled."""
    edges = {(int(a), int(b)) for f in faces for a, b in zip(f, np.roll(f, -1))}
    after = {b: a for a, b in edges if (b, a) not in edges}
    if not after:
        return faces
    start = current = min(after)
    rim = [start]
    while (current := after[current]) != start:
        rim.append(current)
    fan = [(rim[0], rim[i], rim[i + 1]) for i in range(1, len(rim) - 1)]
    return np.concatenate([faces, np.array(fan, faces.dtype)])


def mano_hand(
    handedness: str, pose: np.ndarray, shape: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 778, 3) in the camera frame and faces of hands in the table; see `posed_hand`.

    Rows do not say where MANO is: it is looked for in `ITRYON_HAMER`, else `./_DATA`.

    Raises:
        HamerUnavailable: The package or MANO is missing.
    """
    data = data_folder()
    require(data, network=False)
    layer = _mano_layer(data / "data" / "mano")
    faces = closed(np.asarray(layer.faces).astype(np.int32))
    vertices = _placed(layer, handedness, pose, shape, translation)[1]
    return vertices, faces if handedness == "right" else np.ascontiguousarray(faces[:, ::-1])
