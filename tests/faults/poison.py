"""Weights that are not what they say: changed bytes, and pickles that would run a command."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from models import weights
from tests.faults.lakes import hold, names_remedy
from tests.faults.suite import Case, Kind, Outcome, Runner, draw, environment

DIGEST = ("pose_landmark_full.tflite", "hand_landmark_full.tflite", "lpips_alex.safetensors", "minilm")
"""Weights of which one byte is changed; size and time stay."""


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def plain(mark: Path) -> bytes:
    """A bare pickle."""
    return pickle.dumps(Payload(mark))


def saved(mark: Path) -> bytes:
    """What `torch.save` writes: a zip archive with a pickle in it."""
    buffer = io.BytesIO()
    torch.save({"state_dict": Payload(mark)}, buffer)
    with zipfile.ZipFile(io.BytesIO(buffer.getvalue())) as archive:
        hold(any(n.endswith("data.pkl") for n in archive.namelist()), "torch.save writes no pickle any more")
    return buffer.getvalue()


def cases(seed: int, count: int | None) -> list[Case]:
    """Changed bytes, then pickles in every place from which weights are loaded."""
    found = [Case(f"one byte of {name} is another", {"what": "digest", "name": name}) for name in DIGEST]
    for target in PICKLES:
        for kind in ("plain", "saved"):
            found.append(Case(f"a pickle ({kind}) as {target}", {"what": "pickle", "target": target, "kind": kind}))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """A copy of the weights cache to poison."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)

    def run(case: Case) -> Outcome:
        folder = work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if case.values["what"] == "digest":
            return changed_byte(folder, case.values["name"])
        return pickled(folder, case.values["target"], case.values["kind"])

    yield run


def changed_byte(folder: Path, name: str) -> Outcome:
    """A file of the right size with another byte is not loaded, and said to be wrong."""
    source = weights.path(name)
    copy = folder / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy)
    file = max((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size) if copy.is_dir() else copy
    before = file.stat()
    with file.open("r+b") as f:
        f.seek(before.st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with environment(ITRYON_WEIGHTS=str(folder)):
        try:
            weights.path(name)
        except weights.MissingWeights as e:
            hold(names_remedy(str(e)), f"an error names no remedy: {e}")
        else:
            hold(False, f"{name} was accepted with another byte")
    return Outcome("refused by its digest")


# --- places from which weights are loaded ---


def _i3d(folder: Path, data: bytes) -> None:
    from models.features.i3d import load_i3d

    (folder / "i3d.pt").write_bytes(data)
    load_i3d(folder / "i3d.pt")


def _resnext(folder: Path, data: bytes) -> None:
    from models.features.resnext3d import load_resnext3d

    (folder / "resnext.pth").write_bytes(data)
    load_resnext3d(folder / "resnext.pth")


def _transformer(folder: Path, data: bytes) -> None:
    _checkpoint(folder, "diffusion_pytorch_model.safetensors", data)


def _transformer_bin(folder: Path, data: bytes) -> None:
    _checkpoint(folder, "diffusion_pytorch_model.bin", data)


def _checkpoint(folder: Path, name: str, data: bytes) -> None:
    from models.itryon.embedded import EMBEDDED_DIR
    from pipelines.tryon.load import load_pipeline
    from pipelines.tryon.settings import TryOnSettings

    shutil.copytree(EMBEDDED_DIR / "transformer", folder / "transformer")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "transformer" / name).write_bytes(data)
    load_pipeline(folder, TryOnSettings())


def _optimizer(folder: Path, data: bytes) -> None:
    _go_on_with(folder, "optimizer.safetensors", data)


def _random_state(folder: Path, data: bytes) -> None:
    _go_on_with(folder, "rng.safetensors", data)


def _clip(folder: Path, data: bytes) -> None:
    from models.training.loop import train
    from tests.models.training_clips import make_set
    from tests.models.training_runs import config

    make_set(folder)
    sorted((folder / "blobs").glob("*.safetensors"))[0].write_bytes(data)
    train(config(folder, folder / "out", steps=1))


def _array(folder: Path, data: bytes) -> None:
    from pipelines.evaluation.cache import ArrayCache

    cache = ArrayCache(folder)
    file = cache._file("0" * 64)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    hold(cache.get("0" * 64) is None, "the pickle was taken for an array")
    raise ValueError("passed over; it is computed again")


def _go_on_with(folder: Path, name: str, data: bytes) -> None:
    from models.training.loop import train
    from tests.models.training_clips import make_set
    from tests.models.training_runs import config, run_to

    make_set(folder)
    cfg = config(folder, folder / "out", steps=4)
    run_to(cfg, 2)
    (sorted((folder / "out" / "checkpoints").iterdir())[-1] / name).write_bytes(data)
    train(cfg)


PICKLES: dict[str, Callable[[Path, bytes], None]] = {
    "I3D network": _i3d,
    "ResNeXt network": _resnext,
    "transformer of a checkpoint": _transformer,
    "transformer of a checkpoint in the old format": _transformer_bin,
    "optimiser of a training checkpoint": _optimizer,
    "random state of a training checkpoint": _random_state,
    "tensors of a training clip": _clip,
    "array in the cache of the metrics": _array,
}


def pickled(folder: Path, target: str, kind: str) -> Outcome:
    """A pickle in the place of weights ends in an error and runs nothing."""
    mark = folder / "executed"
    data = (plain if kind == "plain" else saved)(mark)
    pickle.loads(plain(folder / "proof"))  # ours: shows that the payload does what it says
    hold((folder / "proof").is_dir(), "the payload does nothing, so its absence would prove nothing")
    try:
        PICKLES[target](folder, data)
    except Exception as e:
        said = f"{type(e).__name__}: {e}"
    else:
        said = ""
    hold(not mark.exists(), f"the pickle in {target} was executed")
    hold(said, f"the pickle in {target} was loaded without an error")
    return Outcome("refused, nothing executed")


KIND = Kind(
    "poison",
    "Weights with one byte changed; pickles in place of networks, checkpoints, optimiser state, clips and caches",
    "a wrong digest is refused with the command that gets the right file; no pickle's payload is ever executed",
    cases,
    session,
)
