"""environment.py: what TRL makes of it, the tool's schema and one episode after the other."""

import inspect

from PIL import Image
from transformers.utils import get_json_schema

from deepeyes_lite.tools import MAX_CALLS, ZOOM, NoTool, ZoomEnvironment


def test_trl_finds_reset_and_one_tool():
    """TRL takes every public method but `reset` for a tool."""
    names = [name for name, _ in inspect.getmembers(ZoomEnvironment, inspect.isfunction)]
    assert [name for name in names if not name.startswith("_")] == [ZOOM, "reset"]


def test_the_schema_asks_for_the_box_and_offers_the_label():
    function = get_json_schema(ZoomEnvironment().image_zoom_in_tool)["function"]
    assert function["name"] == ZOOM
    assert set(function["parameters"]["properties"]) == {"bbox_2d", "label", "image"}
    assert function["parameters"]["required"] == ["bbox_2d"]
    box = function["parameters"]["properties"]["bbox_2d"]
    assert (box["type"], box["items"]) == ("array", {"type": "number"})


def test_every_episode_starts_anew(samples):
    environment = ZoomEnvironment()
    for row in list(samples)[:2]:
        assert environment.reset(**row) is None  # an observation would be added to the prompt
        assert environment.image is row["image"]
        assert (environment.boxes_px, environment.refused) == ([], 0)
        for _ in range(MAX_CALLS - 1):
            environment.image_zoom_in_tool([0, 0, 500, 500])
        environment.image_zoom_in_tool("nonsense")
        (part,) = environment.image_zoom_in_tool([0, 0, 500, 500])
        assert "no calls left" in part["text"]
        assert (len(environment.boxes_px), environment.refused) == (MAX_CALLS - 1, 2)


def test_a_crop_is_cut_from_this_episode_s_image():
    environment = ZoomEnvironment()
    for color in ((10, 20, 30), (200, 100, 0)):
        environment.reset(image=Image.new("RGB", (384, 384), color), question="?", prompt=[])
        (part,) = environment.image_zoom_in_tool([0, 0, 250, 250])
        assert part["image"].getcolors() == [(96 * 96, color)]


def test_an_environment_without_a_tool_offers_none(samples):
    names = [name for name, _ in inspect.getmembers(NoTool, inspect.isfunction)]
    assert [name for name in names if not name.startswith("_")] == ["reset"]
    assert NoTool().reset(**samples[0]) is None and NoTool().boxes_px == []
