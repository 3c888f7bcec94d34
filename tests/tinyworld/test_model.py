"""model.py: Qwen3-VL's classes with small numbers, and a processor that needs no torchvision."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from deepeyes_lite import DATA, prompts
from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.models import TINY_EYES, load, load_processor, spec_of
from deepeyes_lite.tinyworld.model import SPECIAL_TOKENS, TAGS, build_model, build_processor

EYES = DATA / "tiny-eyes"
SETTINGS = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
SETTINGS |= {"min_pixels": 96 * 88, "max_pixels": 96 * 104}


def noise(size, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


IMAGES = [noise(size) for size in [(384, 384), (60, 60), (28, 28), (300, 170), (1024, 1000)]]


@pytest.fixture(scope="module")
def stock():
    return Qwen2VLImageProcessorPil(**SETTINGS)


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


def assert_same(a, b):
    assert set(a.keys()) == set(b.keys()) == {"pixel_values", "image_grid_thw"}
    for name in a:
        assert torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])), name


def test_processor_gives_what_the_stock_image_processor_gives(tokenizer, stock):
    expected = stock(images=IMAGES, return_tensors="pt")
    tokens = expected["image_grid_thw"].prod(-1) // 4
    for cache in (True, False):
        processor = build_processor(tokenizer, cache=cache)
        assert isinstance(processor.image_processor, CachedImageProcessor) == cache
        # A video half would need torchvision.
        assert processor.get_attributes() == ["image_processor", "tokenizer"]
        text = [prompts.IMAGE + "What?"] * len(IMAGES)
        output = processor(text=text, images=IMAGES, return_tensors="pt", padding=True)
        assert_same({name: output[name] for name in expected}, expected)
        images = (output["input_ids"] == processor.image_token_id).sum(-1)
        assert images.tolist() == tokens.tolist()


def test_every_square_crop_becomes_the_view_that_pretraining_shows(processor):
    for side in range(28, 385):
        for height in (side - 1, side, side + 1):
            patches = processor.image_processor.get_number_of_image_patches(side, height, {})
            assert patches == 144, (side, height)
    for side in (28, 61, 97, 384):
        image = Image.new("RGB", (side, side))
        assert processor.image_processor(images=[image])["image_grid_thw"].tolist() == [[1, 12, 12]]


def test_a_cache_changes_nothing_and_computes_an_image_once(stock, monkeypatch, tmp_path):
    real, computed = Qwen2VLImageProcessorPil.preprocess, []

    def count(self, images, *args, **kwargs):
        computed.extend(images)
        return real(self, images, *args, **kwargs)

    wide, high = Image.new("RGB", (80, 40)), Image.new("RGB", (40, 80))  # of the same bytes
    sets = IMAGES[:2], IMAGES[1:4], IMAGES[0], [IMAGES[1], IMAGES[0], IMAGES[1]], [wide, high]
    expected = [
        [stock(images=images, return_tensors=tensors) for tensors in ("pt", "np")]
        for images in sets
    ]
    monkeypatch.setattr(Qwen2VLImageProcessorPil, "preprocess", count)
    ours = CachedImageProcessor(**SETTINGS)
    for images, (torch_patches, np_patches) in zip(sets, expected):
        assert_same(ours(images=images, return_tensors="pt"), torch_patches)
        patches = ours(images=images, return_tensors="np")
        assert_same(patches, np_patches)
        patches["pixel_values"][:] = 7  # what a caller does to its patches stays with the caller
    assert len(computed) == 6
    ours.save_pretrained(tmp_path)  # the settings, not the images
    assert (tmp_path / "preprocessor_config.json").stat().st_size < 5000
    loaded = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    assert_same(loaded(images=IMAGES[:2], return_tensors="pt"), expected[0][0])
    # Other settings for one call are not kept.
    small = {"min_pixels": 32 * 32, "max_pixels": 32 * 32, "return_tensors": "pt"}
    assert ours(images=[IMAGES[0]], **small)["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert_same(ours(images=IMAGES[:2], return_tensors="pt"), expected[0][0])


@settings(max_examples=200)
@given(text=st.text(max_size=40))
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_no_token_but_the_special_ones_holds_their_text(tokenizer):
    assert len(tokenizer) <= 1024
    for i in range(len(tokenizer)):
        text = tokenizer.decode([i])
        assert text in [*SPECIAL_TOKENS, *TAGS] or not re.search(r"<\||\|>|</?\w+>", text), text


def test_who_skips_special_tokens_keeps_the_markup_and_loses_what_only_the_loop_writes(tokenizer):
    text = "<think>Hm.</think><tool_call>{}</tool_call><answer>K</answer>"
    ids = tokenizer(f"{prompts.GENERATION_PROMPT}{text}{prompts.TURN_END}")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "assistant\n" + text
    for number, token in enumerate([*SPECIAL_TOKENS, *TAGS]):
        assert tokenizer(token)["input_ids"] == [number]
        left = tokenizer.decode([number], skip_special_tokens=True)
        assert left == ("" if token in SPECIAL_TOKENS else token)


@pytest.mark.parametrize("shipped", [True, False])
def test_a_saved_folder_is_an_ordinary_checkpoint(shipped, random_eyes, tmp_path):
    """vLLM, verl and `transformers serve` read it with AutoProcessor, and know none of our classes."""
    folder = EYES if shipped else random_eyes
    settings = json.loads((folder / "processor_config.json").read_text())
    assert settings["processor_class"] == PROCESSOR_MAPPING_NAMES["qwen3_vl"]
    stock = IMAGE_PROCESSOR_MAPPING_NAMES["qwen3_vl"]["torchvision"]
    assert settings["image_processor"]["image_processor_type"] == stock
    video = settings["video_processor"]["video_processor_type"]
    assert video == Qwen3VLVideoProcessor.__name__
    if is_torchvision_available():
        processor = AutoProcessor.from_pretrained(folder)
        assert type(processor) is Qwen3VLProcessor and spec_of(processor) is TINY_EYES
        content = [{"type": "image", "image": IMAGES[0]}, {"type": "text", "text": "What?"}]
        conversation = [{"role": "user", "content": content}]
        ids = processor.apply_chat_template(conversation, tokenize=True)[0]
        assert ids.count(processor.image_token_id) == 36
    else:  # never a tokenizer without a word, with which a server answers blindly
        with pytest.raises(ImportError, match="requires the Torchvision library"):
            AutoProcessor.from_pretrained(folder)
    load_processor(folder).save_pretrained(tmp_path)
    for name in ("processor_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tokenizer, seed=0)


def test_a_seed_makes_a_small_model(tokenizer, model):
    n = sum(p.numel() for p in model.parameters())
    assert 2_500_000 < n < 4_000_000  # 2 bytes each must stay under 16 MB
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert len(model.model.visual.deepstack_merger_list) == 1
    again, other = build_model(tokenizer, seed=0), build_model(tokenizer, seed=1)
    assert same_weights(model, again) and not same_weights(model, other)


def same_weights(a, b):
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def test_a_saved_model_comes_back_in_fp32(random_eyes, model, tmp_path):
    loaded, processor = load(random_eyes)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same_weights(loaded, model.to(torch.bfloat16).to(torch.float32))
    loaded.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, other = load(tmp_path)
    assert same_weights(loaded, again)
    assert other.chat_template == processor.chat_template
    assert other.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
