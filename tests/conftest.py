"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.store import DeltaStore
from pipelines.video import VideoWriter

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real clips (`videos/`) and garment photos (`garments/`) that lie beside the checkout on some machines."""
    path = REPOSITORY.parent / "shared" / "samples"
    if not path.is_dir():
        pytest.skip("the sample clips are not on this machine (looked in ../shared/samples)")
    return path


def moving_frames(count: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Frames with a square that travels over smooth texture; (count, height, width, 3) uint8 RGB.

    The top eighth holds the frame's number in Gray code as six dark or bright blocks (up to 64 frames), so that
    `frame_number` can read it after coding and scaling.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 2 * np.pi, 3)
    texture = 120 + 50 * np.sin(x[..., None] / 9 + phase) * np.cos(y[..., None] / 7 + phase)
    frames = np.repeat(texture.astype(np.uint8)[None], count, axis=0)
    side = max(2, min(width, height) // 4)
    for i, frame in enumerate(frames):
        left = (i * 2) % max(1, width - side)
        top = height // 4 + (i % max(1, height // 2 - side))
        frame[top : top + side, left : left + side] = (230, 60, 40)
        # Gray code: one block changes at a time, which no detector takes for a new shot.
        bits = np.repeat([40 + 175 * ((i ^ i >> 1) >> b & 1) for b in range(6)], -(-width // 6))[:width]
        frame[: max(1, height // 8)] = bits[None, :, None]
    return frames


def frame_number(rgb: np.ndarray) -> int:
    """The number that `moving_frames` painted into a frame."""
    row = rgb[: max(1, rgb.shape[0] // 12)].mean(axis=(0, 2))
    block = -(-len(row) // 6)
    code = sum(1 << b for b in range(6) if np.median(row[b * block : (b + 1) * block]) > 127)
    return code ^ code >> 1 ^ code >> 2 ^ code >> 3 ^ code >> 4 ^ code >> 5


@pytest.fixture(scope="session")
def moving_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mp4 (60 frames, 96x64, 30 fps) with moving content; see `moving_frames`."""
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    with VideoWriter(path, fps=30, width=96, height=64) as writer:
        for frame in moving_frames(60, 96, 64):
            writer.write(frame)
    return path


@pytest.fixture
def lake(tmp_path: Path) -> DeltaStore:
    """An empty lake with all tables."""
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    return store


_LONGEST = ("test_kills.py", "test_tryon_single.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes first: begun last, they would leave them to one core."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)
