"""Training configuration. No heavy imports: the orchestration builds and checks configurations at start-up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.itryon.presets import preset

if TYPE_CHECKING:
    from models.itryon.guider import GuiderInput

CONFIG_FOLDER = Path(__file__).parent / "configs"

# What may differ between a run and its continuation: none of these changes a weight.
WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "blob_root",
        "manifest",
        "log_every",
        "checkpoint_every",
        "keep_last",
        "num_workers",
        "device",
        "allow_oversize",
        "validate_every",
        "validation_clips",
        "validation_steps",
        "validation_guidance",
        "validation_vae",
        "tensorboard",
        "wandb_project",
    }
)


class TrainingRefused(ValueError):
    """A run that cannot be started as it is configured; the message says what to change."""


class TrainConfig(BaseModel):
    """One training run. Files in `models/training/configs` hold the recipes; the paths are given per run."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    # Data
    manifest: str = Field(description="Parquet file of a training set: one row a clip, in the columns of table clips")
    blob_root: str = Field(description="Folder or URI below which the manifest's blob URIs lie (the lake root)")
    output_dir: str = Field(description="Folder for checkpoints, metrics and the final model")
    training_set_id: str = Field(default="", description="Digest of the training set, recorded in the checkpoint")
    split: str = Field(default="train", description="Rows of the manifest to train on")

    # Model
    preset: Literal["nano", "1.3b", "14b"] = Field(default="nano", description="Size of the transformer")
    model: dict[str, Any] = Field(
        default_factory=dict, description="Transformer settings that replace those of the preset"
    )
    init_from: str | None = Field(
        default=None,
        description="Checkpoint to start from: a folder that holds transformer/, a Hub model id such as "
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers, or `embedded` for the nano checkpoint that comes along; random weights by "
        "default",
    )
    lora_rank: int | None = Field(
        default=None, gt=0, description="Rank of low-rank adapters on a frozen network; none trains all weights"
    )
    lora_alpha: int | None = Field(
        default=None, gt=0, description="The adapters count alpha / rank; alpha is the rank by default"
    )
    lora_targets: list[str] = Field(
        default=["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"],
        min_length=1,
        description="Ends of the names of stock layers with an adapter; the added modules are trained in full",
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass")

    # Guidance: the paper's three modules
    use_hands: bool = Field(default=True, description="Feed the hands to the Interaction Guider")
    use_action_captions: bool = Field(
        default=True,
        description="Feed time-stamped action captions; otherwise each segment has the empty one (stage 1)",
    )
    lambda_action: float = Field(default=0.5, ge=0, description="Weight of the action-consistency term (paper: 0.5)")
    action_loss_reduction: Literal["as_written", "mean_over_mask"] = Field(
        default="as_written",
        description="Mean of the action term over all elements, as the paper writes it, or inside the mask",
    )

    unmasked_weight: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Weight of both loss terms where nothing is repainted, reference frames included; elsewhere it is "
        "1. Try-on keeps those pixels as they are, so a small network need not spend its capacity on them",
    )

    loss_space: Literal["latent", "pixel"] = Field(
        default="latent",
        description="latent: all latent channels count alike, as in the paper. pixel: each counts as much as it shows "
        "in the picture; for the nano autoencoder, most of whose channels hold faint detail",
    )

    # Condition dropout, for classifier-free guidance at inference
    caption_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of samples with an empty global caption")
    action_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of samples with empty action captions")
    hand_dropout: float = Field(default=0.1, ge=0, le=1, description="Share of samples without hands")
    reference_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of batches without garment reference",
    )

    # Flow matching
    timestep_sampling: Literal["uniform", "logit_normal"] = Field(
        default="logit_normal", description="Density of the noise level before the shift"
    )
    flow_shift: float = Field(default=3.0, gt=0, description="Shift of the noise schedule; use the same at inference")

    # Optimisation
    steps: int = Field(gt=0, description="Optimiser steps")
    batch_size: int = Field(default=1, gt=0, description="Clips a step and process")
    gradient_accumulation_steps: int = Field(default=1, gt=0, description="Batches a step")
    learning_rate: float = Field(default=5e-5, gt=0, description="Peak learning rate")
    lr_schedule: Literal["constant", "cosine", "linear"] = Field(default="constant", description="After the warm-up")
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay")
    adam_beta1: float = Field(default=0.9, gt=0, lt=1, description="AdamW beta 1")
    adam_beta2: float = Field(default=0.99, gt=0, lt=1, description="AdamW beta 2")
    grad_clip: float | None = Field(default=1.0, gt=0, description="Largest gradient norm; none without limit")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of the exported average of weights; none exports the last weights",
    )
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="Arithmetic; weights stay in fp32")
    seed: int = Field(default=0, ge=0, description="Seed of weights, order, noise and dropout")

    # Process
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto takes an accelerator where there is one")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; another number changes last bits")
    num_workers: int = Field(default=0, ge=0, description="Loader processes; 0 reads in the training process")
    log_every: int = Field(default=10, gt=0, description="Steps between reports")
    checkpoint_every: int = Field(default=500, gt=0, description="Steps between checkpoints")
    keep_last: int = Field(default=2, gt=0, description="Step checkpoints kept")
    allow_oversize: bool = Field(default=False, description="Start although the memory estimate exceeds the device")

    # Watching
    validate_every: int | None = Field(
        default=None, gt=0, description="Steps between try-on videos from the weights just trained, and at the end"
    )
    validation_clips: int = Field(
        default=2, gt=0, description="Clips to dress: of split val, else the first ones of the training set"
    )
    validation_steps: int = Field(default=20, gt=0, description="Denoising steps of a validation video")
    validation_guidance: float = Field(default=2.0, ge=1, description="Guidance on captions; 1 switches it off")
    validation_vae: str = Field(
        default="nano",
        description="VAE that encoded the clips: nano, or a folder with vae/ such as a Wan2.1 checkpoint",
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard events to <output_dir>/tensorboard")
    wandb_project: str | None = Field(
        default=None, description="Weights & Biases project to report to; needs the package wandb"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self

    @model_validator(mode="after")
    def _pixels_are_known(self) -> TrainConfig:
        if self.loss_space == "pixel":
            nano, mine = (p["in_channels"] for p in (preset("nano"), preset(self.preset) | self.model))
            if mine != nano:
                raise ValueError(f"loss_space pixel is for the {nano} channels of the nano autoencoder, not for {mine}")
        return self

    @property
    def guider_input(self) -> GuiderInput:
        """What the transformer's guider reads."""
        return {**preset(self.preset), **self.model}.get("guider_input", "render")

    def changes(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Fields that differ from `other` and change the weights: name -> (this value, other value)."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return {k: (v, theirs[k]) for k, v in mine.items() if k not in WITHOUT_EFFECT and v != theirs[k]}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Fields of a YAML or JSON file, as written.

    Args:
        path: A file, or the name of a recipe in `models/training/configs` (`nano`).

    Raises:
        FileNotFoundError: There is neither such a file nor such a recipe.
        ValueError: Not a mapping.
    """
    file = Path(path)
    if not file.is_file() and (recipe := CONFIG_FOLDER / f"{path}.yaml").is_file():
        file = recipe
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"No training configuration {path}; recipes: {known}")
    values = yaml.safe_load(file.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a mapping of fields to values")
    return values


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read and check a configuration; `overrides` (field name -> value) win over what `read_recipe` finds.

    Raises:
        FileNotFoundError: There is neither such a file nor such a recipe.
        ValueError: Not a mapping, or pydantic's message about a field.
    """
    return TrainConfig(**{**read_recipe(path), **(overrides or {})})
