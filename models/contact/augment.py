"""Makes rendered sequences as unreliable as real ones: batches are changed while training, never while measuring.

Rendered people move more cleanly and are seen more clearly than real ones. What the network may rely on must survive
what changes between the two: landmarks that are off for a whole clip, cues that are missing, other speeds, pictures
in which nothing can be tracked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, Field
from torch import Tensor


class AugmentSettings(BaseModel):
    """How much. Noise is in standard deviations of each feature over the training data."""

    jitter: float = Field(0.08, ge=0, description="Noise of a feature from sample to sample")
    offset: float = Field(0.3, ge=0, description="Offset of a feature over a whole sequence")
    drop_group: float = Field(0.08, ge=0, le=1, description="Chance that a group of features is not known")
    drop_cells: float = Field(0.12, ge=0, le=1, description="Chance that a sequence has no pictures")
    drop_channel: float = Field(0.08, ge=0, le=1, description="Chance that a channel of the cells says nothing")
    lose_tracks: float = Field(0.6, ge=0, le=1, description="Largest share of tracked cells that get lost")
    flow_noise: float = Field(0.12, ge=0, description="Noise of cloth motion, body units a second")
    change_noise: float = Field(0.02, ge=0, description="Noise of colour change, CIELAB distance")
    still_cloth: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Chance that rubbed cloth moves less, down to not at all: on real clips what can be seen of it "
        "goes along with 1 to 2 % of the hand's motion",
    )
    scale: float = Field(0.35, ge=0, lt=1, description="Largest relative change of the strength of a cell's channels")
    warp: float = Field(0.3, ge=0, lt=1, description="Largest relative change of speed")
    meet: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Chance that the other hand is brought to one that touches no cloth: rendered gestures keep hands "
        "apart, those of people who talk do not",
    )
    lose_hand: float = Field(0.15, ge=0, le=1, description="Chance that the hand is lost for up to a quarter second")


def augment(
    features: Tensor,
    cells: Tensor,
    rubs: Tensor,
    touches: Tensor,
    names: tuple[Sequence[str], Sequence[str]],
    scale: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Changed copies of a batch.

    Args:
        features: [B, T, features], NaN where not known.
        cells: [B, T, channels, cells, cells], NaN where there was no picture.
        rubs: [B, T], whether the hand rubs the cloth.
        touches: [B, T], whether it touches the cloth.
        names: Of features and of channels.
        scale: [features], standard deviations.
        settings: How much.
        generator: Source of all choices.
    """
    feature_names, channel_names = names
    batch, length, count = features.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def chance(p: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < p

    at = torch.arange(length)[None]
    start = torch.randint(-length, length // 2 + 1, (batch, 1), generator=generator)
    meets = (at >= start) & (chance(settings.meet, batch) & ~touches.any(1))[:, None]
    features, cells = _with_other_hand(features, cells, meets, names, generator)

    binary = torch.tensor([n in ("known", "person", "score") for n in feature_names])
    noise = settings.jitter * normal(batch, length, count) + settings.offset * normal(batch, 1, count)
    features = features + torch.where(binary, 0.0, noise * scale)
    groups = [n.split("_")[0] for n in feature_names]
    for group in sorted(set(groups) - {"known", "person"}):
        member = torch.tensor([g == group for g in groups])
        features = features.masked_fill(chance(settings.drop_group, batch, 1, 1) & member, torch.nan)

    # A hand that is lost for a moment takes with it all that is measured on it.
    start = torch.randint(0, length, (batch, 1), generator=generator)
    gap = torch.randint(1, 5, (batch, 1), generator=generator)
    lost = (at >= start) & (at < start + gap) & chance(settings.lose_hand, batch, 1)
    pose = torch.tensor([g in _FROM_POSE for g in groups])
    features = features.masked_fill(lost[..., None] & ~pose, torch.nan)
    for name in ("known", "score"):
        i = list(feature_names).index(name)
        features[..., i] = features[..., i].masked_fill(lost, 0.0)

    index = {n: i for i, n in enumerate(channel_names)}
    flow = [index["flow_x"], index["flow_y"]]
    strength = 1 + settings.scale * (2 * torch.rand(batch, 1, len(channel_names), 1, 1, generator=generator) - 1)
    for name in ("tracked", "limb", "garment"):
        strength[:, :, index[name]] = 1.0
    cells *= strength
    changes = [index["change_slow"], index["change_now"]]
    left = torch.where(chance(settings.still_cloth, batch), torch.rand(batch, generator=generator) ** 2, 1.0)
    left = torch.where(rubs, left[:, None], 1.0)[:, :, None, None, None]
    cells[:, :, [*flow, index["along"]]] *= left
    cells[:, :, changes] *= 0.5 + 0.5 * left
    # Shadows of hands and arms change colours near them, touch or not.
    cells[:, :, changes] += settings.change_noise * normal(batch, length, 2, 1, 1).abs()
    cells[:, :, changes] += settings.change_noise * normal(*cells[:, :, changes].shape).abs()
    # Tracking goes wrong together in a place, and by itself in a cell.
    shared = settings.flow_noise * normal(batch, length, 2, 1, 1)
    cells[:, :, flow] += shared + settings.flow_noise * normal(*cells[:, :, flow].shape)
    share = settings.lose_tracks * torch.rand(batch, 1, 1, 1, generator=generator)
    kept = (torch.rand(batch, length, *cells.shape[-2:], generator=generator) >= share) & (
        cells[:, :, index["tracked"]] > 0
    )
    for i in (*flow, index["along"], index["tracked"]):
        cells[:, :, i] = torch.where(kept, cells[:, :, i], torch.where(cells[:, :, i].isnan(), torch.nan, 0.0))
    dropped = chance(settings.drop_channel, batch, 1, len(channel_names), 1, 1)
    cells = torch.where(dropped & ~cells.isnan(), torch.zeros(()), cells)
    no_picture = chance(settings.drop_cells, batch)[:, None] | lost
    return features, cells.masked_fill(no_picture[..., None, None, None], torch.nan)


def _with_other_hand(
    features: Tensor,
    cells: Tensor,
    where: Tensor,
    names: tuple[Sequence[str], Sequence[str]],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Copies in which the other hand is at this one: where it is, how its arm is bent, and what it hides."""
    batch = len(features)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features, cells = features.clone(), cells.clone()
    for i, name in enumerate(names[0]):
        if name in _MEETING:
            mean, spread = _MEETING[name]
            value = mean + spread * (normal(batch, 1) + 0.3 * normal(*where.shape))
            if name.startswith("other_hand"):
                value = value + features[..., list(names[0]).index(name.replace("other_hand", "palm"))]
            features[..., i] = torch.where(where, value, features[..., i])
    # It comes from the other side and from below.
    size = cells.shape[-1]
    row, column = (torch.randint(0, n, (batch, 1, 1), generator=generator) for n in (6, 4))
    hides = (torch.arange(size)[:, None] >= row + 2) & (torch.arange(size) >= column)
    hides = where[..., None, None] & hides[:, None]
    for i, channel in enumerate(names[1]):
        if channel != "garment":
            layer = cells[:, :, i]
            cells[:, :, i] = layer.masked_fill(hides & ~layer.isnan(), 1.0 if channel == "limb" else 0.0)
    return features, cells


_MEETING = {
    "other_hand_x": (0.1, 0.1),
    "other_hand_y": (0.13, 0.1),
    "other_elbow_x": (0.65, 0.15),
    "other_elbow_y": (0.8, 0.15),
    "other_flexion": (0.22, 0.06),
    "other_apart": (0.18, 0.08),
    "other_forearm": (0.35, 0.08),
    "other_along": (1.4, 0.15),
}
"""Mean and spread of what tells where the other hand is when hands meet before the body, from their sizes: a palm is
half a shoulder width long. The hand's place counts from this hand's palm."""
_FROM_POSE = frozenset({"pose", "world", "length", "flexion", "visible", "other", "nose", "turn", "torso", "person"})


def warp_positions(length: int, available: int, stretch: float, offset: float) -> tuple[Tensor, float]:
    """Where to read a sequence so that it plays at another speed.

    Args:
        length: Samples wanted.
        available: Samples there are.
        stretch: Speed, 1 is unchanged; reduced when the sequence is too short for it.
        offset: 0 to 1, where in the slack to begin.

    Returns:
        [length] positions, and the speed that came of it.
    """
    stretch = min(stretch, (available - 1) / max(1, length - 1))
    slack = available - 1 - stretch * (length - 1)
    return offset * slack + stretch * torch.arange(length), stretch


def read_at(values: Tensor, positions: Tensor, smooth: bool) -> Tensor:
    """Values [T, ...] at fractional positions: interpolated, or those of the nearest sample."""
    if not smooth:
        return values[positions.round().long().clamp(0, len(values) - 1)]
    low = positions.floor().long().clamp(0, len(values) - 1)
    high = (low + 1).clamp(max=len(values) - 1)
    w = (positions - low).reshape(-1, *([1] * (values.ndim - 1)))
    return torch.where(w > 0, values[low] * (1 - w) + values[high] * w, values[low])
