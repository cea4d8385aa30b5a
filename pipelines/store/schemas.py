"""The schema of every table that any video leads to: one constant a table, each column with its meaning and unit.

Only declarations belong here. Tables up to `captions` are declared below, those of the model half in `model_schemas`;
both are imported from here, as are the shared columns of `columns`.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.store.columns import (
    ACTIONS,
    BATCH,
    CAMERA,
    FINGERPRINT,
    FLOATS,
    FRAME,
    GARMENT_CATEGORIES,
    LANDMARK,
    POINT_2D,
    POINT_3D,
    RUN,
    TIME,
    TIMESTAMP,
    VIDEO_ID,
    TableSpec,
    column,
)
from pipelines.store.model_schemas import (
    CHECKPOINTS,
    CLIPS,
    ISR_SCORES,
    LEADERBOARD,
    PROMOTIONS,
    TRAINING_METRICS,
    TRAINING_SETS,
    TRYON_VIDEOS,
    VIDEO_METRICS,
)

__all__ = [
    "ACTIONS",
    "AGNOSTIC_MASKS",
    "BATCH",
    "CAMERA",
    "CAPTIONS",
    "CHECKPOINTS",
    "CLIPS",
    "FINGERPRINT",
    "FLOATS",
    "FRAME",
    "GARMENTS",
    "GARMENT_CATEGORIES",
    "HANDS",
    "ISR_SCORES",
    "LANDMARK",
    "LEADERBOARD",
    "PIPELINE_TABLES",
    "POINT_2D",
    "POINT_3D",
    "POSE",
    "PROMOTIONS",
    "RUN",
    "STAGE_STATUS",
    "TIME",
    "TIMESTAMP",
    "TRAINING_METRICS",
    "TRAINING_SETS",
    "TRYON_VIDEOS",
    "VIDEOS",
    "VIDEO_ID",
    "VIDEO_METRICS",
    "TableSpec",
    "column",
]

VIDEOS = TableSpec(
    "videos",
    "One raw video file of a batch, readable or not",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            column("source_path", pa.string(), "Path below the landing folder of the batch", nullable=False),
            column("uri", pa.string(), "Blob with the file's bytes, relative to the lake root; null where unreadable"),
            column("sha256", pa.string(), "SHA-256 of the file's bytes; null where unreadable"),
            column("bytes", pa.int64(), "File size"),
            column("width", pa.int32(), "Pixels, upright (rotation applied)"),
            column("height", pa.int32(), "Pixels, upright (rotation applied)"),
            column("fps", pa.float64(), "Average frames a second"),
            column("num_frames", pa.int32(), "Frames that decode"),
            column("duration_s", pa.float64(), "Seconds"),
            column("codec", pa.string(), "Video codec"),
            column("rotation", pa.int32(), "Degrees clockwise that the reader turns the stored picture, 0/90/180/270"),
            column("variable_frame_rate", pa.bool_(), "Whether frame intervals differ by more than half a frame"),
            column("has_audio", pa.bool_(), "Whether the file has an audio stream"),
            column("split", pa.string(), "train, val or test"),
            column("garment_id", pa.string(), "Garment worn in the video, if a product photo of it is known"),
            column("garment_category", pa.string(), "Which garment is replaced: upper_body, lower_body or dresses"),
            column("tryon_garment_id", pa.string(), "Garment to dress the person in, if the manifest asks for one"),
            column("global_caption", pa.string(), "Human caption of the whole video, if any"),
            column("manifest", pa.string(), "The manifest object of this video as JSON, if any"),
            column("sharpness", pa.float32(), "Median variance of the Laplacian over sampled frames at 360 px height"),
            column("brightness", pa.float32(), "Mean luma of sampled frames, 0 to 1"),
            column("motion", pa.float32(), "Mean absolute luma difference of consecutive sampled frames, 0 to 1"),
            column("bitrate_kbps", pa.float32(), "File size over duration"),
            column("cut_frames", pa.list_(pa.int32()), "First frame of every shot but the first"),
            column("duplicate_of", pa.string(), "video_id of the earlier file with the same bytes"),
            column(
                "status",
                pa.string(),
                "ok, rejected (read, but not usable) or error (could not be read)",
                nullable=False,
            ),
            column("reason", pa.string(), "Why not ok, and what to do about it"),
            FINGERPRINT,
        ]
    ),
    sort_by=("source_path",),
)

GARMENTS = TableSpec(
    "garments",
    "One garment photo",
    pa.schema(
        [
            BATCH,
            column("garment_id", pa.string(), "First 16 hex digits of the SHA-256 of the photo", nullable=False),
            column("source_path", pa.string(), "Path below the landing folder of the batch", nullable=False),
            column("uri", pa.string(), "Blob with the photo"),
            column("mask_uri", pa.string(), "Blob with the foreground mask, PNG, 255 = garment"),
            column("sha256", pa.string(), "SHA-256 of the photo"),
            column("width", pa.int32(), "Pixels, upright"),
            column("height", pa.int32(), "Pixels, upright"),
            column("category", pa.string(), "upper_body, lower_body or dresses"),
            column("caption", pa.string(), "Description of the garment"),
            column("foreground_fraction", pa.float32(), "Share of the photo that is garment"),
            column("source", pa.string(), "photo (a product photo) or worn (cut out of a video frame)"),
            column("status", pa.string(), "ok or error", nullable=False),
            column("reason", pa.string(), "Why not ok"),
            FINGERPRINT,
        ]
    ),
    sort_by=("garment_id",),
)

STAGE_STATUS = TableSpec(
    "stage_status",
    "What one annotation stage made of one video",
    pa.schema(
        [
            BATCH,
            column("stage", pa.string(), "Stage, which is also the table it writes", nullable=False),
            VIDEO_ID,
            column("status", pa.string(), "ok or error", nullable=False),
            column("reason", pa.string(), "Why not ok"),
            column("rows", pa.int64(), "Rows written for the video", nullable=False),
            column("frames", pa.int64(), "Frames the stage went through", nullable=False),
            column("seconds", pa.float64(), "Wall time in the worker", nullable=False),
            column("model_seconds", pa.float64(), "Share of it spent inside network inference", nullable=False),
            column("peak_memory_mb", pa.float32(), "Peak resident memory of the worker so far"),
            FINGERPRINT,
            *RUN,
        ]
    ),
    partition_by=("batch", "stage"),
    sort_by=("video_id",),
)

POSE = TableSpec(
    "pose",
    "Body pose of the main person in one frame",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            FRAME,
            TIME,
            column("detected", pa.bool_(), "Whether the main person was found in this frame", nullable=False),
            column(
                "landmarks",
                pa.list_(LANDMARK),
                "33 MediaPipe landmarks; z in pixels, smaller is nearer; empty where not detected",
            ),
            column("world_landmarks", pa.list_(POINT_3D), "33 landmarks, metres, origin between the hips"),
            column(
                "score", pa.float32(), "Mean visibility of shoulders and hips, 0 to 1; low values are kept, not hidden"
            ),
            column("person_mask", pa.binary(), "Person mask, COCO RLE counts (pycocotools) of size [height, width]"),
            column("person_area", pa.float32(), "Share of the frame that is person"),
            FINGERPRINT,
        ]
    ),
)

AGNOSTIC_MASKS = TableSpec(
    "agnostic_masks",
    "Garment-agnostic region of one frame: what the model may repaint",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            FRAME,
            column("mask", pa.binary(), "COCO RLE counts (pycocotools), 1 = repaint", nullable=False),
            column("height", pa.int32(), "Rows of the mask", nullable=False),
            column("width", pa.int32(), "Columns of the mask", nullable=False),
            column("area_fraction", pa.float32(), "Share of the frame inside the mask", nullable=False),
            column("category", pa.string(), "upper_body, lower_body or dresses", nullable=False),
            column("source", pa.string(), "Backend: geometric or parsing", nullable=False),
            FINGERPRINT,
        ]
    ),
)

HANDS = TableSpec(
    "hands",
    "One hand in one frame, as keypoints and as a posed mesh",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            FRAME,
            column("handedness", pa.string(), "left or right: the person's own hand", nullable=False),
            column("score", pa.float32(), "Detector confidence, 0 to 1 (0 where interpolated)", nullable=False),
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
                "mesh_pose",
                FLOATS,
                "Axis-angle per joint, radians, flattened; order is that of the topology",
                nullable=False,
            ),
            column(
                "mesh_shape",
                FLOATS,
                "Shape coefficients of the topology (uniform scale first for cc0_hand)",
                nullable=False,
            ),
            column("mesh_translation", POINT_3D, "Wrist in the camera frame, metres", nullable=False),
            column("camera", CAMERA, "Full-frame pinhole camera, pixels", nullable=False),
            column("mesh_topology", pa.string(), "cc0_hand or mano", nullable=False),
            column(
                "reprojection_error_px",
                pa.float32(),
                "Mean distance of projected mesh joints from keypoints_2d",
                nullable=False,
            ),
            column("source", pa.string(), "hamer, mediapipe or studio", nullable=False),
            column(
                "interpolated",
                pa.bool_(),
                "Whether the hand was not seen here and filled between neighbours",
                nullable=False,
            ),
            FINGERPRINT,
        ]
    ),
    sort_by=("video_id", "frame", "handedness"),
)

CAPTIONS = TableSpec(
    "captions",
    "One caption: of the whole video, or of an interaction with a span of frames",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            column("kind", pa.string(), "global or action", nullable=False),
            column("action", pa.string(), "One of the six interaction categories; null for a global caption"),
            column("start_frame", pa.int32(), "First frame, inclusive", nullable=False),
            column("end_frame", pa.int32(), "Last frame, exclusive", nullable=False),
            column("handedness", pa.string(), "left, right or both, where the backend knows"),
            column("text", pa.string(), "The caption", nullable=False),
            column("confidence", pa.float32(), "0 to 1", nullable=False),
            column("source", pa.string(), "vlm, kinematic, manifest or studio", nullable=False),
            FINGERPRINT,
        ]
    ),
    sort_by=("video_id", "kind", "start_frame"),
)

PIPELINE_TABLES = (
    VIDEOS,
    GARMENTS,
    STAGE_STATUS,
    POSE,
    HANDS,
    AGNOSTIC_MASKS,
    CAPTIONS,
    CLIPS,
    TRAINING_SETS,
    TRAINING_METRICS,
    CHECKPOINTS,
    TRYON_VIDEOS,
    VIDEO_METRICS,
    ISR_SCORES,
    LEADERBOARD,
    PROMOTIONS,
)
"""Every table that any video leads to; those of rendered videos are in `studio_schemas`."""
