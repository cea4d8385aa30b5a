"""A small annotated scene and a tiny pipeline for try-on tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from models.itryon.pipeline import ITryOnPipeline
from pipelines.arrays import encode_mask
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE
from pipelines.tryon.annotations import Annotations
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.settings import TryOnSettings
from tests.models.itryon_tiny import tiny_model, tiny_vae, trained

WIDTH, HEIGHT = 96, 64
SETTINGS = TryOnSettings(steps=1, guidance_scale=2.0, num_frames=5, overlap_frames=2, sizes=[(32, 48)], blend_edge=0.02)


def rows_of(spec, values: list[dict]) -> pa.Table:
    base = {"batch": "b", "video_id": "v", "fingerprint": "f"}
    return pa.Table.from_pylist([base | v for v in values], spec.schema)


def hand(frame: int, x_m: float = 0.0) -> dict:
    return {
        "frame": frame,
        "handedness": "right",
        "score": 0.9,
        "keypoints_2d": [{"x_px": 48.0 + i, "y_px": 32.0} for i in range(21)],
        "keypoints_3d": [{"x_m": 0.0, "y_m": 0.0, "z_m": 0.5}] * 21,
        "mesh_pose": [0.0] * 60,
        "mesh_shape": [1.0] * 21,
        "mesh_translation": {"x_m": x_m, "y_m": 0.0, "z_m": 0.6},
        "camera": {"fx": 90.0, "fy": 90.0, "cx": 48.0, "cy": 32.0},
        "mesh_topology": "cc0_hand",
        "reprojection_error_px": 1.0,
        "source": "mediapipe",
        "interpolated": False,
    }


def scene_annotations() -> Annotations:
    """A box to repaint in frames 0 to 49, a pose everywhere but in frame 3, a hand in frames 4 to 9."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[16:56, 24:72] = 1
    body = [{"x_px": 30.0 + i, "y_px": 20.0 + i, "z": 0.0, "visibility": 1.0} for i in range(33)]
    pose = [
        {
            "frame": f,
            "time_s": f / 30,
            "detected": f != 3,
            "landmarks": body if f != 3 else [],
            "world_landmarks": [],
            "score": 0.9,
            "person_mask": encode_mask(mask),
            "person_area": 0.3,
        }
        for f in range(60)
    ]
    masks = [
        {
            "frame": f,
            "mask": encode_mask(mask),
            "height": HEIGHT,
            "width": WIDTH,
            "area_fraction": float(mask.mean()),
            "category": "upper_body",
            "source": "geometric",
        }
        for f in range(50)
    ]
    caption = {"handedness": None, "confidence": 0.8, "source": "manifest"}
    captions = [
        caption | {"kind": "global", "action": None, "start_frame": 0, "end_frame": 60, "text": "a person"},
        caption | {"kind": "action", "action": "operate_zipper", "start_frame": 5, "end_frame": 9, "text": "zip up"},
    ]
    return Annotations(
        rows_of(POSE, pose),
        rows_of(AGNOSTIC_MASKS, masks),
        rows_of(HANDS, [hand(f) for f in range(4, 10)]),
        rows_of(CAPTIONS, captions),
    )


def bert_parts() -> tuple[BertModel, PreTrainedTokenizerFast]:
    """A tiny text encoder of MiniLM's class with a tokenizer of few words."""
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "zip", "up", "a", "person"))}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=512,
    )
    return BertModel(config).eval(), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")


def tiny_pipeline() -> LoadedPipeline:
    text = bert_parts()
    pipe = ITryOnPipeline(tiny_vae(), trained(tiny_model()), FlowMatchEulerDiscreteScheduler(), *text, num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipe, {"vae": "tiny"})
