"""Why a photo of something else than a garment is not refused: no embedded network tells them apart.

`pytest -s` on this file prints the figures that docs/architecture.md gives. Where they no longer hold it fails, and
a check can be made of them.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models import weights
from models.perception.pose_networks import PersonDetector
from pipelines.ingest.garments import analyse_garment, read_photo
from pipelines.ingest.settings import IngestSettings
from pipelines.video import VideoReader

_PRINT = 0.45
"""Width of a face printed on a garment, as a share of the garment's."""


def print_on(photo: np.ndarray, mask: np.ndarray, face: np.ndarray) -> np.ndarray:
    """A garment with a picture on its chest."""
    left, top, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    side = round(_PRINT * width)
    picture = cv2.resize(face, (side, round(side * face.shape[0] / face.shape[1])))
    y, x = top + (height - picture.shape[0]) // 2, left + (width - side) // 2
    printed = photo.copy()
    printed[y : y + picture.shape[0], x : x + side] = picture
    return printed


@pytest.mark.slow
def test_the_person_detector_takes_printed_garments_for_people_and_sceneries_for_garments(samples):
    detector = PersonDetector(weights.path("pose_detection.tflite"), min_score=1e-4)

    def score(rgb: np.ndarray) -> float:
        # People who fill the picture are found only with a margin.
        return max((p.score for margin in (0.0, 0.25) for p in detector(np.ascontiguousarray(rgb), margin)), default=0)

    people, faces, sceneries = [], [], []
    for path in sorted((samples / "videos").glob("*.mkv")):
        with VideoReader(path) as reader:
            frame = next(iter(reader.frames(5, 6))).rgb
        people.append(frame)
        x0, y0, x1, y1 = max(detector(frame), key=lambda p: p.score).box.round().astype(int)
        grown = round(0.4 * (x1 - x0))
        faces.append(frame[max(0, y0 - grown) : y1 + grown, max(0, x0 - grown) : x1 + grown])
        # The room to both sides of the person.
        sceneries += [frame[:, :150], frame[:, -150:]]
    garments, printed = [], []
    for i, path in enumerate(sorted((samples / "garments").glob("*.jpg"))):
        photo, _ = read_photo(str(path))
        found = analyse_garment(str(path), None, IngestSettings())
        mask = cv2.imdecode(np.frombuffer(found["mask_png"], np.uint8), cv2.IMREAD_GRAYSCALE)
        garments.append(photo)
        printed += [print_on(photo, mask, faces[(3 * i + j) % len(faces)]) for j in range(3)]

    pictures = {"people": people, "faces": faces, "garments": garments, "printed": printed, "sceneries": sceneries}
    scores = {name: np.array([score(p) for p in group]) for name, group in pictures.items()}
    for name, values in scores.items():
        print(f"{name}: {len(values)}, person score {values.min():.2f} to {values.max():.2f}")
    limit = min(scores["people"].min(), scores["faces"].min())
    refused = (scores["printed"] >= limit).sum()
    print(f"a limit of {limit:.2f} refuses all people and faces, {(scores['sceneries'] >= limit).sum()} sceneries,")
    print(
        f"{(scores['garments'] >= limit).sum()} garments and {refused} of {len(printed)} garments with a printed face"
    )
    assert refused > 0, "printed garments can be told from people: refuse photos of people"
    assert scores["sceneries"].max() > scores["garments"].min(), "sceneries can be told from garments"
