"""The schema of every Delta table: one constant a table, each column with its meaning and unit.

Only declarations belong here. Types avoid what Delta Lake changes on a round trip: unsigned integers, float16 and
fixed-size lists come back as something else. Points are lists of structs, so that a column reads as `x_px`, `y_px`
in any SQL engine and each coordinate compresses on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

LANDMARK = pa.struct(
    [("x_px", pa.float32()), ("y_px", pa.float32()), ("z", pa.float32()), ("visibility", pa.float32())]
)
POINT_2D = pa.struct([("x_px", pa.float32()), ("y_px", pa.float32())])
POINT_3D = pa.struct([("x_m", pa.float32()), ("y_m", pa.float32()), ("z_m", pa.float32())])
CAMERA = pa.struct([("fx", pa.float32()), ("fy", pa.float32()), ("cx", pa.float32()), ("cy", pa.float32())])
FLOATS = pa.list_(pa.float32())
TIMESTAMP = pa.timestamp("us", tz="UTC")

ACTIONS = ("adjust_collar", "adjust_hem", "operate_zipper", "stretch_fabric", "roll_sleeve", "other")
"""Interaction categories. The paper names collar, hem and other; zipping, lifting and stretching come from its text."""

GARMENT_CATEGORIES = ("upper_body", "lower_body", "dresses")


@dataclass(frozen=True)
class TableSpec:
    """Name, columns and physical layout of one Delta table.

    Attributes:
        name: Folder below `<lake>/tables`, and the name of the asset that writes it.
        description: What one row is.
        schema: Arrow schema; each field carries its documentation in the metadata key `comment`.
        partition_by: Hive partition columns. Writers replace whole partitions, so two writers never conflict.
        sort_by: Order of rows within a partition (row-group statistics prune reads of one video).
    """

    name: str
    description: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ("batch",)
    sort_by: tuple[str, ...] = ("video_id", "frame")

    def column_docs(self) -> dict[str, str]:
        """Column name to documentation, in schema order."""
        return {f.name: (f.metadata or {}).get(b"comment", b"").decode() for f in self.schema}


def column(name: str, type_: pa.DataType, doc: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"comment": doc})


BATCH = column("batch", pa.string(), "Batch of videos; the Dagster partition key", nullable=False)
VIDEO_ID = column("video_id", pa.string(), "First 16 hex digits of the SHA-256 of the video file", nullable=False)
FRAME = column("frame", pa.int32(), "Frame number, from 0", nullable=False)
TIME = column("time_s", pa.float64(), "Presentation time in seconds from the first frame", nullable=False)
FINGERPRINT = column(
    "fingerprint", pa.string(), "Content + code version + weights + settings that made the row", nullable=False
)
RUN = [
    column("created_at", TIMESTAMP, "When the row was written", nullable=False),
    column("run_id", pa.string(), "Dagster run that wrote the row, empty outside Dagster"),
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

CLIPS = TableSpec(
    "clips",
    "One training window of a video with its encoded conditions",
    pa.schema(
        [
            BATCH,
            VIDEO_ID,
            column("clip_id", pa.string(), "Digest of video_id, start frame, length and size", nullable=False),
            column("start_frame", pa.int32(), "First frame of the window", nullable=False),
            column("num_frames", pa.int32(), "Frames of the window, 4n + 1", nullable=False),
            column("bucket", pa.string(), "<frames>x<height>x<width>", nullable=False),
            column(
                "latents_uri",
                pa.string(),
                "safetensors blob: target, conditions, hand latents and hand points",
                nullable=False,
            ),
            column(
                "text_uri", pa.string(), "safetensors blob: global and per-segment caption embeddings", nullable=False
            ),
            column(
                "action_mask", FLOATS, "M_action per latent frame: 1 where an interaction span overlaps", nullable=False
            ),
            column("actions", pa.list_(pa.string()), "Interaction categories in the window", nullable=False),
            column("global_caption", pa.string(), "Caption of the window", nullable=False),
            column("garment_id", pa.string(), "Garment used as reference", nullable=False),
            column("split", pa.string(), "train, val or test", nullable=False),
            column(
                "encoder_digest", pa.string(), "Digest of VAE and text encoder weights and transform", nullable=False
            ),
            FINGERPRINT,
        ]
    ),
    sort_by=("video_id", "start_frame"),
)

TRAINING_SETS = TableSpec(
    "training_sets",
    "A pinned selection of clips: the same row gives the same samples for ever",
    pa.schema(
        [
            column("training_set_id", pa.string(), "Digest of the manifest", nullable=False),
            column(
                "table_versions",
                pa.map_(pa.string(), pa.int64()),
                "Delta version of every table it was read from",
                nullable=False,
            ),
            column("row_digest", pa.string(), "Digest of the selected rows", nullable=False),
            column("filters", pa.string(), "Selection as JSON", nullable=False),
            column("batches", pa.list_(pa.string()), "Batches that contributed", nullable=False),
            column("num_clips", pa.int32(), "Clips selected", nullable=False),
            column("num_interaction_clips", pa.int32(), "Clips with at least one interaction frame", nullable=False),
            column("manifest_uri", pa.string(), "Parquet blob with the selected rows", nullable=False),
            column("encoder_digest", pa.string(), "Encoder all clips were encoded with", nullable=False),
            *RUN,
        ]
    ),
    partition_by=("training_set_id",),
    sort_by=(),
)

TRAINING_METRICS = TableSpec(
    "training_metrics",
    "Loss and speed of one logged training step",
    pa.schema(
        [
            column("checkpoint_id", pa.string(), "Checkpoint the step led to", nullable=False),
            column("step", pa.int32(), "Optimiser step", nullable=False),
            column("loss", pa.float64(), "L_std + lambda * L_AC", nullable=False),
            column("loss_std", pa.float64(), "Flow-matching loss", nullable=False),
            column("loss_action", pa.float64(), "AC term before lambda"),
            column("learning_rate", pa.float64(), "Learning rate", nullable=False),
            column("step_seconds", pa.float64(), "Wall time of the step", nullable=False),
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=("step",),
)

CHECKPOINTS = TableSpec(
    "checkpoints",
    "A trained iTryOn transformer",
    pa.schema(
        [
            column("checkpoint_id", pa.string(), "Digest of training set, configuration and parent", nullable=False),
            column("training_set_id", pa.string(), "Training set", nullable=False),
            column("parent_checkpoint_id", pa.string(), "Checkpoint the training started from"),
            column("preset", pa.string(), "nano, 1.3b or 14b", nullable=False),
            column("uri", pa.string(), "Folder in diffusers layout, relative to the lake root", nullable=False),
            column("weights_sha256", pa.string(), "SHA-256 of the transformer weights", nullable=False),
            column("config", pa.string(), "Training configuration as JSON", nullable=False),
            column("steps", pa.int32(), "Optimiser steps", nullable=False),
            column("final_loss", pa.float64(), "Mean loss of the last tenth of the steps", nullable=False),
            column("seconds", pa.float64(), "Training time", nullable=False),
            *RUN,
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=(),
)

_PREDICTION = [
    column("checkpoint_id", pa.string(), "Checkpoint that made the video", nullable=False),
    column("tryon_id", pa.string(), "Digest of video, garment, checkpoint and settings", nullable=False),
    VIDEO_ID,
]

TRYON_VIDEOS = TableSpec(
    "tryon_videos",
    "A video with its person dressed in another garment",
    pa.schema(
        [
            *_PREDICTION,
            column("garment_id", pa.string(), "Garment put on", nullable=False),
            column(
                "paired",
                pa.bool_(),
                "Whether it is the garment the person wears anyway (ground truth exists)",
                nullable=False,
            ),
            column("uri", pa.string(), "Blob, mp4; null on error"),
            column("side_by_side_uri", pa.string(), "Blob, mp4: source, agnostic, garment, result"),
            column("start_frame", pa.int32(), "First source frame", nullable=False),
            column("num_frames", pa.int32(), "Frames", nullable=False),
            column("record", pa.string(), "Input versions, seed and settings as JSON", nullable=False),
            column("status", pa.string(), "ok or error", nullable=False),
            column("reason", pa.string(), "Why not ok"),
            *RUN,
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=("video_id", "tryon_id"),
)

VIDEO_METRICS = TableSpec(
    "video_metrics",
    "One quality metric of one try-on video, or of the whole set",
    pa.schema(
        [
            *_PREDICTION[:2],
            column("video_id", pa.string(), "Source video; null for a metric of the whole set"),
            column(
                "metric",
                pa.string(),
                "ssim, lpips, or vfid_i3d, vfid_resnext, fvd_i3d, fvd_videomae with _paired or _unpaired",
                nullable=False,
            ),
            column("value", pa.float64(), "Null where the metric could not be computed"),
            column("reason", pa.string(), "Why null"),
            column("mode", pa.string(), "corrected or legacy (the field's published script)", nullable=False),
            column("network", pa.string(), "Feature network and its digest; empty where none"),
            column(
                "num_samples", pa.int32(), "Frames of a video, videos of a mean, or clips it comes from", nullable=False
            ),
            *RUN,
            column("low", pa.float64(), "Lower end of the interval, bootstrap over videos; null for a single video"),
            column("high", pa.float64(), "Upper end of the interval"),
            column("note", pa.string(), "What to know about the value, such as too few clips for its dimensions"),
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=("metric",),
)

ISR_SCORES = TableSpec(
    "isr_scores",
    "A judge's verdict on one interaction of one try-on video (interaction success rate)",
    pa.schema(
        [
            *_PREDICTION,
            column("action", pa.string(), "Interaction asked for", nullable=False),
            column("start_frame", pa.int32(), "First frame of the span", nullable=False),
            column("end_frame", pa.int32(), "End of the span, exclusive", nullable=False),
            column("text", pa.string(), "Caption of the action", nullable=False),
            column("success", pa.bool_(), "Verdict; null where the judge could not answer"),
            column("score", pa.float32(), "Confidence that the interaction succeeded, 0 to 1"),
            column("rationale", pa.string(), "The judge's reason", nullable=False),
            column("judge", pa.string(), "vlm or kinematic, with model or version", nullable=False),
            column("votes", pa.list_(pa.bool_()), "Single votes", nullable=False),
            column("prompt_tokens", pa.int32(), "Tokens sent (vlm)"),
            column("completion_tokens", pa.int32(), "Tokens received (vlm)"),
            *RUN,
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=("video_id", "start_frame"),
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
)
"""Every table that any video leads to; those of rendered videos are in `studio_schemas`."""
