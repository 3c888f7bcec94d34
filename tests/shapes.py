"""The published shapes of the models, filled with random weights: what can be tried without a download.

The numbers are those of the checkpoints' ``config.json`` on the hub. The tokenizer is a small one of our
own with Qwen's special tokens, so what such a model writes means nothing; its memory and its time do.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)
from trl.chat_template_utils import qwen3_vl_chat_template

from deepeyes_lite import prompts
from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.models import IMAGE_ONLY
from deepeyes_lite.tinyworld.model import SPECIAL_TOKENS, with_plain_tags
from deepeyes_lite.tools import ViewZoomTool, ZoomTool

CALL_TOKENS = ["<tool_call>", "</tool_call>"]
# Qwen2.5-VL's tokenizer knows the tags of a call, and reads the others as plain text.
TOKENS = {
    "qwen2_5_vl": [*SPECIAL_TOKENS[:7], *CALL_TOKENS],
    "qwen3_vl": [*SPECIAL_TOKENS[:7], *CALL_TOKENS, "<tool_response>", "</tool_response>"]
    + ["<think>", "</think>"],
}
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
OLD_ROPE = ROPE | {"rope_theta": 1e6, "mrope_section": [16, 24, 24]}
TEXT = {
    "qwen2_5_vl": {"max_position_embeddings": 128000, "rope_parameters": OLD_ROPE},
    "qwen3_vl": {"max_position_embeddings": 262144, "head_dim": 128}
    | {"rope_parameters": ROPE | {"mrope_interleaved": True}},
}
EYES = {
    "qwen2_5_vl": {"patch_size": 14, "tokens_per_second": 2, "window_size": 112}
    | {"fullatt_block_indexes": [7, 15, 23, 31]},
    "qwen3_vl": {"patch_size": 16, "num_position_embeddings": 2304}
    | {"deepstack_visual_indexes": [5, 11, 17]},
}
EYE_SHAPE = ("depth", "hidden_size", "intermediate_size")
TEXT_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TEXT_SHAPE += ("num_key_value_heads", "vocab_size")
# Vision tower, language model, and whether input and output embeddings are one.
SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ((32, 1280, 3420), (2048, 11008, 36, 16, 2, 151936), True),
    "Qwen/Qwen2.5-VL-7B-Instruct": ((32, 1280, 3420), (3584, 18944, 28, 28, 4, 152064), False),
    "Qwen/Qwen3-VL-2B-Instruct": ((24, 1024, 4096), (2048, 6144, 28, 16, 8, 151936), True),
    "Qwen/Qwen3-VL-4B-Instruct": ((24, 1024, 4096), (2560, 9728, 36, 32, 8, 151936), True),
    "Qwen/Qwen3-VL-8B-Instruct": ((27, 1152, 4304), (4096, 12288, 36, 32, 8, 151936), False),
}


def type_of(name: str) -> str:
    """The model type of a checkpoint's configuration."""
    return "qwen3_vl" if "Qwen3-VL" in name else "qwen2_5_vl"


def tokenizer_of(model_type: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a thousand tokens with the special tokens of a family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=TOKENS[model_type],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [prompts.FORMAT, prompts.DEEPEYES_TEMPLATE, __doc__]
    corpus += [tool.image_zoom_in_tool.__doc__ for tool in (ZoomTool, ViewZoomTool)]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=with_plain_tags(tokenizer, TOKENS[model_type][len(SPECIAL_TOKENS) :]),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:7],
    )


def config_of(name: str, layers: int = 0, narrow: bool = False):
    """The configuration of a model of ``SHAPES``, with the ids of `tokenizer_of`.

    Args:
        name: a key of ``SHAPES``.
        layers: of the language model, and of the vision tower at most that many + 1; 0 for all.
        narrow: two heads to a layer, each of the real size, and a small vocabulary: M-RoPE, windows and
            grouped keys work as in the original, and a CPU can bear it.
    """
    model_type, (eye, text, tied) = type_of(name), SHAPES[name]
    tokenizer = tokenizer_of(model_type)
    text = {**dict(zip(TEXT_SHAPE, text)), **TEXT[model_type], "rms_norm_eps": 1e-6}
    eye = {**dict(zip(EYE_SHAPE, eye)), **EYES[model_type], "num_heads": 16}
    eye |= {
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": text["hidden_size"],
    }
    if name.endswith("8B-Instruct"):
        eye["deepstack_visual_indexes"] = [8, 16, 24]
    if layers:
        text["num_hidden_layers"], eye["depth"] = layers, min(eye["depth"], layers + 1)
        if model_type == "qwen2_5_vl":  # windows first, then the whole image, as in the original
            eye["fullatt_block_indexes"] = [eye["depth"] - 1]
        else:
            eye["deepstack_visual_indexes"] = list(range(min(3, layers)))
    if narrow:
        head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 2 * head}
        text |= {"intermediate_size": 4 * head, "vocab_size": len(tokenizer)}
        eye_head = eye["hidden_size"] // eye["num_heads"]
        eye |= {"num_heads": 2, "hidden_size": 2 * eye_head, "intermediate_size": 4 * eye_head}
        eye["out_hidden_size"] = text["hidden_size"]
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS[:7]}
    text |= {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    text |= {"bos_token_id": None, "tie_word_embeddings": tied}
    kind = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}[model_type]
    return kind(
        text_config=text,
        vision_config=eye,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


def processor_of(name: str):
    """The processor of a model of ``SHAPES``, with the small tokenizer."""
    model_type = type_of(name)
    images = CachedImageProcessor(patch_size=EYES[model_type]["patch_size"], merge_size=2)
    # What the hub has for Qwen3-VL; Qwen2.5-VL's has no tool section and is not used.
    return IMAGE_ONLY[model_type](images, tokenizer_of(model_type), qwen3_vl_chat_template)


def write_random(name: str, folder: str | Path, layers: int = 0, narrow: bool = False) -> Path:
    """Write a model of `config_of` with random weights into a folder, in bf16, as the hub has it."""
    processor = processor_of(name)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(
        config_of(name, layers, narrow), dtype=torch.bfloat16
    )
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


if (
    __name__ == "__main__"
):  # NAME FOLDER: a model for ``doctor --gpu --model FOLDER``, without a download
    print(write_random(*sys.argv[1:3]))
