"""extra_tools.py: a second tool beside the zoom, whatever a model writes into its call."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from deepeyes_lite.study.extra_tools import EXTRA_TOOLS, ContrastTool, stretched, with_extra
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from test_tools import ANYTHING, IMAGES, SIZES, assert_sound
from transformers.utils import get_json_schema

from deepeyes_lite import prompts
from deepeyes_lite.models import load, offer, tool_of
from deepeyes_lite.policies import Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tools import (
    MAX_CALLS,
    MAX_CROP_SIDE,
    ZOOM,
    ToolError,
    ViewZoomEnvironment,
    ZoomEnvironment,
    ZoomTool,
    answer_call,
)
from deepeyes_lite.training import RunConfig, build_trainer, check_or_write_config

CONTRAST = "image_contrast_tool"
Both = with_extra(ZoomTool, ContrastTool)


def contrast(**arguments):
    return {"name": CONTRAST, "arguments": arguments}


def noise(width, height):
    return Image.effect_noise((width, height), 20).convert("RGB")


@given(size=st.sampled_from(SIZES), arguments=st.dictionaries(st.text(max_size=6), ANYTHING))
def test_no_call_raises_and_no_image_exceeds_its_bounds(size, arguments):
    tool = Both(IMAGES[size])
    assert_sound(tool, answer_call(tool, {"name": CONTRAST, "arguments": arguments}))


@pytest.mark.parametrize("image", [1, -1, 10**30, True, 0.0, math.nan, "0", None, [0], {}])
def test_a_number_of_no_image_is_refused_in_words(image):
    tool = Both(IMAGES[384, 384])
    (part,) = answer_call(tool, contrast(image=image))
    assert part["text"] == "Error: image must be a whole number from 0 to 0"
    assert (tool.boxes_px, tool.refused) == ([], 1)


@pytest.mark.parametrize("name", ["_changed", "_open", "_cut", "reset", "__init__", "boxes_px", ""])
def test_only_public_methods_can_be_called(name):
    environment = with_extra(ZoomEnvironment, ContrastTool)()
    environment.reset(image=IMAGES[384, 384])
    text = answer_call(environment, {"name": name, "arguments": {}})
    assert text == str({"error": f"Tool {name} not found."})


def test_both_tools_share_the_bound_on_calls():
    tool = Both(IMAGES[384, 384])
    for number in range(MAX_CALLS):
        answer_call(tool, contrast()) if number % 2 else tool.image_zoom_in_tool([0, 0, 500, 500])
    (part,) = answer_call(tool, contrast())
    assert part["text"] == "Error: no calls left, the limit is 6; answer now"
    assert (len(tool.boxes_px), tool.refused) == (MAX_CALLS, 1)


def test_the_image_comes_back_stretched_and_a_zoom_into_it_is_cut_from_it():
    image = noise(400, 300)
    tool = Both(image)
    (part,) = answer_call(tool, contrast())
    assert part["image"].tobytes() == stretched(image).tobytes() != image.tobytes()
    assert tool.boxes_px == [(0, 0, 400, 300)]
    (part,) = tool.image_zoom_in_tool([500, 0, 1000, 500], image=1)
    assert part["image"].tobytes() == stretched(image).crop((200, 0, 400, 200)).tobytes()
    (part,) = tool.image_zoom_in_tool([500, 0, 1000, 500])
    assert part["image"].tobytes() == image.crop((200, 0, 400, 200)).tobytes()


def test_a_crop_is_stretched_by_its_own_tones_and_keeps_its_place():
    image = noise(800, 800)
    tool = Both(image)
    tool.image_zoom_in_tool([250, 500, 500, 750])  # 200 px wide, at (200, 400)
    (part,) = answer_call(tool, contrast(image=1))
    assert part["image"].tobytes() == stretched(image.crop((200, 400, 400, 600))).tobytes()
    (part,) = tool.image_zoom_in_tool([500, 0, 1000, 500], image=2)
    assert tool.boxes_px[1:] == [(200, 400, 400, 600), (300, 400, 400, 500)]
    whole = stretched(image.crop((200, 400, 400, 600)))
    assert part["image"].tobytes() == whole.crop((100, 0, 200, 100)).tobytes()


def test_a_large_image_is_changed_first_and_reduced_afterwards():
    image = noise(2500, 1500)
    tool = Both(image)
    (part,) = answer_call(tool, contrast())
    assert part["image"].size == (MAX_CROP_SIDE, 615)
    (part,) = tool.image_zoom_in_tool([0, 0, 200, 100], image=1)
    assert part["image"].tobytes() == stretched(image).crop((0, 0, 500, 500)).tobytes()


class Halves:
    """A tool that changes the size."""

    def image_halve_tool(self, image: int = 0) -> list:
        """Halve an image.

        Args:
            image: Which image.

        Returns:
            The image, half as wide and high.
        """
        return self._changed(image, lambda picture: picture.reduce(2))


def test_a_box_on_a_picture_of_another_size_means_the_same_place():
    image = noise(800, 600)
    tool = with_extra(ZoomTool, Halves)(image)
    tool.image_halve_tool()
    (part,) = tool.image_zoom_in_tool([250, 0, 500, 500], image=1)
    assert tool.boxes_px[1] == (200, 0, 400, 300)
    assert part["image"].size == (150, 150)  # a square around it, out of the halved picture


def test_blank_greys_the_second_tool_too():
    tool = Both(noise(384, 384))
    tool.blank = True
    (part,) = answer_call(tool, contrast())
    assert part["image"].getcolors() == [(384 * 384, (128, 128, 128))]


class Raises:
    def image_raise_tool(self, image: int = 0) -> list:
        return self._changed(image, self._fail)

    def _fail(self, picture):
        raise ToolError("not today")


def test_what_a_tool_refuses_goes_back_to_the_model():
    tool = with_extra(ZoomTool, Raises)(IMAGES[384, 384])
    (part,) = tool.image_raise_tool()
    assert part["text"] == "Error: not today" and tool.refused == 1


@pytest.mark.parametrize("extra", [ZoomTool, type("Empty", (), {}), type("R", (), {"reset": len})])
def test_a_class_without_a_tool_of_its_own_is_refused(extra):
    with pytest.raises(ValueError, match="a public method with a name of its own"):
        with_extra(ZoomTool, extra)


def test_the_schema_says_what_the_tool_does():
    function = get_json_schema(Both().image_contrast_tool)["function"]
    assert function["name"] == CONTRAST and "contrast" in function["description"]
    assert function["parameters"]["properties"]["image"]["type"] == "integer"
    assert "required" not in function["parameters"] or not function["parameters"]["required"]


def test_stretched_keeps_a_flat_image_and_other_modes():
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        assert stretched(Image.new(mode, (9, 9))).mode == "RGB"
    levels = np.asarray(ImageOps.grayscale(stretched(noise(64, 64))))
    assert (levels.min(), levels.max()) == (0, 255)


# --- through processor, policy, loop and trainer ------------------------------------------------


def both_of(folder):
    return offer(load(folder)[1], "contrast")


def test_an_unknown_tool_is_named(random_eyes):
    with pytest.raises(ValueError, match="unknown tool 'laser'; there are contrast"):
        offer(load(random_eyes)[1], "laser")


def test_every_family_gets_the_tool_in_its_frame(random_eyes):
    processor = both_of(random_eyes)
    kinds = tool_of(processor), tool_of(processor, (ZoomEnvironment, ViewZoomEnvironment))
    for kind in kinds:
        assert [name for name in dir(kind) if name.endswith("_tool")] == [CONTRAST, ZOOM]
    assert tool_of(load(random_eyes)[1]) is ZoomTool


def test_the_prompt_names_both_tools_the_zoom_first(random_eyes, samples):
    row = samples[0]
    plain, both = load(random_eyes)[1], both_of(random_eyes)
    texts = []
    for processor in (plain, both):
        ids = Policy(processor).prompt_ids(row["question"], row["image"])
        texts.append(processor.tokenizer.decode(ids).split("<|im_end|>")[0])
    assert texts[0] == f"<|im_start|>system\nTools: {ZOOM}."
    assert texts[1] == f"{texts[0]} {CONTRAST}."


CALL = "<think>I need to zoom in.</think>" + prompts.tool_call({}, CONTRAST)
ZOOM_IN = prompts.tool_call({"bbox_2d": [100, 200, 300, 400], "image": 1})
ANSWER = prompts.answer("I can read it.", "K")
SCRIPTS = {
    "contrast": [CALL, ANSWER],
    "contrast, then a zoom into it": [CALL, ZOOM_IN, ANSWER],
    "both in one turn": [CALL + ZOOM_IN, ANSWER],
    "no such image": [prompts.tool_call({"image": 7}, CONTRAST), ANSWER],
    "an argument that it has not": [prompts.tool_call({"level": 7}, CONTRAST), ANSWER],
}


@pytest.fixture(scope="module")
def trainer(random_eyes, tmp_path_factory):
    config = RunConfig(
        model=str(random_eyes),
        steps=1,
        prompts_per_step=1,
        num_generations=2,
        extra_tool="contrast",
    )
    return build_trainer(config, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_episode_as_trl(name, trainer, random_eyes, samples, monkeypatch):
    from test_rollout import trl_episode

    row = samples[0]
    ours_of = ScriptedPolicy(both_of(random_eyes), SCRIPTS[name])
    (ours,) = rollout([row], ours_of, progress=False)
    theirs = trl_episode(trainer, row, SCRIPTS[name], monkeypatch)
    assert ours.prompt_ids == theirs["prompt_ids"]
    assert ours.completion_ids == theirs["completion_ids"]
    assert ours.loss_mask == theirs["loss_mask"]
    assert len(ours.images) == theirs["images"]
    assert len(ours.turns) == len(SCRIPTS[name])


def test_the_registry_holds_tools_that_work():
    for extra in EXTRA_TOOLS.values():
        assert get_json_schema(getattr(extra(), next(n for n in dir(extra) if n[0] != "_")))


def test_a_run_from_before_there_were_extra_tools_goes_on(tmp_path):
    config = asdict(RunConfig())
    old = {name: value for name, value in config.items() if name != "extra_tool"}
    (tmp_path / "config.json").write_text(json.dumps(old), encoding="utf-8")
    check_or_write_config(tmp_path, config)
    for other in ({**config, "extra_tool": "contrast"}, {**config, "seed": 1}):
        with pytest.raises(ValueError, match="holds another run"):
            check_or_write_config(tmp_path, other)
