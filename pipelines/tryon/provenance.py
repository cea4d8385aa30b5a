"""What a pipeline really works with, for the records of what it made."""

from __future__ import annotations

import json
from typing import Any

import torch

from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.settings import TryOnSettings


def what_was_used(loaded: LoadedPipeline, settings: TryOnSettings) -> dict[str, Any]:
    """Fields of a record about the pipeline.

    Where the setting `flow_shift` leaves it to the checkpoint, the settings in the record have the scheduler's.

    Returns:
        `settings`; `scheduler`, its class and configuration; `device` it runs on; `dtype` of each network; `use_hands`
        and `use_actions`, whether it was shown hands and told of actions.
    """
    pipe = loaded.pipe
    scheduler = pipe.scheduler
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    # Euler's `shift` can be set after it was built; solvers for Wan call theirs `flow_shift`.
    shift = getattr(scheduler, "shift", config.get("flow_shift"))
    networks = {k: v for k, v in pipe.components.items() if isinstance(v, torch.nn.Module)}
    return {
        "settings": settings.model_dump(mode="json") | {"flow_shift": None if shift is None else float(shift)},
        "scheduler": {"class": type(scheduler).__name__, **json.loads(json.dumps(config, default=str))},
        "device": str(pipe._execution_device),
        "dtype": {k: str(v.dtype).removeprefix("torch.") for k, v in networks.items()},
        "use_hands": loaded.use_hands,
        "use_actions": loaded.use_actions,
    }
