"""`python -m models.training --config FILE`: train, or go on training, until done or told to stop.

Exit codes: 0 done; 2 refused (configuration, data or checkpoint; the message says what to do); 3 the loss is no number
any more; 4 the disk is full; 128 + signal when stopped with its state saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import yaml

from models.training.config import CONFIG_FOLDER, TrainConfig, load_config
from models.training.signals import end_with_parent

if TYPE_CHECKING:
    from models.training.data import ClipReader

# Read when torch loads its OpenMP runtime, so it has to be set before. By default idle threads spin: with other work
# on the machine a step of the nano model took 27 s and 9 s of CPU time, without spinning 4 s and 1 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: list[str] | None = None, open_reader: Callable[[TrainConfig], ClipReader] | None = None) -> int:
    """Entry point; returns the exit code.

    Args:
        argv: Arguments; those of the process by default.
        open_reader: Makes what reads the clips of a run; their cached blobs are read by default.
    """
    recipes = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml")))
    parser = argparse.ArgumentParser(prog="python -m models.training", description="Train an iTryOn transformer.")
    parser.add_argument("--config", required=True, help=f"YAML or JSON file, or one of the recipes {recipes}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="replace a field of the configuration"
    )
    parser.add_argument("--fresh", action="store_true", help="refuse a folder with checkpoints instead of going on")
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on although configuration or data differ from the checkpoint's"
    )
    parser.add_argument("--force", action="store_true", help="start although the memory estimate exceeds the device")
    parser.add_argument(
        "--estimate",
        metavar="FRAMESxHEIGHTxWIDTH",
        help="print the memory that clips of this size need, and train nothing; needs no data",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("training").setLevel(logging.INFO)
    try:
        overrides = dict(_override(text) for text in arguments.set)
        if arguments.force:
            overrides["allow_oversize"] = True
        if arguments.estimate:
            return _estimate(arguments.config, overrides, arguments.estimate)
        config = load_config(arguments.config, overrides)
    except (OSError, ValueError) as e:
        print(f"Configuration refused: {e}", file=sys.stderr)
        return 2

    end_with_parent()
    from models.training.report import open_pipes

    main_process = int(os.environ.get("RANK", "0")) == 0
    pipes = open_pipes() if main_process else None
    code, error = _run(config, pipes, arguments, open_reader)
    if pipes is not None:
        pipes.close()
    if error:
        print(error, file=sys.stderr, flush=True)
    return code


def _estimate(recipe: str, overrides: dict[str, object], bucket: str) -> int:
    if not re.fullmatch(r"\d+x\d+x\d+", bucket):
        raise ValueError(f"--estimate takes FRAMESxHEIGHTxWIDTH, not {bucket!r}")
    config = load_config(recipe, {"manifest": "", "blob_root": "", "output_dir": "", **overrides})
    from models.training.memory import estimate_memory

    print(estimate_memory(config, [(bucket, 1, config.batch_size)]))
    return 0


def _run(
    config: TrainConfig,
    pipes: Any | None,
    arguments: argparse.Namespace,
    open_reader: Callable[[TrainConfig], ClipReader] | None,
) -> tuple[int, str | None]:
    from safetensors import SafetensorError

    from models.filesystem import disk_is_full
    from models.training.checkpoint import CheckpointError
    from models.training.config import TrainingRefused
    from models.training.data import DataError
    from models.training.loop import Interrupted, TrainingDiverged, train

    try:
        summary = train(
            config,
            pipes=pipes,
            resume=not arguments.fresh,
            allow_changes=arguments.allow_changes,
            reader=open_reader(config) if open_reader else None,
        )
    except (DataError, CheckpointError, TrainingRefused) as e:
        return 2, _tell(pipes, f"Training refused: {e}")
    except TrainingDiverged as e:
        return 3, _tell(pipes, f"Training stopped: {e}")
    except Interrupted as e:
        return 128 + e.signum, _tell(pipes, str(e))
    except (OSError, RuntimeError, SafetensorError) as e:
        if not disk_is_full(e):
            raise
        text = f"Training stopped: the disk of {config.output_dir} is full: free some space and run again"
        return 4, _tell(pipes, f"{text}; it goes on from its last checkpoint")
    shown = ("checkpoint", "steps", "final_loss", "step_seconds_median", "samples_per_second", "peak_memory_mb")
    print(json.dumps({k: summary[k] for k in shown}), flush=True)
    return 0, None


def _tell(pipes, text: str) -> str:
    if pipes is not None:
        pipes.log.error(text)
        pipes.report_custom_message({"kind": "error", "message": text})
    return text


def _override(text: str) -> tuple[str, object]:
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--set takes FIELD=VALUE, not {text!r}")
    return name.strip(), yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
