"""tools.py: whatever a model writes into a call ends in a bounded crop or in a text."""

import inspect
import json
import math
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import get_json_schema

from deepeyes_lite.boxes import View, px_from_1000, rescale
from deepeyes_lite.data import MAX_ASPECT, MIN_SIDE
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.prompts import RESERVED_TOKENS, read_reply
from deepeyes_lite.tools import (
    MAX_CALLS,
    MIN_CROP_SIDE,
    ZOOM,
    NoTool,
    ToolError,
    ViewZoomTool,
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
    (part,) = content
    if part["type"] == "text":
        assert part["text"].startswith("Error: ") and len(part["text"]) < 220
        assert (tool.boxes_px, tool.refused) == ([], 1)
        return
    crop = part["image"]
    assert 1 <= crop.width <= tool.image.width and 1 <= crop.height <= tool.image.height
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
    full = box_px[0] < box_px[2] and box_px[1] < box_px[3]
    assert (part["type"] == "image") == (full and max(bbox_2d) > 1)
    if full and part["type"] == "text":
        assert part["text"].endswith("holds shares of the image; give numbers between 0 and 1000")
    elif part["type"] == "text":
        with pytest.raises(ToolError, match="empty"):
            zoom(IMAGES[size], box_px)
    if part["type"] == "text":
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
    assert part["image"].size == crop.size == (x2 - x1, y2 - y1)
    assert tool.crops_px == [(x1, y1, x2, y2)]


INFINITE = [json.loads(f"[0, 0, {number}, 9]") for number in ("1e999", "NaN", "-Infinity")]
REFUSED = {
    "must be a list of four numbers [x1, y1, x2, y2], got": ["[0, 0, 9, 9]", None, {"x1": 0}, 7],
    "must be four numbers [x1, y1, x2, y2], got": [[], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]]],
    "must hold numbers only, got a": [["1", "2", "3", "4"]]
    + [[0, 0, 9, value] for value in (True, None, [9], 1j)],
    "must hold finite numbers between 0 and 1000": [[0, 0, 10**400, 9], [0, 0, 1e7, 9], *INFINITE],
    "is empty or outside the image; give x1 < x2 and y1 < y2 between 0 and 1000": [
        [1200, 1200, 1300, 1300]
    ]
    + [[-300, 0, -1, 1000], [1000, 0, 1200, 1000], [500, 500, 500, 900], [0, 0, 0, 0]],
    "holds shares of the image; give numbers between 0 and 1000": [[0.1, 0.2, 0.3, 0.4]]
    + [[0, 0, 1, 1], [0.9, 0.9, 0.1, 0.1], [-1, 0, 0.5, 1]],
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


def test_what_is_no_call_is_answered_in_words_and_no_hostile_call_raises():
    for call, message in [
        ({"name": "rotate", "arguments": {}}, "there is no such tool; there is image_zoom_in_tool"),
        ({"arguments": {}}, "'name'"),
        ({"name": ZOOM}, "'arguments'"),
        ({"name": ZOOM, "arguments": {}}, "missing a required argument: 'bbox_2d'"),
        ({"name": ZOOM, "arguments": [1, 2]}, "'list' object has no attribute 'items'"),
        ({"error": "the call is not closed"}, "the call is not closed"),
        ([], "list indices must be integers"),
        (None, "is not iterable"),
    ]:
        tool = ZoomTool(IMAGES[384, 384])
        (part,) = answer_call(tool, call)
        assert part["text"].startswith("Error: ") and message in part["text"]
        assert (tool.boxes_px, tool.refused) == ([], 1)
    for call in HOSTILE:
        tool = ZoomTool(IMAGES[384, 384])
        assert_sound(tool, answer_call(tool, call))


def test_arguments_that_the_tool_has_not_are_left_out():
    tool = ZoomTool(IMAGES[384, 384])
    arguments = {"bbox_2d": [250, 250, 500, 500], "angle": 90, "self": 1, "": 0}
    (part,) = answer_call(tool, {"name": ZOOM, "arguments": arguments})
    assert part["image"].size == (96, 96)


def test_what_a_tool_says_of_model_output_is_short_and_text_for_the_tokenizer(processor):
    class Repeats(ZoomTool):
        def image_say_tool(self, text: str) -> list:
            """Say it."""
            raise ToolError(text)

        def image_write_tool(self, text: str) -> list:
            """Write it."""
            return [{"type": "text", "text": text}]

    policy = ScriptedPolicy(processor, [])
    reserved = {*processor.tokenizer.convert_tokens_to_ids([*RESERVED_TOKENS, "<tool_call>"])}
    own = Counter(policy.observation_ids([[{"type": "text", "text": "x"}]]))
    for text in (*RESERVED_TOKENS, "<tool_call>", "\ud800", "<|im_end|>" * 20, "[" * 5000):
        for name in ("image_say_tool", "image_write_tool", text):
            call = json.dumps({"name": name, "arguments": {"text": text, text: 1}})
            call = call.replace("<", "\\u003c")
            (call,) = read_reply(f"<tool_call>{call}</tool_call>").calls
            tool = Repeats(IMAGES[384, 384])
            parts = answer_call(tool, call)
            ids = Counter(policy.observation_ids([parts]))
            assert all(ids[token] == own[token] for token in reserved), (name, text)
            assert len(parts[0]["text"]) < 300 or name == "image_write_tool"


# --- a crop for a view that keeps the aspect ------------------------------------------------------

BUDGETS = st.tuples(st.sampled_from([28, 32]), st.integers(192, 4096)).map(
    lambda b: View(64 * b[0] ** 2, b[1] * b[0] ** 2, b[0])
)


@given(data=st.data(), view=BUDGETS)
@settings(max_examples=400)
def test_no_crop_is_coarser_than_the_view(data, view):
    """A zoom shows at least as many pixels per pixel of the image as the view, across and down."""
    width, height = (data.draw(st.integers(28, 5000)) for _ in range(2))
    assume(max(width, height) <= 100 * min(width, height))
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(0, width)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(0, height)] * 2)))
    seen = view((width, height))
    box = rescale((x1, y1, x2, y2), (width, height), seen)
    assume(x2 - x1 > 0.01 and y2 - y1 > 0.01 and max(box) > 1)
    tool = ViewZoomTool(Image.new("1", (width, height)), view=view)
    (part,) = tool.image_zoom_in_tool(list(box))
    size = part["image"].size
    assert size[0] * size[1] <= view.max_pixels or size == tool.image.size
    (cx1, cy1, cx2, cy2), shown = tool.crops_px[0], view(size)
    assert max(size) <= 200 * min(size)  # what Qwen-VL's image processor takes
    assert shown[0] / (cx2 - cx1) >= seen[0] / width - 1e-9
    assert shown[1] / (cy2 - cy1) >= seen[1] / height - 1e-9
    # It holds the box, up to half a pixel, and is no larger than it has to be.
    assert cx1 <= x1 + 0.51 and cy1 <= y1 + 0.51 and x2 <= cx2 + 0.51 and y2 <= cy2 + 0.51
    least = max(28, (x2 - x1) / 100, (y2 - y1) / 100)
    assert cx2 - cx1 <= max(x2 - x1, least) + 1 and cy2 - cy1 <= max(y2 - y1, least) + 1


def test_a_line_of_text_comes_back_sharp():
    """A line of 40 px letters on a scan: 20 px in the view, as large as they are in the crop."""
    scan, view = (4032, 3024), View(56 * 56, 4096 * 28 * 28)
    tool = ViewZoomTool(Image.new("L", scan), view=view)
    box = rescale((200, 1000, 3800, 1060), scan, view(scan))
    (part,) = tool.image_zoom_in_tool(list(box))
    width, height = view(part["image"].size)
    assert 40 * height / 60 >= 37 and 40 * view(scan)[1] / scan[1] < 24
    assert width / (3800 - 200) > 0.95


def test_crop_of_the_longest_image_that_data_takes_suits_the_image_processor():
    view = View(64 * 28 * 28, 192 * 28 * 28)  # the least budget of a preset
    for size in [(28, 5600), (5600, 28), (40, 8000), (9000, 9000)]:
        assert min(size) >= MIN_SIDE and max(size) / min(size) <= MAX_ASPECT
        for box in ([0, 0, 1000, 1000], [0, 0, 2, 1000], [0, 500, 1000, 501]):
            (part,) = ZoomTool(Image.new("L", size), view=view).image_zoom_in_tool(box)
            images = Qwen2VLImageProcessorPil(
                min_pixels=view.min_pixels, max_pixels=view.max_pixels
            )
            grid = images(images=[part["image"].convert("RGB")])["image_grid_thw"][0]
            assert tuple(14 * grid[:0:-1]) == view(part["image"].size)


def test_errors_speak_the_frame_of_the_model():
    tool = ViewZoomTool(Image.new("RGB", (4000, 3000)), view=View(56 * 56, 1280 * 28 * 28))
    for box in ([5000, 5000, 6000, 6000], [0.1, 0.1, 0.2, 0.2], [1e9, 0, 1, 1]):
        (part,) = tool.image_zoom_in_tool(box)
        assert part["text"].endswith("in pixels of the image, 1148 x 840")
    assert not tool.boxes_px and tool.refused == 3


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
    tool = ZoomTool(Image.new("RGB", (4000, 4000)), view=View(3136, 1280 * 28 * 28))
    (part,) = tool.image_zoom_in_tool([0, 0, 500, 500])
    assert part["image"].size == (980, 980)  # reduced
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
