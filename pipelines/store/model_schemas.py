"""Tables of the model half: from training windows to the scores of try-on videos. Import them from `schemas`."""

from __future__ import annotations

import pyarrow as pa

from pipelines.store.columns import (
    BATCH,
    FINGERPRINT,
    FLOATS,
    RUN,
    TIMESTAMP,
    VIDEO_ID,
    TableSpec,
    column,
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
            column(
                "sheet_uri",
                pa.string(),
                "Blob, jpg: moments of side_by_side_uri; null in rows of try-on versions 1 and 2",
            ),
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
            column("judge", pa.string(), "vlm, local_vlm or kinematic, with model or version", nullable=False),
            column("judge_digest", pa.string(), "Settings, version and weights of the judge; see `judge_reports`"),
            column(
                "judge_kappa",
                pa.float64(),
                "The judge's agreement with known truth (Cohen's kappa), newest of `judge_reports` when it judged; null "
                "where this judge was never validated",
            ),
            column("frames", pa.list_(pa.int32()), "Frames of the result that the judge looked at"),
            column("evidence_uri", pa.string(), "Blob, jpg: these frames, the source's above the result's"),
            column("votes", pa.list_(pa.bool_()), "Single votes", nullable=False),
            column("prompt_tokens", pa.int32(), "Tokens sent (vlm)"),
            column("completion_tokens", pa.int32(), "Tokens received (vlm)"),
            column("cost", pa.float64(), "What the tokens cost, in the currency of the prices; null without prices"),
            *RUN,
        ]
    ),
    partition_by=("checkpoint_id",),
    sort_by=("video_id", "start_frame"),
)

METRIC = pa.struct(
    [
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("mode", pa.string()),
        ("network", pa.string()),
        ("num_samples", pa.int32()),
        ("reason", pa.string()),
    ]
)

LEADERBOARD = TableSpec(
    "leaderboard",
    "A checkpoint with everything that was measured of it",
    pa.schema(
        [
            column("checkpoint_id", pa.string(), "Checkpoint", nullable=False),
            column("preset", pa.string(), "nano, 1.3b or 14b", nullable=False),
            column("steps", pa.int32(), "Optimiser steps", nullable=False),
            column("parent_checkpoint_id", pa.string(), "Checkpoint the training started from"),
            column("training_set_id", pa.string(), "Training set", nullable=False),
            column("batches", pa.list_(pa.string()), "Batches of the training set", nullable=False),
            column("num_clips", pa.int32(), "Clips of the training set"),
            column("final_loss", pa.float64(), "Mean loss of the last tenth of the steps", nullable=False),
            column("trained_at", TIMESTAMP, "When the checkpoint was written", nullable=False),
            column("tryon_videos", pa.int32(), "Try-on videos made", nullable=False),
            column("tryon_failures", pa.int32(), "Try-on videos that could not be made", nullable=False),
            column(
                "evaluation_digest",
                pa.string(),
                "What was dressed in what, how it was annotated and made; only rows where it is the same compare. Null "
                "without videos",
            ),
            column(
                "metrics",
                pa.list_(METRIC),
                "Metrics of the set as in `video_metrics`, with mode and interval, where they are of these try-on videos",
                nullable=False,
            ),
            column("isr", pa.float64(), "Interaction success rate; null where none of these videos was judged"),
            column("isr_low", pa.float64(), "Lower end of its Wilson interval"),
            column("isr_high", pa.float64(), "Upper end"),
            column("isr_judged", pa.int32(), "Interactions with a verdict", nullable=False),
            column("isr_unanswered", pa.int32(), "Interactions without one", nullable=False),
            column("judge", pa.string(), "Judge, with model or version"),
            column("judge_digest", pa.string(), "Settings, version and weights of the judge"),
            column(
                "judge_kappa",
                pa.float64(),
                "The judge's agreement with known truth: newest of `judge_reports` when the row was written, or, where "
                "none is left, the one known when it judged; null if never validated",
            ),
            column("is_current", pa.bool_(), "Whether it is the promoted checkpoint", nullable=False),
            column("promoted_at", TIMESTAMP, "When it was promoted last; null if never"),
            column("weights_sha256", pa.string(), "SHA-256 of the transformer weights", nullable=False),
            column(
                "table_versions",
                pa.map_(pa.string(), pa.int64()),
                "Delta version of every table the row was read from",
                nullable=False,
            ),
            *RUN,
        ]
    ),
    partition_by=("preset",),
    sort_by=("trained_at",),
)

PROMOTIONS = TableSpec(
    "promotions",
    "A decision about which checkpoint is the current one; rows are only ever added",
    pa.schema(
        [
            column(
                "decision_id",
                pa.string(),
                "Digest of the sequence number: no two decisions take the same place",
                nullable=False,
            ),
            column("sequence", pa.int64(), "Number of the decision, from 1", nullable=False),
            column("kind", pa.string(), "promoted, kept (the candidate was refused) or rolled_back", nullable=False),
            column("checkpoint_id", pa.string(), "Checkpoint the decision is about", nullable=False),
            column("current_checkpoint_id", pa.string(), "Current checkpoint from then on; null if there is none"),
            column("previous_checkpoint_id", pa.string(), "Current checkpoint until then; null if there was none"),
            column("reason", pa.string(), "Why", nullable=False),
            column(
                "comparison",
                pa.string(),
                "Measures of both as JSON, and how each compares; an empty object for a roll-back",
                nullable=False,
            ),
            *RUN,
        ]
    ),
    partition_by=("decision_id",),
    sort_by=("sequence", "created_at"),
)
