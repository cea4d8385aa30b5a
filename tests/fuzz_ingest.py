"""Mutated media files and manifests against the ingestion: `python -m tests.fuzz_ingest --seed 1 --count 500`.

What is promised: the run ends, no file takes longer or more memory than allowed, and every file is a row that is ok or
says why not. The same seed makes the same files.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.importers import land_catv2ton
from pipelines.ingest.inventory import take_inventory
from pipelines.ingest.landing import landing_folder
from pipelines.ingest.manifest import ManifestEntry, parse_manifest
from pipelines.ingest.settings import IngestSettings
from pipelines.store import DeltaStore
from pipelines.store.schemas import GARMENTS, VIDEOS
from tests.conftest import moving_frames
from tests.pipelines.media import write_audio, write_rotated, write_timed

BATCH_SIZE = 50


@dataclass
class Findings:
    """What a run of the fuzzer saw.

    Attributes:
        files: Files that were ingested.
        kinds: Status, or kind of trouble, -> files.
        broken: File -> promise that it broke.
        peak_memory_mb: Largest resident memory of any worker.
    """

    files: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)
    peak_memory_mb: float = 0.0


def originals(folder: Path) -> dict[str, bytes]:
    """Small whole files of many kinds: suffix, with what tells two of a kind apart before it -> bytes."""
    frames = moving_frames(14, 96, 72)
    files = {
        "avc.mp4": write_timed(folder / "a.mp4", [i * 40 for i in range(14)], frames=frames),
        "avc.mkv": write_timed(folder / "a.mkv", [0, 40, 80, 400, 440, 900, 940, 980, 1300, 1340], frames=frames),
        "turned.mov": write_rotated(folder / "r.mov", 90, frames=list(frames))[0],
        "sound.mp4": write_audio(folder / "s.mp4"),
        "four.avi": _encode(folder / "m.avi", "mpeg4", frames),
        "two.mpg": _encode(folder / "m.mpg", "mpeg2video", frames),
        "vp9.webm": _encode(folder / "v.webm", "libvpx-vp9", frames),
        "ffv1.mkv": _encode(folder / "f.mkv", "ffv1", frames),
    }
    found = {name: path.read_bytes() for name, path in files.items()}
    for suffix, kind in {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}.items():
        buffer = io.BytesIO()
        Image.fromarray(frames[0]).resize((160, 200)).save(buffer, kind)
        found[f"photo.{suffix}"] = buffer.getvalue()
    return found


def _encode(path: Path, codec: str, frames: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def flip(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """Some bytes become others, half of the time in the first kilobytes, where headers are."""
    reach = min(len(data), 4096) if rng.random() < 0.5 else len(data)
    for at in rng.integers(0, reach, rng.integers(1, 33)):
        data[at] = rng.integers(0, 256)
    return data


def cut(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The file ends early."""
    return data[: rng.integers(0, len(data))]


def splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The beginning of one file, the end of another."""
    return data[: rng.integers(0, len(data))] + other[rng.integers(0, len(other)) :]


def repeat(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """A part comes twice, or is gone."""
    a, b = sorted(rng.integers(0, len(data), 2))
    return data[:b] + data[a:] if rng.random() < 0.5 else data[:a] + data[b:]


def blank(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """A part is zeros, as after a copy that broke off."""
    a, b = sorted(rng.integers(0, len(data), 2))
    data[a:b] = bytes(int(b - a))
    return data


def exaggerate(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """Four or eight bytes of a header become the largest or smallest numbers: sizes, counts, dimensions."""
    for _ in range(rng.integers(1, 4)):
        size = int(rng.choice([2, 4, 8]))
        at = int(rng.integers(0, max(1, min(len(data), 2048) - size)))
        data[at : at + size] = [b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\0" * size][rng.integers(0, 3)]
    return data


MUTATIONS: tuple[Callable[[bytearray, bytes, np.random.Generator], bytearray], ...] = (
    flip,
    cut,
    splice,
    repeat,
    blank,
    exaggerate,
)


def write_batch(folder: Path, whole: dict[str, bytes], count: int, rng: np.random.Generator) -> list[str]:
    """Fill a landing folder with mutated files and a mutated manifest; paths of the files."""
    names, paths = sorted(whole), []
    (folder / "garments").mkdir(parents=True)
    for i in range(count):
        name, other = rng.choice(names), rng.choice(names)
        data = bytearray(whole[name])
        for _ in range(rng.integers(1, 3)):
            data = MUTATIONS[rng.integers(0, len(MUTATIONS))](data, whole[other], rng) or data
        path = f"{'garments/' if name.startswith('photo') else ''}{i:05d}-{name}"
        (folder / path).write_bytes(bytes(data))
        paths.append(path)
    actions = [{"action": "other", "start_s": 0.1, "end_s": 0.3, "text": "x"}]
    photos = [p for p in paths if p.startswith("garments/")] or ["garments/none.png"]
    lines = [
        json.dumps({"video": p, "garment": str(rng.choice(photos)), "actions": actions})
        for p in paths
        if not p.startswith("garments/")
    ]
    text = bytearray("\n".join(lines).encode() or b"{}")
    mutated = MUTATIONS[rng.integers(0, len(MUTATIONS))](text, whole["photo.png"], rng)
    (folder / "manifest.jsonl").write_bytes(bytes(mutated))
    return paths


def check_batch(store: DeltaStore, batch: str, paths: list[str], findings: Findings) -> None:
    """Hold the rows of a batch to the promise."""
    videos = {r["source_path"]: r for r in store.read(VIDEOS, where={"batch": batch}).to_pylist()}
    photos = {r["source_path"]: r for r in store.read(GARMENTS, where={"batch": batch}).to_pylist()}
    for path in paths:
        # A mutated manifest may call a photo a video; photos with equal bytes share a row.
        row = videos.get(path) or photos.get(path)
        if row is None and path.startswith("garments/"):
            data = (landing_folder(store, batch) / path).read_bytes()
            same = [p for p in photos if (landing_folder(store, batch) / p).read_bytes() == data]
            row = photos[same[0]] if same else None
        if row is None:
            findings.broken[f"{batch}/{path}"] = "is no row"
            continue
        reason = row["reason"] or ""
        if row["status"] != "ok" and not reason:
            findings.broken[f"{batch}/{path}"] = f"is {row['status']} without a reason"
        trouble = {"crashed": "decoder crashed", "timeout": "Took longer", "memory": "GiB of memory"}
        kind = next((k for k, text in trouble.items() if text in reason), row["status"])
        findings.kinds[kind] += 1
        if kind == "timeout":
            findings.broken[f"{batch}/{path}"] = reason
        # What ends with the name of a Python error was not foreseen.
        if reason.split(":")[0] in ("ValueError", "TypeError", "KeyError", "IndexError", "AssertionError", "error"):
            findings.broken[f"{batch}/{path}"] = reason


def fuzz(seed: int, count: int, settings: IngestSettings, keep: Path | None = None) -> Findings:
    """Ingest `count` mutated files; copies of those that broke a promise go to `keep`."""
    findings = Findings(files=count)
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "whole").mkdir()
        whole = originals(Path(scratch) / "whole")
        store = DeltaStore(Path(scratch) / "lake")
        store.ensure_tables([VIDEOS, GARMENTS])
        for first in range(0, count, BATCH_SIZE):
            batch = f"fuzz-{seed}-{first}"
            paths = write_batch(landing_folder(store, batch), whole, min(BATCH_SIZE, count - first), rng)
            ingest_batch(store, batch, settings)
            check_batch(store, batch, paths, findings)
            if keep is not None:
                for name in (n for n in findings.broken if n.startswith(f"{batch}/")):
                    keep.mkdir(parents=True, exist_ok=True)
                    source = landing_folder(store, batch) / name.removeprefix(f"{batch}/")
                    shutil.copyfile(source, keep / name.replace("/", "_"))
            print(f"{first + len(paths)}/{count}", dict(findings.kinds), file=sys.stderr, flush=True)
    findings.peak_memory_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return findings


_PATHS = [
    "a.mp4",
    "sub/b.mkv",
    "garments/p.png",
    "../secret.mp4",
    "/etc/hostname",
    "sub/../../secret.mp4",
    "",
    "a.mp4\0",
]
_PATHS += [
    "sub\\b.mkv",
    "C:/x.mp4",
    "é.mp4",
    "e\u0301.mp4",
    "a.mp4/",
    "./a.mp4",
    "missing.mp4",
    "x" * 300,
    "\ud800.mp4",
]
_VALUES = [None, True, -1, 0, 1e308, 10**400, float("nan"), "upper_body", "train", [], {}, [[]], "\x00", "a" * 5000]
_KEYS = ["video", "garment", "garment_mask", "garment_category", "tryon_garment", "split", "actions", "front_seqs"]
_KEYS += ["global_caption", "garmnet", "paired_image", "image", "subdir", "category", "__class__", ""]


def _odd_value(rng: np.random.Generator, depth: int = 0) -> Any:
    """Something that a person, a program or an attacker may write into a manifest."""
    kind = rng.integers(0, 5)
    if kind == 0 and depth < 3:
        return {_KEYS[rng.integers(len(_KEYS))]: _odd_value(rng, depth + 1) for _ in range(rng.integers(0, 4))}
    if kind == 1 and depth < 3:
        return [_odd_value(rng, depth + 1) for _ in range(rng.integers(0, 4))]
    if kind == 2:
        action = {"action": "other", "start_s": 0.1, "end_s": 0.3, "text": "x"}
        return [action | {str(rng.choice(list(action))): _VALUES[rng.integers(len(_VALUES))]}]
    source = _PATHS if kind == 3 else _VALUES
    return source[rng.integers(len(source))]


def odd_manifest(rng: np.random.Generator) -> bytes:
    """Lines with odd keys and values, of which the bytes are mutated half of the time."""
    lines = []
    for _ in range(rng.integers(1, 7)):
        line = {"video": _PATHS[rng.integers(len(_PATHS))], "garment": "garments/p.png"}
        if rng.random() < 0.5:
            line["image"] = line["paired_image"] = "garments/p.png"
        line |= {_KEYS[rng.integers(len(_KEYS))]: _odd_value(rng) for _ in range(rng.integers(0, 4))}
        lines.append(json.dumps(line, ensure_ascii=bool(rng.integers(2))))
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        text = bytes(MUTATIONS[rng.integers(0, len(MUTATIONS))](bytearray(text), b"[" * 9000, rng))
    return text


def fuzz_manifests(seed: int, count: int) -> Counter[str]:
    """Read odd manifests of both formats; how many lines were right and wrong.

    Raises:
        AssertionError: A line leads out of its folder, a file is in no row, or a line changes by being written again.
        Exception: Whatever a reader raises that it does not announce.
    """
    rng, kinds, ours = np.random.default_rng(seed), Counter[str](), set(ManifestEntry.model_fields)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "zone" / "b"
        (Path(scratch) / "zone" / "secret.mp4").parent.mkdir()
        (Path(scratch) / "zone" / "secret.mp4").write_bytes(b"what must not be read")
        files = ["a.mp4", "sub/b.mkv", "garments/p.png", "é.mp4"]
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        for number in range(count):
            text = odd_manifest(rng)
            (root / "manifest.jsonl").write_bytes(text)
            inventory = take_inventory(root)
            there = {v.path for v in inventory.videos if v.file}
            assert {"a.mp4", "sub/b.mkv", "é.mp4"} <= there, f"{number}: a file is in no row"
            for found in [*inventory.videos, *inventory.photos.values()]:
                assert found.file is None or found.file.location.is_relative_to(root.resolve()), (
                    f"{number}: {found.path}"
                )
                assert found.file or found.problem, f"{number}: a row without a file has no reason"
            for line in parse_manifest(text.split(b"\n")):
                kinds["right" if line.entry else "wrong"] += 1
                if line.entry:
                    # Keys that are not ours may lose values that JSON does not know, such as NaN.
                    (again,) = parse_manifest([line.entry.as_json().encode()])
                    before, after = (e and e.model_dump(include=ours) for e in (line.entry, again.entry))
                    assert before == after, f"{number}: a line changes by being written again: {before}, {after}"
            store = DeltaStore(Path(scratch) / "lake")
            (root / "train_data.jsonl").write_bytes(text)
            try:
                land_catv2ton(root / "train_data.jsonl", store, "c")
            except (OSError, ValueError, LookupError):
                kinds["lists refused"] += 1
            else:
                kinds["lists landed"] += 1
            (root / "train_data.jsonl").unlink()
            assert not list((Path(scratch) / "lake").rglob("secret.mp4")), f"{number}: a list leads out of its folder"
            shutil.rmtree(Path(scratch) / "lake", ignore_errors=True)
    return kinds


def main() -> int:
    """Fuzz, print the figures; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--timeout", type=float, default=120, help="seconds a file may take")
    parser.add_argument("--memory", type=float, default=2, help="GiB a file may take")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for files that break a promise")
    given = parser.parse_args()
    settings = IngestSettings(timeout_s=given.timeout, memory_gb=given.memory, workers=given.workers)
    findings = fuzz(given.seed, given.count, settings, given.keep)
    print(json.dumps(vars(findings), indent=1))
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
