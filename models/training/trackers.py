"""Sends curves and validation videos to TensorBoard and, where it is asked for, to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from models.training.config import TrainConfig, TrainingRefused
from models.training.pictures import FPS, animation
from models.training.validation import Validation

SCALARS = {
    "loss": "loss/total",
    "loss_std": "loss/std",
    "loss_action": "loss/action",
    "lr": "train/learning_rate",
    "samples_per_second": "speed/samples_per_second",
    "step_seconds": "speed/step_seconds",
    "data_seconds": "speed/data_wait_seconds",
    "peak_memory_mb": "memory/peak_mb",
}
"""Figure of a step -> its name in a tracker."""


class Tracker(Protocol):
    """Takes figures and videos of a run."""

    def step(self, record: Mapping[str, float]) -> None:
        """Figures of one step."""

    def validation(self, made: Validation) -> None:
        """A validation video."""

    def close(self) -> None:
        """Everything is written when this returns."""


class TensorBoard:
    """Event files below `folder`.

    Args:
        folder: Log folder.
        first_step: Step that the run goes on from: what a killed run wrote beyond it is hidden.
    """

    def __init__(self, folder: Path, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def step(self, record: Mapping[str, float]) -> None:
        """Figures of one step."""
        for key, name in SCALARS.items():
            self._writer.add_scalar(name, record[key], int(record["step"]))

    def validation(self, made: Validation) -> None:
        """The video as an animation: torch's own `add_video` wants moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = made.frames.shape[1:3]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=animation(made.frames))
        self._writer._get_file_writer().add_summary(
            Summary(value=[Summary.Value(tag="validation/source_agnostic_result", image=image)]), made.step
        )
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project; the same run when the training goes on.

    Args:
        config: The run.

    Raises:
        TrainingRefused: The package is missing.
    """

    def __init__(self, config: TrainConfig):
        try:
            import wandb
        except ImportError as e:
            raise TrainingRefused(
                "wandb_project is set, but the package wandb is not installed: pip install wandb, or leave it out"
            ) from e
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=config.wandb_project,
            id=Path(config.output_dir).name,
            resume="allow",
            dir=config.output_dir,
            config=config.model_dump(mode="json"),
        )

    def step(self, record: Mapping[str, float]) -> None:
        """Figures of one step."""
        self._run.log({name: record[key] for key, name in SCALARS.items()}, step=int(record["step"]))

    def validation(self, made: Validation) -> None:
        """The video file."""
        self._run.log({"validation": self._wandb.Video(str(made.video), fps=FPS, format="mp4")}, step=made.step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


def open_trackers(config: TrainConfig, first_step: int) -> tuple[list[Tracker], list[str]]:
    """The trackers that the configuration asks for, and remarks for the log.

    Raises:
        TrainingRefused: Weights & Biases is asked for and not installed.
    """
    trackers: list[Tracker] = []
    remarks = []
    if config.wandb_project:
        trackers.append(WeightsAndBiases(config))
    if config.tensorboard:
        folder = Path(config.output_dir) / "tensorboard"
        try:
            trackers.append(TensorBoard(folder, first_step))
            remarks.append(f"watch it with: tensorboard --logdir {folder}")
        except ImportError:
            remarks.append("the package tensorboard is not installed: no event files are written")
    return trackers, remarks
