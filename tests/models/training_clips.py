"""Generated clips with the layout of the real ones, for tests of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

TINY = {
    "in_channels": 32,
    "out_channels": 32,
    "vace_in_channels": 128,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 48,
    "num_layers": 2,
    "text_dim": 8,
    "freq_dim": 16,
    "vace_layers": [0],
    "guider_dim": 8,
    "guider_heads": 2,
    "action_layers": [0],
}
"""Transformer settings that make a step cost milliseconds."""


def make_clip(
    root: Path, name: str, seed: int, bucket: str = "9x32x32", views: int = 1, z: int = 32, **row: Any
) -> dict[str, Any]:
    """Write the blobs of one clip of `z` latent channels below `root`; returns its manifest row."""
    frames, height, width = (int(n) for n in bucket.split("x"))
    t, h, w = (frames - 1) // 4 + 1, height // 8, width // 8
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g).bfloat16()

    segments = 2 if seed % 2 else 1
    index = torch.ones(t, dtype=torch.int64)
    index[t // 2 :] = segments
    latents = {
        # A smooth target, so that there is something to learn in a few steps.
        "target": (normal(z, 1, 1, 1) * torch.ones(z, t, h, w)).bfloat16(),
        "inactive": normal(z, t, h, w),
        "reactive": normal(z, t, h, w),
        "mask": torch.randint(0, 2, (64, t, h, w), generator=g, dtype=torch.uint8),
        "reference": normal(views, z, 1, h, w),
        "hands": normal(z, t, h, w),
        "hand_points": torch.randint(-127, 128, (64, t, h, w), generator=g, dtype=torch.int8),
        "hand_present": torch.tensor([1] * (t - 1) + [0], dtype=torch.uint8),
    }
    text = {
        "global": normal(6, 8),
        "empty": normal(6, 8),
        "empty_mask": torch.tensor([1, 1, 0, 0, 0, 0], dtype=torch.uint8),
        "actions": normal(segments, 4, 8),
        "actions_mask": torch.ones(segments, 4, dtype=torch.uint8),
        "segment_index": index,
        "segment_interactive": torch.tensor([0, 1][:segments], dtype=torch.uint8),
    }
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    save_file(latents, root / f"blobs/{name}.safetensors")
    save_file(text, root / f"blobs/{name}-text.safetensors")
    return {
        "clip_id": name,
        "video_id": f"video-{name}",
        "start_frame": 0,
        "bucket": bucket,
        "latents_uri": f"blobs/{name}.safetensors",
        "text_uri": f"blobs/{name}-text.safetensors",
        "action_mask": [float(i == segments and segments == 2) for i in index.tolist()],
        "split": "train",
        "encoder_digest": "encoder-a",
        **row,
    }


def write_manifest(root: Path, rows: list[dict[str, Any]], name: str = "manifest.parquet") -> Path:
    """Write rows as a manifest."""
    path = root / name
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_set(root: Path, count: int = 5, **row: Any) -> Path:
    """`count` clips in one bucket and two in another; returns the manifest."""
    rows = [make_clip(root, f"c{i}", i, **row) for i in range(count)]
    rows += [make_clip(root, f"d{i}", 10 + i, bucket="5x32x16", **row) for i in range(2)]
    return write_manifest(root, rows)
