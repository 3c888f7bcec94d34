"""models.py: the frames of every family, exactly; budgets; what a family may not write."""

from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.utils import is_torchvision_available
from trl.chat_template_utils import qwen3_vl_chat_template

from deepeyes_lite import prompts
from deepeyes_lite.boxes import rescale
from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.models import (
    IMAGE_ONLY,
    QWEN2_5_VL,
    QWEN3_VL,
    SPECS,
    TINY_EYES,
    ModelSpec,
    completion_length,
    encode_box,
    load_processor,
    ready,
    spec_of,
    token_ids,
    tool_of,
    view_of,
)
from deepeyes_lite.policies import Policy
from deepeyes_lite.tools import ZoomTool
from shapes import tokenizer_of

FAMILIES = {"qwen2_5_vl": (IMAGE_ONLY["qwen2_5_vl"], 14), "qwen3_vl": (IMAGE_ONLY["qwen3_vl"], 16)}


@pytest.fixture(scope="module")
def processors():
    made = {}
    for name, (kind, patch) in FAMILIES.items():
        images = CachedImageProcessor(patch_size=patch, merge_size=2)
        processor = kind(images, tokenizer_of(name), qwen3_vl_chat_template)
        made[name] = ready(processor, max_pixels=256 * 32 * 32)
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def real(request, processors):
    return processors[request.param]


def frame_of(processor, size):
    """Width and height of the frame in which the family writes boxes on an image of a size."""
    return (1000, 1000) if spec_of(processor).frame == "1000" else view_of(processor)(size)


def crop_of(tool, box, number=0):
    (part,) = tool.image_zoom_in_tool(box, image=number)
    assert part["type"] == "image", part
    return part["image"]


SIZES = [(384, 384), (1001, 333), (97, 640), (2999, 1501), (31, 29), (5, 800)]


@pytest.mark.parametrize("size", SIZES)
def test_the_view_is_the_one_that_the_processor_makes(real, size):
    images = real.image_processor
    patches = images(images=[Image.new("RGB", size)], return_tensors="np")
    _, rows, columns = patches["image_grid_thw"][0] * images.patch_size
    assert view_of(real)(size) == (columns, rows)
    assert images.size["longest_edge"] >= rows * columns


@given(data=st.data())
@settings(max_examples=60)
def test_a_known_pixel_is_in_the_middle_of_the_crop_that_was_asked_for(processors, data):
    """Resize, the model's frame, the crop: nothing gets lost on the way (DeepEyes issue #141)."""
    processor = processors[data.draw(st.sampled_from(sorted(FAMILIES)))]
    width, height = (data.draw(st.integers(90, 3000)) for _ in range(2))
    x, y = data.draw(st.integers(40, width - 41)), data.draw(st.integers(40, height - 41))
    frame = frame_of(processor, (width, height))
    # What a model that sees the pixel says: whole numbers of its frame around it.
    kx, ky = frame[0] / width, frame[1] / height
    box = [floor(x * kx), floor(y * ky), ceil((x + 1) * kx), ceil((y + 1) * ky)]
    tool = tool_of(processor)(Image.new("1", (width, height)))
    crop_of(tool, box)
    ((x1, y1, x2, y2),) = tool.boxes_px
    # The box holds the pixel, and is no larger than whole numbers make it.
    slack = 1e-6
    assert x1 <= x + slack and x + 1 <= x2 + slack and y1 <= y + slack and y + 1 <= y2 + slack
    assert x2 - x1 <= 1 + 2 / kx + slack and y2 - y1 <= 1 + 2 / ky + slack


def test_a_box_on_a_crop_lies_where_the_crop_shows_it(real):
    """The second zoom: into a crop that was reduced, in the frame of the crop's own view."""
    size = (4001, 3003)
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (3001, 2001, 3009, 2009))
    tool = tool_of(real)(image)
    box = rescale((2000, 1000, 4000, 3000), size, frame_of(real, size))
    crop = crop_of(tool, [round(v) for v in box])
    assert crop.size == view_of(real)(crop.size) != (2000, 2000)
    x1, y1, x2, y2 = tool.crops_px[0]
    target = (2985 - x1, 1985 - y1, 3025 - x1, 2025 - y1)
    inside = rescale(target, (x2 - x1, y2 - y1), frame_of(real, crop.size))
    box = [*(int(v) for v in inside[:2]), *(int(v) + 1 for v in inside[2:])]
    second = crop_of(tool, box, number=1)
    assert (np.asarray(second)[..., 0] > 200).sum() == 64
    assert max(second.size) < 60


def test_a_target_box_is_encoded_in_the_family_s_frame(processors, processor):
    box_px, size = (100.0, 200.0, 150.0, 260.0), (1000, 500)
    assert encode_box(processor, box_px, size) == [100, 400, 150, 520]  # tiny-eyes, in steps of 10
    assert encode_box(processors["qwen3_vl"], box_px, size) == [100, 400, 150, 520]
    width, height = view_of(processors["qwen2_5_vl"])(size)
    x1, y1, x2, y2 = encode_box(processors["qwen2_5_vl"], box_px, size)
    assert x1 == int(100 * width / 1000) and 0 <= 260 * height / 500 - (y2 - 1) <= 1
    for made in processors.values():
        tool = tool_of(made)(Image.new("RGB", size))
        tool.image_zoom_in_tool(encode_box(made, box_px, size))
        x1, y1, x2, y2 = tool.boxes_px[0]
        assert x1 <= 100 and y1 <= 200 and x2 >= 150 and y2 >= 260
        assert all(abs(a - b) <= 10 for a, b in zip((x1, y1, x2, y2), box_px))


def test_hostile_boxes_and_blank_crops_in_every_frame(real):
    boxes = [None, "x", [1, 2], [float("nan")] * 4, [1e9] * 4, [5000, 5000, 6000, 6000], [True] * 4]
    for box in boxes:
        tool = tool_of(real)(Image.new("RGB", (300, 200), (9, 9, 9)))
        (part,) = tool.image_zoom_in_tool(box)
        assert part["type"] == "text" and part["text"].startswith("Error: ") and tool.refused == 1
    tool.blank = True
    assert crop_of(tool, [10, 10, 90, 90]).getcolors()[0][1] == (128, 128, 128)


def test_the_family_is_found_by_the_processor(processors, processor, monkeypatch):
    assert spec_of(processor) is TINY_EYES and tool_of(processor) is ZoomTool
    assert spec_of(processors["qwen2_5_vl"]) is QWEN2_5_VL
    assert spec_of(processors["qwen3_vl"]) is QWEN3_VL
    with pytest.raises(ValueError, match="object belongs to none of the families tiny-eyes, Qwen"):
        spec_of(object())

    class MyVLProcessor:
        image_processor = processors["qwen3_vl"].image_processor

    monkeypatch.setitem(SPECS, "MyVLProcessor", QWEN3_VL)
    assert spec_of(MyVLProcessor()) is QWEN3_VL
    with pytest.raises(ValueError, match="frame must be 'view' or '1000', got 'px'"):
        ModelSpec("My", "px", 28, 1, 2, 3)


def test_a_processor_of_another_kind_is_refused():
    for patch, max_pixels, message in [
        (16, 0, "a visual token covers 32 px, in Qwen2.5-VL it is 28"),
        (14, 784, "max_pixels is 784, and the least view has 50176"),
    ]:
        images = CachedImageProcessor(patch_size=patch, merge_size=2)
        processor = IMAGE_ONLY["qwen2_5_vl"](images, tokenizer_of("qwen2_5_vl"))
        with pytest.raises(ValueError, match=message):
            ready(processor, max_pixels=max_pixels)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is here")
def test_a_processor_that_needs_torchvision_says_so(random_eyes, monkeypatch):
    """A family that is not in ``IMAGE_ONLY``."""
    monkeypatch.delitem(IMAGE_ONLY, "qwen3_vl")
    with pytest.raises(ImportError, match=r"needs torchvision: `pip install -e .\[serve\]`$"):
        load_processor(random_eyes)


def test_the_budget_holds_every_turn_and_the_largest_crops(real, processor):
    """The largest crop that the tool can give, as often as it may, around turns of full length."""
    policy = Policy(real)
    tool = policy.tool_class(Image.new("RGB", (4000, 4000)))
    box = [0, 0, *frame_of(real, (4000, 4000))]
    observation = policy.observation_ids([tool.image_zoom_in_tool(box)])
    for calls, turn in ((1, 64), (3, 256), (6, 512)):
        needed = (calls + 1) * turn + calls * len(observation)
        assert needed <= completion_length(real, calls, turn) <= 1.4 * needed
    assert completion_length(processor) == completion_length(processor, 2, 7) == 480  # tiny-eyes


def test_reserved_tokens_are_those_that_the_tokenizer_has(processors):
    # "<tool_response>" is text to the first.
    for name, count in (("qwen2_5_vl", 6), ("qwen3_vl", 8)):
        tokenizer = processors[name].tokenizer
        tokens = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompts.RESERVED_TOKENS))
        assert len(tokens) == count and set(tokens) <= set(prompts.RESERVED_TOKENS)
        assert "<|image_pad|>" in tokens
