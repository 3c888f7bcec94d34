"""tools.py: whatever a model writes into a call ends in a bounded crop or in a text."""

import inspect
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import get_json_schema

from deepeyes_lite.boxes import px_from_1000
from deepeyes_lite.realworld.folder import MAX_ASPECT, MIN_SIDE
from deepeyes_lite.tools import (
    MAX_CALLS,
    MAX_CROP_SIDE,
    MIN_CROP_SIDE,
    ZOOM,
    NoTool,
    ToolError,
    ZoomTool,
    answer_call,
    zoom,
)

SIZES = [(384, 384), (1, 1), (5, 3000), (3000, 5), (27, 29), (2500, 1500)]
IMAGES = {size: Image.new("RGB", size) for size in SIZES}

ODD_NUMBERS = st.sampled_from([10**400, -(10**400), 1e999, -1e999, math.nan, 1e-320, -0.0, 1e6])
NUMBERS = st.one_of(
    st.integers(-100, 1100), st.floats(-100, 1100), st.integers(), st.floats(), ODD_NUMBERS
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.binary(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=6), inner, max_size=4),
    ),
    max_leaves=20,
)
BOXES = st.one_of(
    st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, max_size=9), ANYTHING
)
ARGUMENT_NAMES = st.sampled_from(["bbox_2d", "label", "self", "bbox", "angle", "", "__class__"])
ARGUMENTS = st.one_of(
    st.fixed_dictionaries({"bbox_2d": BOXES}, optional={"label": ANYTHING}),
    st.dictionaries(ARGUMENT_NAMES, BOXES, max_size=3),
    ANYTHING,
)
FUNCTIONS = st.one_of(
    st.fixed_dictionaries({"name": st.just(ZOOM), "arguments": ARGUMENTS}),
    st.fixed_dictionaries({}, optional={"name": ANYTHING, "arguments": ANYTHING}),
    ANYTHING,
)
DEEP = [0]
for _ in range(100_000):
    DEEP = [DEEP]


def assert_sound(tool, content):
    """The observation is one bounded crop of the image, or one text; crops and refusals are counted."""
    if isinstance(content, str):
        assert (tool.boxes_px, tool.refused) == ([], 0)
        return
    (part,) = content
    if part["type"] == "text":
        assert part["text"].startswith("Error: ")
        assert (tool.boxes_px, tool.refused) == ([], 1)
        return
    crop = part["image"]
    assert 1 <= crop.width <= min(MAX_CROP_SIDE, tool.image.width)
    assert 1 <= crop.height <= min(MAX_CROP_SIDE, tool.image.height)
    ((x1, y1, x2, y2),) = tool.boxes_px
    assert 0 <= x1 < x2 <= tool.image.width and 0 <= y1 < y2 <= tool.image.height


@given(size=st.sampled_from(SIZES), function=FUNCTIONS)
def test_no_call_raises_and_no_crop_exceeds_its_bounds(size, function):
    tool = ZoomTool(IMAGES[size])
    assert_sound(tool, answer_call(tool, function))


BOX = [1, 2, 3, 4]
HOSTILE = [{"name": DEEP, "arguments": {}}, {"name": "x" * 10**6, "arguments": {}}, None]
for arguments in ({"bbox_2d": DEEP}, {"bbox_2d": [0] * 10**6}, {"bbox_2d": [10**5000] * 4}):
    HOSTILE.append({"name": ZOOM, "arguments": arguments})
for arguments in ({"bbox_2d": BOX, "label": DEEP}, {"bbox_2d": BOX, "self": 1}, {1: 2}):
    HOSTILE.append({"name": ZOOM, "arguments": arguments})


@given(size=st.sampled_from(SIZES), bbox_2d=st.lists(st.floats(0, 1000), min_size=4, max_size=4))
def test_a_box_with_an_area_gets_a_square_crop_around_it(size, bbox_2d):
    tool = ZoomTool(IMAGES[size])
    (part,) = tool.image_zoom_in_tool(bbox_2d)
    (left, right), (top, bottom) = sorted(bbox_2d[::2]), sorted(bbox_2d[1::2])
    box_px = px_from_1000((left, top, right, bottom), size)
    assert (part["type"] == "image") == (box_px[0] < box_px[2] and box_px[1] < box_px[3])
    if part["type"] == "text":
        with pytest.raises(ToolError, match="empty"):
            zoom(IMAGES[size], box_px)
        return
    assert tool.boxes_px == [pytest.approx(box_px)]
    crop, (x1, y1, x2, y2) = zoom(IMAGES[size], box_px)
    assert x1 >= 0 and y1 >= 0 and x2 <= size[0] and y2 <= size[1]
    half = 0.5 + 1e-6  # whole pixels
    assert x1 <= box_px[0] + half and y1 <= box_px[1] + half
    assert box_px[2] <= x2 + half and box_px[3] <= y2 + half
    longest = max(box_px[2] - box_px[0], box_px[3] - box_px[1], min(MIN_CROP_SIDE, *size))
    assert x2 - x1 == pytest.approx(min(longest, size[0]), abs=1.5)
    assert y2 - y1 == pytest.approx(min(longest, size[1]), abs=1.5)
    if max(x2 - x1, y2 - y1) <= MAX_CROP_SIDE:
        assert part["image"].size == crop.size == (x2 - x1, y2 - y1)
    else:
        assert max(part["image"].size) == max(crop.size) == MAX_CROP_SIDE


INFINITE = [json.loads(f"[0, 0, {number}, 9]") for number in ("1e999", "NaN", "-Infinity")]
REFUSED = {
    "must be a list of four numbers [x1, y1, x2, y2], got": ["[0, 0, 9, 9]", None, {"x1": 0}, 7],
    "must be four numbers [x1, y1, x2, y2], got": [[], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]]],
    "must hold numbers only, got a": [["1", "2", "3", "4"]]
    + [[0, 0, 9, value] for value in (True, None, [9], 1j)],
    "must hold finite numbers between 0 and 1000": [[0, 0, 10**400, 9], [0, 0, 1e7, 9], *INFINITE],
    "is empty or outside the image; give x1 < x2 and y1 < y2": [[1200, 1200, 1300, 1300]]
    + [[-300, 0, -1, 1000], [1000, 0, 1200, 1000], [500, 500, 500, 900], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_cropped_is_answered_with_what_is_wrong(message):
    for bbox_2d in REFUSED[message]:
        tool = ZoomTool(IMAGES[384, 384])
        (part,) = tool.image_zoom_in_tool(bbox_2d)
        assert part["type"] == "text" and part["text"].startswith(f"Error: bbox_2d {message}")
        assert (tool.boxes_px, tool.refused) == ([], 1)


def test_what_can_be_cropped_is():
    for bbox_2d, box_px, side in [
        ([250, 250, 500, 500], (96, 96, 192, 192), 96),
        ([500, 500, 250, 250], (96, 96, 192, 192), 96),  # reversed
        ([500, 250, 250, 500], (96, 96, 192, 192), 96),  # reversed from left to right
        ([750, 750, 9000, 1250], (288, 288, 384, 384), 96),  # partly outside
        ([-500, -500, 250, 250], (0, 0, 96, 96), 96),
        ([-1e6, -1e6, 1e6, 1e6], (0, 0, 384, 384), 384),
        ([500, 500, 500.001, 500.001], (192, 192, 192.000384, 192.000384), MIN_CROP_SIDE),  # tiny
        ((250, 250, 500, 500), (96, 96, 192, 192), 96),
    ]:
        tool = ZoomTool(IMAGES[384, 384])
        (part,) = tool.image_zoom_in_tool(bbox_2d, label="red circle")
        assert part["image"].size == (side, side)
        assert tool.boxes_px == [pytest.approx(box_px)] and tool.refused == 0


def test_crop_of_the_longest_image_that_data_takes_suits_the_image_processor():
    for size in [(28, 5600), (5600, 28), (40, 8000)]:
        assert max(size) / min(size) == MAX_ASPECT and min(size) >= MIN_SIDE
        (part,) = ZoomTool(Image.new("RGB", size)).image_zoom_in_tool([0, 0, 1000, 1000])
        assert max(part["image"].size) == MAX_CROP_SIDE
        patches = Qwen2VLImageProcessorPil()(images=[part["image"]])
        assert patches["image_grid_thw"].shape == (1, 3)


def test_what_is_no_call_is_answered_as_trl_answers_it_and_no_hostile_call_raises():
    no_box = "missing 1 required positional argument: 'bbox_2d'"
    for function, message in [
        ({"name": "rotate", "arguments": {}}, "Tool rotate not found."),
        ({"arguments": {}}, "'name'"),
        ({"name": ZOOM}, "'arguments'"),
        ({"name": ZOOM, "arguments": {}}, no_box),
        ({"name": ZOOM, "arguments": {"bbox_2d": [0, 0, 9, 9], "angle": 1}}, "'angle'"),
        ({"name": ZOOM, "arguments": [1, 2]}, "must be a mapping"),
        ([], "list indices must be integers"),
        (None, "not subscriptable"),
    ]:
        text = answer_call(ZoomTool(IMAGES[384, 384]), function)
        assert text.startswith("{'error': ") and message in text
    for function in HOSTILE:
        tool = ZoomTool(IMAGES[384, 384])
        assert_sound(tool, answer_call(tool, function))


# --- a zoom into a zoom -------------------------------------------------------------------------


def test_a_box_on_a_crop_is_a_box_on_the_original():
    tool = ZoomTool(Image.effect_noise((800, 800), 90).convert("RGB"))
    tool.image_zoom_in_tool([250, 500, 500, 750])  # 200 px wide, at (200, 400)
    (part,) = tool.image_zoom_in_tool([500, 0, 1000, 500], image=1)
    assert part["image"].tobytes() == tool.image.crop((300, 400, 400, 500)).tobytes()
    assert tool.boxes_px == [(200, 400, 400, 600), (300, 400, 400, 500)]
    (part,) = tool.image_zoom_in_tool([0, 0, 500, 500], image=2)
    assert part["image"].tobytes() == tool.image.crop((300, 400, 350, 450)).tobytes()
    (part,) = tool.image_zoom_in_tool([0, 0, 500, 500])
    assert part["image"].size == (400, 400)


def test_the_frame_of_a_crop_is_what_it_shows():
    tool = ZoomTool(Image.new("RGB", (400, 400)))
    tool.image_zoom_in_tool([100, 200, 200, 400])  # 40 x 80 px become the 80 x 80 around it
    tool.image_zoom_in_tool([0, 0, 1000, 1000], image=1)
    assert tool.boxes_px[1] == (20, 80, 100, 160)
    tool = ZoomTool(Image.new("RGB", (4000, 4000)))
    (part,) = tool.image_zoom_in_tool([0, 0, 500, 500])
    assert part["image"].size == (1024, 1024)  # reduced
    tool.image_zoom_in_tool([500, 500, 600, 600], image=1)
    assert tool.boxes_px[1] == (1000, 1000, 1200, 1200)


def test_a_box_on_an_image_that_is_not_there_is_refused():
    tool = ZoomTool(Image.new("RGB", (400, 400)), max_calls=99)
    tool.image_zoom_in_tool([2000, 2000, 3000, 3000])  # refused: no image to zoom into
    for image in [1, -1, 10**30, True, 0.0, "0", None, [0], math.nan]:
        (part,) = tool.image_zoom_in_tool([0, 0, 500, 500], image=image)
        assert part["text"] == "Error: image must be a whole number from 0 to 0"
    assert (tool.boxes_px, tool.refused) == ([], 10)


# --- as TRL's environment -------------------------------------------------------------------------


def test_trl_finds_reset_and_one_tool(samples):
    """TRL takes every public method but `reset` for a tool."""

    def public(environment):
        names = [name for name, _ in inspect.getmembers(environment, inspect.isfunction)]
        return [name for name in names if not name.startswith("_")]

    assert public(ZoomTool) == [ZOOM, "reset"] and public(NoTool) == ["reset"]
    assert NoTool().reset(**samples[0]) is None and NoTool().boxes_px == []
    function = get_json_schema(ZoomTool().image_zoom_in_tool)["function"]
    assert function["name"] == ZOOM
    assert set(function["parameters"]["properties"]) == {"bbox_2d", "label", "image"}
    assert function["parameters"]["required"] == ["bbox_2d"]
    box = function["parameters"]["properties"]["bbox_2d"]
    assert (box["type"], box["items"]) == ("array", {"type": "number"})


def test_every_episode_starts_anew():
    environment = ZoomTool()
    for color in ((10, 20, 30), (200, 100, 0)):
        image = Image.new("RGB", (384, 384), color)
        # An observation would be added to the prompt.
        assert environment.reset(image=image, question="?", prompt=[]) is None
        assert environment.image is image
        assert (environment.boxes_px, environment.refused) == ([], 0)
        for _ in range(MAX_CALLS - 1):
            (part,) = environment.image_zoom_in_tool([0, 0, 250, 250])
            assert part["image"].getcolors() == [(96 * 96, color)]
        environment.image_zoom_in_tool("nonsense")  # is a call, too
        (part,) = environment.image_zoom_in_tool([0, 0, 500, 500])
        assert part["text"] == "Error: no calls left, the limit is 6; answer now"
        assert (len(environment.boxes_px), environment.refused) == (MAX_CALLS - 1, 2)
