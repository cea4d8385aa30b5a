"""Training data of the hand lifter: what MediaPipe sees of hands in studio clips, with the studio's truth beside it.

`python -m pipelines.hands.lifter_data --batch NAME [NAME ...] --out FOLDER` writes one file a clip. The batches must be
in the lake with their truth and rows of `pose`; hands are looked for as the stage does. Files that are there and still
hold are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import weights
from models.perception.hand_ik import viewing_rotation
from models.perception.hands.base import Camera
from models.perception.hands.lifter import arm_of
from models.perception.hands.mediapipe import WEIGHTS, hand_finder
from pipelines.arrays import points_to_numpy, structs_to_numpy
from pipelines.hands.settings import CODE_VERSION
from pipelines.stage import digest
from pipelines.store import TABLES, DeltaStore
from pipelines.video import VideoReader

_NEAR = 0.5  # hand sizes: farther from the true hand, another hand was found


def samples(store: DeltaStore, video: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is seen of each hand in each frame of a rendered clip, and the truth; hands that were missed are not there.

    Args:
        store: The lake.
        video: Row of `videos`.
    """
    where = {"batch": video["batch"], "video_id": video["video_id"]}
    rows = store.read(TABLES["pose"], columns=["frame", "landmarks"], where=where)
    pose = dict(zip(rows["frame"].to_pylist(), points_to_numpy(rows["landmarks"], 33)))
    frames = store.read(TABLES["studio_frames"], columns=["frame", "camera"], where=where)
    cameras = {f: Camera(*c) for f, c in zip(frames["frame"].to_pylist(), structs_to_numpy(frames["camera"]))}
    hands = store.read(TABLES["studio_hands"], where=where)
    pixels, metres = points_to_numpy(hands["keypoints_2d"], 21), points_to_numpy(hands["keypoints_3d"], 21)
    keys = zip(hands["frame"].to_pylist(), hands["handedness"].to_pylist())
    truth = dict(zip(keys, zip(pixels, metres, hands["visible"].to_pylist())))
    finder = hand_finder()
    with VideoReader(store.blobs.local_path(video["uri"])) as reader:
        for frame in reader.frames():
            body = pose.get(frame.index)
            body = body if body is not None and np.isfinite(body).all() else None
            for hand in finder(frame.rgb, body):
                if (frame.index, hand.handedness) not in truth:
                    continue
                points, space, visible = truth[frame.index, hand.handedness]
                if np.linalg.norm(hand.points.mean(0) - points.mean(0)) > _NEAR * np.ptp(points, axis=0).max():
                    continue
                camera = cameras[frame.index]
                # What the network must answer, in the axes in which MediaPipe sees the hand.
                turn = viewing_rotation(hand.points[None], camera)[0]
                yield {
                    "frame": frame.index,
                    "left": hand.handedness == "left",
                    "score": hand.score,
                    "points": hand.points,
                    "world": hand.world,
                    "arm": arm_of(body, hand.handedness),
                    "true_points": points,
                    "true_world": (space - space.mean(0)) @ turn,
                    "metres_per_pixel": space[:, 2].mean() / camera.fx,
                    "visible": visible,
                }


def write_batch(store: DeltaStore, batch: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Write the files of a batch.

    Yields:
        Video and, where its clip could not be used, why.

    Raises:
        LookupError: The batch has no studio clips.
        MissingWeights: MediaPipe's networks are not in the weights cache.
    """
    clips = store.read(TABLES["studio_clips"], where={"batch": batch}).to_pylist()
    if not clips:
        raise LookupError(f"Batch {batch!r} has no rows of studio_clips: render one with `itryon studio`")
    videos = {r["video_id"]: r for r in store.read(TABLES["videos"], where={"batch": batch}).to_pylist()}
    status = store.read(TABLES["stage_status"], where={"batch": batch, "stage": "pose"}).to_pylist()
    posed = {r["video_id"]: r["fingerprint"] for r in status if r["status"] == "ok"}
    networks = [weights.digest(name) for name in WEIGHTS]
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        video_id = clip["video_id"]
        if video_id not in posed:
            yield video_id, "no rows of pose: materialise the batch to pose"
            continue
        fingerprint = digest(clip["fingerprint"], posed[video_id], *networks, CODE_VERSION)[:32]
        path = folder / f"{video_id}.npz"
        if not (path.is_file() and _fingerprint(path) == fingerprint):
            found = list(samples(store, videos[video_id]))
            if not found:
                yield video_id, "no hand was found"
                continue
            names = ("seed", "performance", "action", "side")
            notes = {k: clip[k] for k in names} | {"video_id": video_id, "batch": batch, "fingerprint": fingerprint}
            arrays: dict[str, np.ndarray] = {"notes": np.array(json.dumps(notes))}
            arrays |= {k: _compact(np.array([f[k] for f in found])) for k in found[0]}
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        yield video_id, None


def _compact(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _fingerprint(path: Path) -> str | None:
    with np.load(path) as file:
        return json.loads(str(file["notes"]))["fingerprint"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module. Returns 1 when a clip could not be used."""
    from rich.console import Console
    from rich.progress import track

    parser = argparse.ArgumentParser(prog="python -m pipelines.hands.lifter_data", description=__doc__)
    parser.add_argument("--batch", nargs="+", required=True, help="studio batches in the lake at ITRYON_LAKE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args(arguments)
    store, console = DeltaStore(), Console()
    problems = {}
    for batch in options.batch:
        total = len(store.read(TABLES["studio_clips"], ["video_id"], {"batch": batch}))
        for video_id, problem in track(write_batch(store, batch, options.out), batch, total, console=console):
            if problem:
                problems[video_id] = problem
    for video_id, problem in problems.items():
        console.print(f"left out {video_id}: {problem}", highlight=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
