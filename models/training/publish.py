"""Makes a checkpoint small and portable: `python -m models.training.publish --checkpoint RUN/final --out FOLDER`.

Weights are stored as float16, and `training.json` keeps what identifies the run without the paths of the machine that
trained it, that of the checkpoint it went on from among them. The embedded nano checkpoint is made this way.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from models.itryon.embedded import names_folder
from models.itryon.transformer import ITryOnTransformer3DModel

_OF_ONE_MACHINE = ("manifest", "blob_root", "output_dir", "threads", "num_workers", "device")


def publish(checkpoint: Path, out: Path) -> None:
    """Write `out/transformer` and `out/training.json` from a trainer's export.

    Raises:
        FileNotFoundError: The folder is no export: `transformer/` or `training.json` is missing.
        ValueError: A weight does not fit half precision.
    """
    state_file = checkpoint / "training.json"
    if not state_file.is_file() or not (checkpoint / "transformer").is_dir():
        raise FileNotFoundError(f"{checkpoint} is no trainer's export: name the folder `final` of a finished run")
    model = ITryOnTransformer3DModel.from_pretrained(
        checkpoint / "transformer", torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.half()
        if not torch.isfinite(parameter.data).all():
            raise ValueError(f"{checkpoint}: {name} holds values that half precision cannot hold")
    model.save_pretrained(out / "transformer")
    config_file = out / "transformer" / "config.json"
    config = json.loads(config_file.read_text())
    # Where it was loaded from: a path of the machine that trained it.
    config.pop("_name_or_path", None)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    state = json.loads(state_file.read_text())
    state["config"] = {
        k: None if isinstance(v, str) and Path(v).is_absolute() else v
        for k, v in state["config"].items()
        if k not in _OF_ONE_MACHINE
    }
    state["extra"] = {}
    if state.get("parent") and names_folder(state["parent"]):
        state["parent"] = state["config"]["init_from"] = None
    (out / "training.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m models.training.publish", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder `final` of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    try:
        publish(args.checkpoint, args.out)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    weights = args.out / "transformer" / "diffusion_pytorch_model.safetensors"
    print(f"{args.out}: {weights.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
