"""Tables of the capture studio: the exact truth of rendered videos, one row next to each row that annotators make.

Declared apart from `schemas`, whose tables speak of any video; these exist for rendered ones only.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.store.columns import (
    BATCH,
    CAMERA,
    FINGERPRINT,
    FRAME,
    LANDMARK,
    POINT_2D,
    POINT_3D,
    RUN,
    TIME,
    VIDEO_ID,
    TableSpec,
    column,
)

PERFORMANCES = ("interaction", "pantomime", "hover", "rest", "walk", "idle")
"""What a clip shows: the garment is acted upon; the same hand motion while the cloth stays; a hand in front of the
garment without touching; a hand resting on it; walking and turning; standing."""

JUDGE_CASE_KINDS = ("done", "undone", "pantomime", "wrong_action", "wrong_time")
"""What a judge is measured on, see `pipelines.evaluation.judges.cases`."""

STUDIO_CLIPS = TableSpec(
    "studio_clips",
    "One rendered video",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            column("source_path", pa.string(), "Path below the landing folder of the batch", nullable=False),
            column("seed", pa.int64(), "Seed of the clip", nullable=False),
            column("version", pa.string(), "Version of the studio that rendered it", nullable=False),
            column("performance", pa.string(), f"One of {', '.join(PERFORMANCES)}", nullable=False),
            column("action", pa.string(), "Action performed or mimed; null where there is none"),
            column("side", pa.string(), "Hand that acts: left or right; null where none does"),
            column(
                "garment_type", pa.string(), "t_shirt, long_sleeve, collared_shirt, zip_jacket or dress", nullable=False
            ),
            column(
                "garment", pa.string(), "Product picture of the garment worn, below the landing folder", nullable=False
            ),
            column("counterfactual_garment", pa.string(), "Product picture of the other garment", nullable=False),
            column(
                "counterfactual_uri",
                pa.string(),
                "Blob, mp4: the same clip in the other garment; null where it was not rendered",
            ),
            column(
                "undone_uri",
                pa.string(),
                "Blob, mp4: the same in the other garment, which stays as if no hand had touched it; null where it was "
                "not rendered or nothing is done to the garment",
            ),
            column(
                "depth_uri",
                pa.string(),
                "Blob, mkv (FFV1, 16-bit grey): depth in millimetres, 0 = nothing",
                nullable=False,
            ),
            column("look", pa.string(), "Body, skin, hair, light, camera and fabrics as JSON", nullable=False),
            FINGERPRINT,
        ]
    ),
    sort_by=("source_path",),
)

STUDIO_FRAMES = TableSpec(
    "studio_frames",
    "The truth of one frame of a rendered video",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            FRAME,
            TIME,
            column(
                "landmarks",
                pa.list_(LANDMARK),
                "33 MediaPipe landmarks; z in pixels about the hips, smaller is nearer; visibility 1 where the body "
                "part is in the picture and nothing is before it, else 0",
                nullable=False,
            ),
            column(
                "world_landmarks", pa.list_(POINT_3D), "33 landmarks, metres, origin between the hips", nullable=False
            ),
            column("camera", CAMERA, "Full-frame pinhole camera, pixels", nullable=False),
            column("person_mask", pa.binary(), "COCO RLE counts: person with clothes and hair", nullable=False),
            column(
                "garment_mask",
                pa.binary(),
                "COCO RLE counts: visible pixels of the garment that is tried on",
                nullable=False,
            ),
            column("skin_mask", pa.binary(), "COCO RLE counts: visible skin", nullable=False),
            column(
                "agnostic_mask",
                pa.binary(),
                "COCO RLE counts: what has to be repainted for any garment of the category, hands and face left out",
                nullable=False,
            ),
            column("height", pa.int32(), "Rows of the masks", nullable=False),
            column("width", pa.int32(), "Columns of the masks", nullable=False),
            column("action", pa.string(), "Action that is really done in this frame; null where none is"),
            FINGERPRINT,
        ]
    ),
)

STUDIO_HANDS = TableSpec(
    "studio_hands",
    "The truth of one hand in one frame of a rendered video",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            FRAME,
            column("handedness", pa.string(), "left or right: the person's own hand", nullable=False),
            column(
                "keypoints_2d", pa.list_(POINT_2D), "21 keypoints, full-frame pixels (MediaPipe order)", nullable=False
            ),
            column(
                "keypoints_3d",
                pa.list_(POINT_3D),
                "21 keypoints in the camera frame, metres: x right, y down, z away",
                nullable=False,
            ),
            column(
                "vertices",
                pa.binary(),
                "1,609 mesh vertices in the order of topology cc0_hand, int16 tenths of a millimetre from keypoint 0, "
                "camera frame, little-endian (x, y, z)",
                nullable=False,
            ),
            column(
                "visible",
                pa.float32(),
                "Share of the hand's camera-facing surface that can be seen, 0 to 1",
                nullable=False,
            ),
            column("contact", pa.bool_(), "Whether the hand touches the garment", nullable=False),
            column(
                "action", pa.string(), "What this hand does to the garment: an action, `rest`, or null", nullable=True
            ),
            column("distance_m", pa.float32(), "From the hand's surface to the garment's, metres", nullable=False),
            FINGERPRINT,
        ]
    ),
    sort_by=("video_id", "frame", "handedness"),
)

ANNOTATOR_REPORTS = TableSpec(
    "annotator_reports",
    "One figure of how well an annotator does on a rendered batch, over all videos or over some",
    pa.schema(
        [
            BATCH,
            column(
                "metric", pa.string(), "`family.what` or `family.what/of_what`, such as hands.found", nullable=False
            ),
            column(
                "split",
                pa.string(),
                "Videos it is over: all, performance=... or action=... (performed or mimed)",
                nullable=False,
            ),
            column("value", pa.float64(), "Null where the videos hold nothing to measure it on"),
            column("low", pa.float64(), "Lower end of the 95 % interval, bootstrap over videos; null below two videos"),
            column("high", pa.float64(), "Upper end of the interval"),
            column(
                "num_samples", pa.int64(), "Frames, hands, landmarks, pixels or spans it comes from", nullable=False
            ),
            column("num_videos", pa.int32(), "Videos that brought samples", nullable=False),
            column("unit", pa.string(), "share, px, mm, deg, torso (lengths), ratio or spans", nullable=False),
            column("better", pa.string(), "higher or lower; empty where neither is better", nullable=False),
            column("goal", pa.float64(), "Bound to keep, on the side that `better` names; null where there is none"),
            column("met", pa.bool_(), "Whether it is kept; null without a goal or a value"),
            column(
                "annotator",
                pa.string(),
                "Backend that made the annotations, such as mediapipe or hamer",
                nullable=False,
            ),
            column(
                "annotator_digest",
                pa.string(),
                "Digest of the fingerprints of the rows that were measured",
                nullable=False,
            ),
            *RUN,
        ]
    ),
    sort_by=("metric", "split", "annotator"),
)

_JUDGE = [
    BATCH,
    column("judge_digest", pa.string(), "Settings, version and weights of the judge", nullable=False),
    column("judge", pa.string(), "vlm, local_vlm or kinematic, with model or version", nullable=False),
    column(
        "pictures",
        pa.string(),
        "What results looked like: rendered, or nano (through the nano autoencoder and back)",
        nullable=False,
    ),
]

JUDGE_CASES = TableSpec(
    "judge_cases",
    "A judge's verdict on one interaction whose truth is known",
    pa.schema(
        [
            *_JUDGE,
            VIDEO_ID,
            column("kind", pa.string(), f"One of {', '.join(JUDGE_CASE_KINDS)}", nullable=False),
            column("action", pa.string(), "Interaction that the caption names", nullable=False),
            column("done_action", pa.string(), "Interaction that the result shows at some time; null where none"),
            column("start_frame", pa.int32(), "First frame of the span asked for", nullable=False),
            column("end_frame", pa.int32(), "End of the span, exclusive", nullable=False),
            column("text", pa.string(), "Caption", nullable=False),
            column("expected", pa.bool_(), "Whether the interaction is done as captioned", nullable=False),
            column("success", pa.bool_(), "The judge's verdict; null where it could not answer"),
            column("score", pa.float32(), "Confidence that the interaction succeeded, 0 to 1"),
            column("rationale", pa.string(), "The judge's reason", nullable=False),
            column("votes", pa.list_(pa.bool_()), "Single votes", nullable=False),
            column("frames", pa.list_(pa.int32()), "Frames of the result that the judge looked at", nullable=False),
            column("prompt_tokens", pa.int32(), "Tokens sent (language models)"),
            column("completion_tokens", pa.int32(), "Tokens received (language models)"),
            *RUN,
        ]
    ),
    partition_by=("batch", "judge_digest"),
    sort_by=("pictures", "video_id", "kind"),
)

JUDGE_REPORTS = TableSpec(
    "judge_reports",
    "One figure of how well a judge agrees with known truth, over all cases of a rendered batch or over some",
    pa.schema(
        [
            *_JUDGE,
            column(
                "metric",
                pa.string(),
                "kappa (Cohen's, over answered cases), kappa_all (no answer counts as a wrong one), accuracy, "
                "sensitivity (of what is done), specificity (of what is not), answered",
                nullable=False,
            ),
            column("split", pa.string(), "Cases it is over: all, case=... or action=... (as asked)", nullable=False),
            column("value", pa.float64(), "Null where the cases cannot tell"),
            column("low", pa.float64(), "Lower end of the 95 % interval, bootstrap over clips; null below two clips"),
            column("high", pa.float64(), "Upper end of the interval"),
            column("num_cases", pa.int32(), "Cases it comes from", nullable=False),
            column("num_clips", pa.int32(), "Clips that brought cases", nullable=False),
            column(
                "held_back",
                pa.bool_(),
                "Whether the judge was fitted on none of these clips; false means that it looks better than it is",
                nullable=False,
            ),
            *RUN,
        ]
    ),
    partition_by=("batch", "judge_digest"),
    sort_by=("pictures", "metric", "split"),
)


def _measured(name: str, what: str, nullable: bool = False) -> list[pa.Field]:
    return [
        column(name, pa.float64(), f"{what}; mean over seeds and clips", nullable=nullable),
        column(f"{name}_low", pa.float64(), "Lower end of its 95 % interval, bootstrap over both", nullable=nullable),
        column(f"{name}_high", pa.float64(), "Upper end", nullable=nullable),
    ]


ABLATIONS = TableSpec(
    "ablations",
    "A row of an ablation, measured against exact rendered truth: no checkpoint, and no judge",
    pa.schema(
        [
            column(
                "settings_digest",
                pa.string(),
                "Settings of the ablation; rows of other ones do not compare",
                nullable=False,
            ),
            column("row", pa.string(), "Short name of the row", nullable=False),
            column("title", pa.string(), "What the row is; null where the results do not say"),
            column("training_set_id", pa.string(), "Training set, in the ablation's own lake", nullable=False),
            column("seeds", pa.list_(pa.int64()), "Seeds of its trainings", nullable=False),
            column("weights_sha256", pa.list_(pa.string()), "SHA-256 of the weights of each seed", nullable=False),
            column("result_sha256", pa.list_(pa.string()), "SHA-256 of the result file of each seed", nullable=False),
            column(
                "held_back_clips",
                pa.int32(),
                "Held-back interactions measured, each in another garment",
                nullable=False,
            ),
            column("training_seconds", pa.float64(), "Training time of all seeds", nullable=False),
            *_measured("exact_isr", "Share of results that go more than halfway through the interaction, when asked"),
            *_measured(
                "false_interactions",
                "The same share of clips in which nothing is done and nothing asked for, dressed in what they wear",
            ),
            *_measured(
                "leaked_interactions",
                "The same share when the source does it and nothing is asked for; null in rows of before there was it",
                nullable=True,
            ),
            *_measured(
                "exact_error", "Mean absolute difference from the truth, 0 to 1, where the garment changes pixels"
            ),
            *_measured("exact_error_interaction", "The same in the frames of the interaction"),
            *_measured(
                "exact_error_changed",
                "The same where the interaction changes pixels; null in rows of before there was it",
                nullable=True,
            ),
            *RUN,
        ]
    ),
    partition_by=("settings_digest",),
    sort_by=("settings_digest", "row", "training_set_id"),
)

STUDIO_TABLES = (
    STUDIO_CLIPS,
    STUDIO_FRAMES,
    STUDIO_HANDS,
    ANNOTATOR_REPORTS,
    JUDGE_CASES,
    JUDGE_REPORTS,
    ABLATIONS,
)
