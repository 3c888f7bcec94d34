"""tiny-eyes: Qwen3-VL's own classes with a small config, a small tokenizer and a processor.

Nothing here re-implements the model: the vision tower with DeepStack, the interleaved M-RoPE and the
text decoder are transformers' ``Qwen3VLForConditionalGeneration``. Small are the numbers only.
"""

import re
from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.models import IMAGE_ONLY
from deepeyes_lite.prompts import CHAT_TEMPLATE, RESPONSE_TEMPLATE
from deepeyes_lite.tinyworld.scenes import COLORS, SHAPES, World

PATCH, MERGE = 8, 2  # a merged visual token covers 16 x 16 px of the view
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# One token each, and text all the same, as in Qwen3's own tokenizer: who decodes a reply without its
# special tokens, as every server does, keeps the markup.
TAGS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<tool_response>",
    "</tool_response>",
]


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens.

    Colours, shapes, single letters and coordinates are kept apart, so that they are tokens of their own
    and a new pair of colour and shape is a new pair of known tokens. What lies between them is stock
    phrases ("I need to zoom in."), which become single tokens: an episode has 25 decode steps, not 60.
    """
    words = "|".join([*COLORS, *(f" {shape}" for shape in SHAPES)])
    pieces = Regex(rf"(?:{words})\b|, \d+|\b\d+|[\[\]]|\b[A-Z]\b(?!\S* [a-z])")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=200,  # the default would cut phrases
        show_progress=False,
    )
    # The trainer does not know special tokens: cut at them, or it would learn phrases across them.
    special = re.compile("|".join(map(re.escape, [*SPECIAL_TOKENS, *TAGS])))
    tokenizer.train_from_iterator((special.split(text) for text in corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=with_plain_tags(tokenizer, TAGS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=SPECIAL_TOKENS[1:],
    )


def with_plain_tags(tokenizer: Tokenizer, tags: list[str]) -> Tokenizer:
    """The tokenizer with those of its special tokens as plain ones, of the same ids."""
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags])
    return Tokenizer.from_str(tokenizer.to_str())  # this one still skips them when it decodes


def build_processor(
    tokenizer: PreTrainedTokenizerFast, view: int = World.view, cache: bool = True
) -> ProcessorMixin:
    """Processor whose every image, scene or crop, becomes a view of ``view`` x ``view`` pixels."""
    image_processor = (CachedImageProcessor if cache else Qwen2VLImageProcessorPil)(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        # Half a patch either way: at exactly view * view, rounding turns some squares into 80 x 96.
        min_pixels=view * (view - PATCH),
        max_pixels=view * (view + PATCH),
    )
    tokenizer.response_template = RESPONSE_TEMPLATE
    return IMAGE_ONLY["qwen3_vl"](image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def patchify(views: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The image processor's output for views that have their size already, ten times as fast.

    Args:
        views: (n, side, side, 3) uint8.

    Returns:
        ``pixel_values`` (n * patches, 3 * 2 * 8 * 8) float32 and ``image_grid_thw`` (n, 3).
    """
    reference = Qwen2VLImageProcessorPil
    mean = np.asarray(reference.image_mean, np.float32)
    std = np.asarray(reference.image_std, np.float32)
    n, side = views.shape[:2]
    grid, cells = side // PATCH, side // PATCH // MERGE
    pixels = ((views.astype(np.float32) / 255) - mean) / std
    # (n, row cell, row in cell, row px, col cell, col in cell, col px, channel)
    pixels = pixels.reshape(n, cells, MERGE, PATCH, cells, MERGE, PATCH, 3)
    pixels = pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # … channel, row px, col px
    pixels = np.repeat(pixels[:, :, :, :, :, :, None], 2, axis=6)  # two equal frames: a still
    values = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(n * grid * grid, -1)
    return values, torch.tensor([[1, grid, grid]] * n)


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> Qwen3VLForConditionalGeneration:
    """tiny-eyes with random weights: text 4 layers x 192, vision 4 layers x 128."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text, heads, vision = 192, 4, 128
    head = text // heads
    spatial = head // 2 * 3 // 8  # M-RoPE shares a head's frequencies among time, height and width
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text,
            "intermediate_size": 3 * text,
            "num_hidden_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": head,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 2 - 2 * spatial, spatial, spatial],
                "mrope_interleaved": True,
            },
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": vision,
            "intermediate_size": 3 * vision,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": text,
            "num_position_embeddings": (World.view // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.bos_token_id = None
    return model
