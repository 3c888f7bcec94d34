"""models.py: the frames of every family, exactly; budgets; what a family may not write."""

from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
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
    ready,
    spec_of,
    token_ids,
    tool_of,
    view_of,
)
from deepeyes_lite.tools import MAX_CROP_SIDE, ZoomTool, zoom
from shapes import tokenizer_of

FAMILIES = {
    "qwen2_5_vl": (IMAGE_ONLY["qwen2_5_vl"], 14),
    "qwen3_vl": (IMAGE_ONLY["qwen3_vl"], 16),
}


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


def called(processor, image, box, number=0, tool=None):
    """The crop for a box in the family's frame."""
    tool = tool or tool_of(processor)(image)
    (part,) = tool.image_zoom_in_tool(box, image=number)
    assert part["type"] == "image", part
    return part["image"], tool


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
    """Resize, the model's frame, the crop: nothing gets lost on the way, whatever the size."""
    processor = processors[data.draw(st.sampled_from(sorted(FAMILIES)))]
    width, height = (data.draw(st.integers(90, 3000)) for _ in range(2))
    x, y = data.draw(st.integers(40, width - 41)), data.draw(st.integers(40, height - 41))
    frame = (
        (1000, 1000) if spec_of(processor).frame == "1000" else view_of(processor)((width, height))
    )
    # What a model that sees the pixel says: whole numbers of its frame around it.
    kx, ky = frame[0] / width, frame[1] / height
    box = [floor(x * kx), floor(y * ky), ceil((x + 1) * kx), ceil((y + 1) * ky)]
    tool = tool_of(processor)(Image.new("1", (width, height)))
    (part,) = tool.image_zoom_in_tool(box)
    assert part["type"] == "image"
    (found,) = tool.boxes_px
    # The box holds the pixel, and is no larger than whole numbers make it.
    slack = 1e-6
    assert found[0] <= x + slack and x + 1 <= found[2] + slack
    assert found[1] <= y + slack and y + 1 <= found[3] + slack
    assert found[2] - found[0] <= 1 + 2 / kx + slack and found[3] - found[1] <= 1 + 2 / ky + slack


@pytest.mark.parametrize("size", [(4032, 4032), (4032, 3024), (1537, 2311)])
def test_the_error_of_deepeyes_141_is_gone(real, size):
    """A mark at 3/4 of a large image: read off the view, cut out of the original."""
    mark = [round(side * 3 / 4) for side in size]
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (*mark, mark[0] + 12, mark[1] + 12))
    view = view_of(real)(size)
    # The model's part: find the mark in the view that it is shown.
    shown = np.asarray(image.resize(view, Image.Resampling.BICUBIC))[..., 0]
    rows, columns = np.nonzero(shown > 40)
    box_view = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    frame = (1000, 1000) if spec_of(real).frame == "1000" else view
    box = [int(v) for v in rescale(box_view, view, frame)]
    box[2:] = [v + 1 for v in box[2:]]
    crop, tool = called(real, image, box)
    red = np.asarray(crop)[..., 0] > 200
    assert red.sum() == 12 * 12
    # The public code's way would have missed it altogether.
    wrong = image.crop(box)
    assert (np.asarray(wrong)[..., 0] > 200).sum() == 0


def test_a_box_on_a_crop_lies_where_the_crop_shows_it(real):
    """The second zoom: into a crop that was reduced, in the frame of the crop's own view."""
    size = (4001, 3003)
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (3001, 2001, 3009, 2009))
    frame = (1000, 1000) if spec_of(real).frame == "1000" else view_of(real)(size)
    target = (2000, 1000, 4000, 3000)
    box = [round(v) for v in rescale(target, size, frame)]
    crop, tool = called(real, image, box)
    assert max(crop.size) == MAX_CROP_SIDE
    window = zoom(image, tool.boxes_px[0])[1]
    inside = rescale(
        (2985 - window[0], 1985 - window[1], 3025 - window[0], 2025 - window[1]),
        (window[2] - window[0], window[3] - window[1]),
        (1000, 1000) if spec_of(real).frame == "1000" else view_of(real)(crop.size),
    )
    box = [*(int(v) for v in inside[:2]), *(int(v) + 1 for v in inside[2:])]
    second, _ = called(real, image, box, number=1, tool=tool)
    assert (np.asarray(second)[..., 0] > 200).sum() == 64
    assert max(second.size) < 60


def test_a_target_box_is_spoken_in_the_family_s_frame(processors, processor):
    box_px, size = (100.0, 200.0, 150.0, 260.0), (1000, 500)
    assert encode_box(processor, box_px, size) == [100, 400, 150, 520]  # tiny-eyes, in steps of 10
    assert encode_box(processors["qwen3_vl"], box_px, size) == [100, 400, 150, 520]
    width, height = view_of(processors["qwen2_5_vl"])(size)
    x1, y1, x2, y2 = encode_box(processors["qwen2_5_vl"], box_px, size)
    assert x1 == int(100 * width / 1000) and 0 <= 260 * height / 500 - (y2 - 1) <= 1
    for made in processors.values():
        tool = tool_of(made)(Image.new("RGB", size))
        tool.image_zoom_in_tool(encode_box(made, box_px, size))
        found = tool.boxes_px[0]
        assert found[0] <= 100 and found[1] <= 200 and found[2] >= 150 and found[3] >= 260
        assert all(abs(a - b) <= 10 for a, b in zip(found, box_px))


@pytest.mark.parametrize(
    "box", [None, "x", [1, 2], [float("nan")] * 4, [1e9] * 4, [5000, 5000, 6000, 6000], [True] * 4]
)
def test_a_hostile_box_is_answered_with_a_message(real, box):
    tool = tool_of(real)(Image.new("RGB", (300, 200)))
    (part,) = tool.image_zoom_in_tool(box)
    assert part["type"] == "text" and part["text"].startswith("Error: ") and tool.refused == 1


def test_blank_crops_are_grey_in_every_frame(real):
    tool = tool_of(real)(Image.new("RGB", (300, 200), (9, 9, 9)))
    tool.blank = True
    (part,) = tool.image_zoom_in_tool([10, 10, 90, 90])
    assert part["image"].getcolors()[0][1] == (128, 128, 128)


def test_the_family_is_found_by_the_processor(processors, processor):
    assert spec_of(processor) is TINY_EYES
    assert spec_of(processors["qwen2_5_vl"]) is QWEN2_5_VL
    assert spec_of(processors["qwen3_vl"]) is QWEN3_VL
    with pytest.raises(
        ValueError, match="object belongs to none of the families tiny-eyes, Qwen2.5"
    ):
        spec_of(object())


def test_another_family_may_be_added(monkeypatch):
    class MyVLProcessor:
        pass

    monkeypatch.setitem(SPECS, "MyVLProcessor", QWEN3_VL)
    assert tool_of(MyVLProcessor()) is ZoomTool
    with pytest.raises(ValueError, match="frame must be 'view' or '1000', got 'px'"):
        ModelSpec("My", "px", 28, 1, 2, 3)


def test_a_processor_of_another_kind_is_refused():
    images = CachedImageProcessor(patch_size=16, merge_size=2)
    processor = IMAGE_ONLY["qwen2_5_vl"](images, tokenizer_of("qwen2_5_vl"))
    with pytest.raises(ValueError, match="a visual token covers 32 px, in Qwen2.5-VL it is 28"):
        ready(processor)
    images = CachedImageProcessor(patch_size=14, merge_size=2)
    processor = IMAGE_ONLY["qwen2_5_vl"](images, tokenizer_of("qwen2_5_vl"))
    with pytest.raises(ValueError, match="max_pixels is 784, and the least view has 50176"):
        ready(processor, max_pixels=784)


def test_the_budget_holds_every_turn_and_the_largest_crops(real):
    """The largest crop that the tool can give, as often as it may, around turns of full length."""
    from deepeyes_lite.policies import Policy

    policy = Policy(real)
    tool = policy.tool_class(Image.new("RGB", (4000, 4000)))
    frame = (1000, 1000) if spec_of(real).frame == "1000" else view_of(real)((4000, 4000))
    observation = policy.observation_ids([tool.image_zoom_in_tool([0, 0, *frame])])
    for calls, turn in ((1, 64), (3, 256), (6, 512)):
        needed = (calls + 1) * turn + calls * len(observation)
        assert needed <= completion_length(real, calls, turn) <= 1.4 * needed


def test_tiny_eyes_keeps_its_budget(processor):
    assert completion_length(processor) == completion_length(processor, 2, 7) == 480


def test_reserved_tokens_are_those_that_the_tokenizer_has(processors):
    ids = {name: token_ids(p.tokenizer, prompts.RESERVED_TOKENS) for name, p in processors.items()}
    assert (
        len(ids["qwen2_5_vl"]) == 6 and len(ids["qwen3_vl"]) == 8
    )  # "<tool_response>" is text to the first
    for name, found in ids.items():
        tokens = processors[name].tokenizer.convert_ids_to_tokens(found)
        assert set(tokens) <= set(prompts.RESERVED_TOKENS) and "<|image_pad|>" in tokens
