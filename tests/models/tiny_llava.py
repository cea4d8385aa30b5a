"""A LLaVA of the real classes with a few thousand random weights, saved as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

_TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
)
_WORDS = ("<unk>", "<pad>", "<eos>", "<image>", "perhaps", "zip", "t", "=", "s", "jacket")


def save_tiny_llava(folder: Path, answer: str | None = None) -> Path:
    """Save model and processor.

    Args:
        folder: Where to.
        answer: Text that the model is bound to say; random words by default.
    """
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({w: k for k, w in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<pad>", "<eos>", "<image>"])
    if answer is not None:
        tokenizer.add_tokens([AddedToken(answer, normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", model_max_length=4096
    )
    size = {"height": 28, "width": 28}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    processor = LlavaProcessor(
        pictures,
        fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE,
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        pad_token_id=1,
        eos_token_id=2,
        bos_token_id=None,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    if answer is not None:
        said = tokenizer.token_to_id(answer)
        model.generation_config.suppress_tokens = [k for k in range(text.vocab_size) if k != said]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
