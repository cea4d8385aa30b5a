"""Cached clips of a manifest, in batches whose content depends on nothing but seed and position.

A batch holds clips of one bucket (frames x height x width and number of reference views). Each epoch visits every
clip once: the last batch of a bucket is short rather than dropped. Batch number `n` of a run is a pure function of
seed and `n`, so a resumed run needs no loader state to see exactly the samples it would have seen.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from models.filesystem import open_root
from models.itryon.hand_points import POINT_CHANNELS, STEPS
from models.training.blobs import Blobs, NotFinite, check_finite

COLUMNS = ("clip_id", "video_id", "start_frame", "bucket", "latents_uri", "text_uri", "action_mask", "split")
LATENT_KEYS = ("target", "inactive", "reactive", "mask", "reference", "hands", "hand_points", "hand_present")
TEXT_KEYS = ("global", "empty", "empty_mask", "actions", "actions_mask", "segment_index", "segment_interactive")


class DataError(ValueError):
    """Training data that must not be trained on; the message names the clip and what to do."""


@dataclass
class Batch:
    """Clips of one bucket. B clips, z latent channels, T latent frames, R reference views, S segments, L tokens.

    D are the channels of the text encoder.

    Attributes:
        target: (B, z, T, h, w) normalised latents of the video.
        inactive: (B, z, T, h, w) latents of the video outside the mask.
        reactive: (B, z, T, h, w) latents of what is drawn inside the mask.
        mask: (B, 64, T, h, w) 8x8 pixel-unshuffled repaint mask, 0 or 1.
        reference: (B, z, R, h, w) garment latents, in the order of time.
        hands: (B, z, T, h, w) latents of the rendered hand video.
        hand_points: (B, 64, T, h, w) point features of the hand meshes, -1 to 1.
        hand_present: (B, T) bool, whether any hand is in the frames of the latent.
        caption: (B, L, D) global caption embedding.
        empty_caption: (B, L, D) embedding of the empty caption.
        empty_mask: (B, L) bool, tokens of the empty caption.
        actions: (B, S, La, D) caption embedding per segment; La <= L tokens.
        actions_mask: (B, S, La) bool, tokens that exist.
        segment_index: (B, T) segment of each latent frame, from 1.
        segment_interactive: (B, S) bool.
        action_mask: (B, T) M_action, 1 where an interaction span overlaps.
        clip_ids: B identities, for messages.
    """

    target: torch.Tensor
    inactive: torch.Tensor
    reactive: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor
    hands: torch.Tensor
    hand_points: torch.Tensor
    hand_present: torch.Tensor
    caption: torch.Tensor
    empty_caption: torch.Tensor
    empty_mask: torch.Tensor
    actions: torch.Tensor
    actions_mask: torch.Tensor
    segment_index: torch.Tensor
    segment_interactive: torch.Tensor
    action_mask: torch.Tensor
    clip_ids: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in values.items() if torch.is_tensor(v)}
        return Batch(**{**values, **moved})


class ClipReader(Protocol):
    """Where the tensors of clips come from: cached blobs, or the frames themselves."""

    start_method: str
    """How loader processes start: fork, or spawn where the reader may hold an accelerator."""

    def check(self, row: dict[str, Any]) -> tuple[int, int, int]:
        """Reference views, latent channels and text channels of a clip that can be read, found without reading it.

        Raises:
            DataError: It cannot be trained on; the message names it.
        """
        ...

    def read(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Tensors of a clip by `LATENT_KEYS` and `TEXT_KEYS`, in the types and shapes of its blobs.

        Raises:
            DataError: It is gone, or holds values that are not finite.
        """
        ...


class CachedClips:
    """Reads the blobs that the stage `clips` wrote.

    Args:
        blob_root: Where the blobs lie.
    """

    start_method = "fork"

    def __init__(self, blob_root: str):
        self.blobs = Blobs(blob_root)

    def check(self, row: dict[str, Any]) -> tuple[int, int, int]:
        """See `ClipReader`; reads headers, and the whole blob only where nobody checked it when it was written."""
        if not row["latents_uri"]:
            raise DataError(
                f"{clip_name(row)}: its tensors were not cached; train with frames encoded on the fly, or materialise "
                "clips of its batch with `cache`"
            )
        try:
            latents, text = self.blobs.header(row["latents_uri"]), self.blobs.header(row["text_uri"])
            absent = [k for k in LATENT_KEYS if k not in latents.shapes]
            absent += [k for k in TEXT_KEYS if k not in text.shapes]
            if not absent:
                index = self.blobs.integers(row["text_uri"], text, "segment_index")
                for uri, header in ((row["latents_uri"], latents), (row["text_uri"], text)):
                    if not header.finite:
                        check_finite(self.blobs.tensors(uri))
        except NotFinite as e:
            raise DataError(f"{clip_name(row)}: {e}; delete its row and materialise clips again") from e
        except (OSError, ValueError) as e:
            raise DataError(
                f"{clip_name(row)}: its blob cannot be read ({e}); materialise clips of its batch again"
            ) from e
        if absent:
            raise DataError(
                f"{clip_name(row)}: its blob lacks {', '.join(absent)}; materialise clips of its batch again"
            )
        _check_shapes(row, latents.shapes, index, text.shapes["actions"][0])
        return latents.shapes["reference"][0], latents.shapes["target"][0], text.shapes["global"][-1]

    def read(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        """See `ClipReader`."""
        try:
            tensors = self.blobs.tensors(row["latents_uri"]) | self.blobs.tensors(row["text_uri"])
            check_finite(tensors)
        except (OSError, NotFinite) as e:
            raise DataError(f"{clip_name(row)}: {e}; delete its row and materialise clips again") from e
        return tensors


def _check_shapes(row: dict[str, Any], shapes: dict[str, tuple[int, ...]], index: np.ndarray, segments: int) -> None:
    frames, height, width = (int(n) for n in row["bucket"].split("x"))
    latent = ((frames - 1) // 4 + 1, height // 8, width // 8)
    z = shapes["target"][0]
    channels = {"target": z, "inactive": z, "reactive": z, "mask": 64, "hands": z, "hand_points": POINT_CHANNELS}
    for key, count in channels.items():
        if shapes[key] != (count, *latent):
            raise DataError(f"{clip_name(row)}: {key} has shape {shapes[key]}, its bucket asks for {(count, *latent)}")
    if shapes["reference"][1:] != (z, 1, *latent[1:]):
        raise DataError(f"{clip_name(row)}: reference has shape {shapes['reference']}")
    if len(row["action_mask"]) != latent[0] or index.shape != (latent[0],):
        raise DataError(f"{clip_name(row)}: captions for other than the clip's {latent[0]} latent frames")
    if index.min() < 1 or index.max() > segments:
        raise DataError(
            f"{clip_name(row)}: segment_index goes from {index.min()} to {index.max()}, the clip has captions of "
            f"segments 1 to {segments}; materialise clips of its batch again"
        )


class ClipSet:
    """The clips of a manifest: checked, grouped into buckets, and read on demand.

    Args:
        manifest: Parquet file, or a URI pyarrow can read.
        blob_root: Where the blobs lie.
        split: Rows to use.
        reader: Where tensors come from; the blobs below `blob_root` by default.

    Attributes:
        reader: Where tensors come from.
        rows: Rows of the split, sorted by clip_id.
        buckets: (bucket, reference views) -> indices of rows.
        encoder_digest: What encoded the clips; empty where the manifest does not say.
        latent_channels: z, the VAE's latent channels.
        text_channels: Channels of the caption embeddings.

    Raises:
        DataError: The manifest is no manifest, holds no row of the split, mixes encoders, or a clip's blob is missing,
            holds values that are not finite, captions of segments that do not exist, or has other keys or shapes than
            its row says, or other channels than the first clip's.
    """

    def __init__(self, manifest: str, blob_root: str, split: str, reader: ClipReader | None = None):
        self.reader = reader or CachedClips(blob_root)
        table = _read_manifest(manifest)
        missing = [c for c in COLUMNS if c not in table.column_names]
        if missing:
            raise DataError(f"{manifest} is not a training-set manifest: it has no column {', '.join(missing)}")
        rows = sorted(table.to_pylist(), key=lambda r: r["clip_id"])
        self.rows = [r for r in rows if r["split"] == split]
        if not self.rows:
            found = sorted({r["split"] for r in rows})
            raise DataError(
                f"The training set has no clip of split {split!r} "
                + (f"(it has {', '.join(found)})" if found else "(it is empty)")
                + ": widen its filters, or materialise clips of more batches"
            )
        digests = sorted({r.get("encoder_digest") or "" for r in self.rows})
        if len(digests) > 1:
            raise DataError(f"Clips of several encoders in one training set ({', '.join(d[:12] for d in digests)})")
        self.encoder_digest = digests[0]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(self.reader.check, self.rows))
        _, self.latent_channels, self.text_channels = found[0]
        for row, (_, *channels) in zip(self.rows, found):
            if channels != [self.latent_channels, self.text_channels]:
                first = f"{clip_name(self.rows[0])} has {self.latent_channels} and {self.text_channels}"
                raise DataError(
                    f"{clip_name(row)}: {channels[0]} latent and {channels[1]} text channels, {first}; materialise "
                    "clips of their batches again"
                )
        views = [count for count, *_ in found]
        self.buckets: dict[tuple[str, int], list[int]] = {}
        for i, (row, count) in enumerate(zip(self.rows, views)):
            self.buckets.setdefault((row["bucket"], count), []).append(i)

    def load(self, index: int) -> dict[str, torch.Tensor]:
        """Tensors of one clip, by blob key, floats in float32.

        Raises:
            DataError: A blob is gone, or holds values that are not finite.
        """
        row = self.rows[index]
        out = {k: v.float() if v.is_floating_point() else v for k, v in self.reader.read(row).items()}
        out["action_mask"] = torch.tensor(row["action_mask"], dtype=torch.float32)
        return out

    def collate(self, indices: list[int]) -> Batch:
        """Read clips of one bucket and stack them; segments are padded with empty, non-interactive ones."""
        clips = [self.load(i) for i in indices]
        segments = max(len(c["actions"]) for c in clips)

        def stack(key: str, pad_to: int | None = None) -> torch.Tensor:
            values = [c[key] for c in clips]
            if pad_to is not None:
                values = [torch.cat([v, v.new_zeros(pad_to - len(v), *v.shape[1:])]) for v in values]
            return torch.stack(values)

        return Batch(
            target=stack("target"),
            inactive=stack("inactive"),
            reactive=stack("reactive"),
            mask=stack("mask").float(),
            reference=stack("reference").squeeze(3).transpose(1, 2),
            hands=stack("hands"),
            hand_points=stack("hand_points").float() / STEPS,
            hand_present=stack("hand_present").bool(),
            caption=stack("global"),
            empty_caption=stack("empty"),
            empty_mask=stack("empty_mask").bool(),
            actions=stack("actions", segments),
            actions_mask=stack("actions_mask", segments).bool(),
            segment_index=stack("segment_index").long(),
            segment_interactive=stack("segment_interactive", segments).bool(),
            action_mask=stack("action_mask"),
            clip_ids=tuple(self.rows[i]["clip_id"] for i in indices),
        )


def clip_name(row: dict[str, Any]) -> str:
    """The clip as messages name it."""
    return f"Clip {row['clip_id']} (video {row['video_id']}, frame {row['start_frame']})"


def _read_manifest(manifest: str):
    try:
        if "://" in manifest:
            system, path = open_root(manifest)
            with system.open_input_file(path) as f:
                return pq.read_table(io.BytesIO(f.read()))
        return pq.ParquetFile(manifest).read()
    except (OSError, ValueError) as e:
        raise DataError(f"The manifest {manifest} cannot be read: {e}") from e


def epoch_batches(buckets: dict[tuple[str, int], list[int]], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every clip once, buckets not mixed, order and grouping a function of the arguments."""
    rng = np.random.default_rng([seed, epoch])
    batches = []
    for key in sorted(buckets):
        order = rng.permutation(buckets[key]).tolist()
        batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class BatchSequence(Dataset):
    """Batch number -> `Batch`, endless: batch `n` lies in epoch `n // batches_per_epoch`."""

    def __init__(self, clips: ClipSet, batch_size: int, seed: int):
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_epoch = sum(-(-len(v) // batch_size) for v in clips.buckets.values())
        self._epoch: tuple[int, list[list[int]]] | None = None

    def indices(self, number: int) -> list[int]:
        """Rows of the clips in batch `number`."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, epoch_batches(self.clips.buckets, self.batch_size, self.seed, epoch))
        return self._epoch[1][position]

    def __getitem__(self, number: int) -> Batch:
        return self.clips.collate(self.indices(number))


class _Numbers(Sampler[int]):
    def __init__(self, first: int, stop: int, stride: int):
        self._range = range(first, stop, stride)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def make_loader(batches: BatchSequence, first: int, count: int, rank: int, world: int, workers: int) -> DataLoader:
    """Loader of this rank's batches, `first * world + rank` onwards, `count` of them, one `Batch` an item.

    Ranks interleave: together they walk through the same sequence of batches that one process would.
    """
    return DataLoader(
        batches,
        batch_size=None,
        # Its own: otherwise making a loader draws from the global random state, which a resumed run does once more.
        generator=torch.Generator(),
        sampler=_Numbers(first * world + rank, (first + count) * world + rank, world),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context=batches.clips.reader.start_method if workers else None,
        persistent_workers=False,
    )
