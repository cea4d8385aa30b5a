"""Human parsing backend: a SegFormer with the 18 classes of fashn-human-parser, loaded through transformers.

The `fashn-human-parser` package itself is not used: it depends on `opencv-python`, which would overwrite the `cv2`
folder of `opencv-contrib-python`. Its preprocessing is reproduced here (resize to 384 x 576 by area, ImageNet
normalisation), for which the network was trained. The weights come under the NVIDIA source code licence for SegFormer:
research and evaluation only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import cv2
import numpy as np

from pipelines.masks.base import MaskBackend, Observation, Region
from pipelines.masks.body import Body, draw_arm
from pipelines.masks.geometric import within
from pipelines.masks.settings import MasksSettings

INPUT_SIZE = (384, 576)
"""(width, height) of the network's input."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)

LABELS = (
    "background",
    "face",
    "hair",
    "top",
    "dress",
    "skirt",
    "pants",
    "belt",
    "bag",
    "hat",
    "scarf",
    "glasses",
    "arms",
    "hands",
    "legs",
    "feet",
    "torso",
    "jewelry",
)
"""Classes in the order of the network's output (labels.py of fashn-human-parser 0.1.1)."""

# Worn cloth of a category, and the skin that a longer or wider target garment may cover. `torso` is bare skin of neck,
# chest and belly.
CLOTH = {
    "upper_body": ("top", "dress", "scarf"),
    "lower_body": ("skirt", "pants", "belt", "dress"),
    "dresses": ("top", "dress", "scarf", "skirt", "pants", "belt"),
}
SKIN = {"upper_body": ("arms", "torso"), "lower_body": ("legs",), "dresses": ("arms", "torso", "legs")}
PROTECTED = ("face", "hair", "hat", "glasses", "bag", "feet")


class ParsingBackend(MaskBackend):
    """See the module.

    Args:
        settings: Settings of the stage.
        network: A loaded network, for callers that have one; otherwise `setup` loads what the settings name.
    """

    name: ClassVar[str] = "parsing"
    needs_video: ClassVar[bool] = True

    def __init__(self, settings: MasksSettings, network: Any = None):
        self.settings = settings
        self.network = network

    def weights(self) -> Mapping[str, str]:
        """Model id and revision; pin the revision when rows must be repeatable."""
        parsing = self.settings.parsing
        return {"human_parser": f"{parsing.model}@{parsing.revision or 'unpinned'}"}

    def setup(self, threads: int) -> None:
        """Load the network.

        Raises:
            RuntimeError: The weights are neither in the local cache nor to be downloaded, or have other classes.
        """
        import torch

        torch.set_num_threads(threads)
        if self.network is None:
            from transformers import SegformerForSemanticSegmentation

            parsing = self.settings.parsing
            try:
                self.network = SegformerForSemanticSegmentation.from_pretrained(
                    parsing.model, revision=parsing.revision or "main", use_safetensors=True
                )
            except (OSError, ValueError) as e:
                raise RuntimeError(
                    f"The human parser {parsing.model!r} could not be loaded ({type(e).__name__}: {str(e)[:200]}). "
                    "It is downloaded from the Hugging Face hub at first use (about 250 MB): allow that once, or run "
                    f"`hf download {parsing.model}` on a connected machine and copy its cache folder (HF_HOME), or set "
                    "masks.parsing.model to a local folder, or use masks.backend: geometric, which needs no download"
                ) from e
        names = {int(k): str(v).lower() for k, v in self.network.config.id2label.items()}
        if tuple(names.get(i) for i in range(len(names))) != LABELS:
            raise RuntimeError(
                f"The human parser {self.settings.parsing.model!r} has the classes {', '.join(names.values())}; "
                f"needed are those of fashn-human-parser: {', '.join(LABELS)}"
            )
        device = self.settings.parsing.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network.to(device).eval()

    def parse(
        self, frames: Sequence[np.ndarray], inference: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> np.ndarray:
        """Classes of frames of one size, at a quarter of the network's input as the network gives them.

        Args:
            frames: (height, width, 3) uint8 RGB each.
            inference: Context in which the network runs.

        Returns:
            Scores, (frames, 18, height, width) float32.
        """
        import torch

        pixels = np.stack([cv2.resize(f, INPUT_SIZE, interpolation=cv2.INTER_AREA) for f in frames])
        pixels = ((pixels.astype(np.float32) / 255.0 - _MEAN) / _STD).transpose(0, 3, 1, 2)
        weight = next(self.network.parameters())
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(weight.device, weight.dtype)
        with inference(), torch.inference_mode():
            return self.network(pixel_values=batch).logits.float().cpu().numpy()

    def regions(
        self,
        observations: Sequence[Observation],
        frames: Sequence[np.ndarray] | None,
        category: str,
        inference: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Region]:
        """The region of each frame."""
        if not frames:
            raise ValueError("The parsing backend needs the frames")
        scores = self.parse(frames, inference)
        return [self._region(o, labels_at(s, o.working_size), category) for o, s in zip(observations, scores)]

    def _region(self, o: Observation, labels: np.ndarray, category: str) -> Region:
        cloth, skin = of_classes(labels, CLOTH[category]), of_classes(labels, SKIN[category])
        protect = of_classes(labels, PROTECTED)
        hands = of_classes(labels, ("hands",))
        radius = self.settings.dilation * 0.25 * max(o.working_size)
        if o.landmarks is not None:
            body = Body.of(o.landmarks, o.scale, self.settings.min_visibility)
            radius = self.settings.dilation * body.size
            if category != "lower_body":
                # The network calls everything below a bare elbow arm; hands in gloves or sleeves too.
                arms = np.zeros(o.working_size, np.uint8)
                for side in ("left", "right"):
                    draw_arm(arms, body, side, 1, widen=0.6)
                skin |= arms & (1 - hands) & (1 - of_classes(labels, ("background",)))
        garment = within(cloth | skin, radius) & (1 - protect) & (1 - hands)
        # Beside a hand the network often gives held cloth to the hand: the hand policy decides on those pixels.
        return Region(garment, cloth, hands, protect)


def labels_at(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Classes at another size: scores are enlarged, then compared, so that outlines stay smooth.

    Args:
        scores: (classes, height, width) float32.
        size: Wanted (height, width).

    Returns:
        (height, width) uint8.
    """
    large = [cv2.resize(s, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) for s in scores]
    return np.argmax(np.stack(large), 0).astype(np.uint8)


def of_classes(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Pixels of the named classes, (height, width) uint8."""
    return np.array([name in names for name in LABELS], np.uint8)[labels]
