"""Exercises of notebook 03: the crop, the loss mask, one step of the loop."""

from functools import partial

import numpy as np
from PIL import Image

from checks.exercise import Exercise
from deepeyes_lite import prompts
from deepeyes_lite.policies import Policy
from deepeyes_lite.tools import ZoomTool, answer_call, images_and_texts
from deepeyes_lite.trajectories import Trajectory

# Red and green count columns and rows, so that a crop shows where it was cut; blue is a checkerboard,
# which does not survive the reduction to a view.
Y, X = np.mgrid[:200, :400]
SCENE = Image.fromarray(np.stack([X // 2, Y, 255 * ((X + Y) % 2)], -1).astype(np.uint8))


def cut(scene, box, across=400, down=200):
    """The crop of a box whose x and y are thousandths of ``across`` and ``down``."""
    x1, y1, x2, y2 = box
    box_px = (x1 * across, y1 * down, x2 * across, y2 * down)
    return scene.crop(tuple(round(v / 1000) for v in box_px))


def place(attempt, scene, box_1000) -> dict | None:
    """Where a crop was cut, in pixels of the original."""
    crop = attempt(scene, box_1000)
    if crop is None:
        return None
    if not isinstance(crop, Image.Image):
        raise TypeError(f"return the crop, an image, not a {type(crop).__name__}")
    if min(crop.size) < 1:
        raise ValueError("the crop is empty: multiply the shares by the sides of the image")
    pixels = np.asarray(crop.convert("RGB")).astype(int)
    sharp = np.isin(pixels[..., 2], [*range(9), *range(247, 256)]).all()
    return {"from": (2 * pixels[0, 0, 0], pixels[0, 0, 1]), "size": crop.size, "sharp": sharp}


def other_place(values: list) -> str:
    if not values[0]["sharp"]:
        return "the fine pattern is gone: cut from scene, the original, not a view"
    (x, y), (width, height) = values[0]["from"], values[0]["size"]
    cut = f"{width:.0f} x {height:.0f} px from ({x:.0f}, {y:.0f})"
    return f"your crop is {cut}, expected 100 x 80 px from (100, 80)"


# Exercise 1. attempt(scene, box_1000) -> the crop, an image, cut from the original.
crop = Exercise(
    cases=[(SCENE, (250, 400, 500, 800))],  # (100, 80, 200, 160) in pixels
    solution=cut,
    mistakes={
        "x and y are swapped: a box is (x1, y1, x2, y2)": lambda scene, box: cut(
            scene, (box[1], box[0], box[3], box[2])
        ),
        "y was scaled with the width; it belongs to the height": partial(cut, down=400),
        "x was scaled with the height; it belongs to the width": partial(cut, across=200),
        "these are pixels of the 96 x 96 view, but the crop comes from the original": partial(
            cut, across=96, down=96
        ),
        "0-1000 was taken for pixels: divide by 1000, times the side": partial(
            cut, across=1000, down=1000
        ),
        "the last two numbers are a corner, not width and height": lambda scene, box: cut(
            scene, (*box[:2], box[0] + box[2], box[1] + box[3])
        ),
    },
    praise="the right place, cut from the original",
    run=place,
    explain=other_place,
)

# Two calls in made-up ids: 2 ends a turn (an observation ends with one, too), 1 and 9 open the next
# reply, 8 is a crop's placeholder.
SEEN = [5, 1, 7, 6, 8, 8, 8, 6, 2, 5, 1, 9]
IDS = [11, 12, 13, 2, *SEEN, 11, 14, 2, *SEEN, 15, 16, 2]
MASK = [1] * 4 + [0] * 12 + [1] * 3 + [0] * 12 + [1] * 3


def changed(change):
    """The mask with a change: ``change`` gets value, left and right neighbour, and the id."""
    rows = list(zip(MASK, [1, *MASK], [*MASK[1:], 1], IDS))
    return lambda ids, end, opening: [int(change(*row)) for row in rows]


def wrong_position(values: list) -> str | None:
    for i, (value, right) in enumerate(zip(values[0], MASK)):
        if len(values[0]) == len(MASK) and value != right:
            return f"position {i} (id {IDS[i]}) is {value}, expected {right}"
    return None


# Exercise 2. attempt(ids, end, opening) -> the loss mask of a completion, 0 or 1 for each id.
mask = Exercise(
    cases=[(IDS, 2, [1, 9])],
    solution=lambda ids, end, opening: MASK,
    mistakes={
        "upside down: 1 is for what the model wrote": changed(lambda m, left, right, i: not m),
        "all ones: the model would be trained to write its own crops": changed(
            lambda m, left, right, i: 1
        ),
        "0 on the placeholders only; the model did not write the markup around them either": changed(
            lambda m, left, right, i: i != 8
        ),
        "off by one where the observation begins: the end of turn is the model's own token; with mask "
        "0 it never learns to stop": changed(lambda m, left, right, i: m and i != 2),
        "off by one where the observation begins: the token after the end of turn has mask 0": changed(
            lambda m, left, right, i: m or left
        ),
        "later replies are the model's, too: mask 1": lambda ids, end, opening: (
            MASK[:16] + [0] * 18
        ),
        "off by one where a reply begins: after the opening comes mask 1": changed(
            lambda m, left, right, i: m and left
        ),
        "a reply begins too early: an observation ends with an end of turn, too, so wait for the whole "
        "opening": changed(lambda m, left, right, i: m or right),
        "the second observation has mask 1: start over after every reply": (
            lambda ids, end, opening: MASK[:16] + [1] * 18
        ),
    },
    praise="1 on what the model wrote, 0 on what it was shown",
    hint="every id needs a value of its own, 0 or 1",
    explain=wrong_position,
)

CALL, OUTSIDE = (prompts.tool_call({"bbox_2d": [v, v, v + 200, v + 100]}) for v in (100, 1200))
REPLY = prompts.answer("I can read it.", "K")
SCRIPTS = {
    "one call": [CALL, REPLY],
    "a refused call": [OUTSIDE, REPLY],
    "two calls": [CALL, CALL, REPLY],
}


def play(attempt, name, processor) -> dict | None:
    """The episode that an attempt makes of a script's replies."""
    image, policy = Image.new("RGB", (384, 384), (200, 200, 200)), Policy(processor)
    episode = Trajectory({}, [image], policy.prompt_ids("What letter is it?", image))
    tool, went_on = ZoomTool(image), []
    for text in SCRIPTS[name]:
        ids = processor.tokenizer(text + prompts.TURN_END, add_special_tokens=False)["input_ids"]
        went_on.append(attempt(episode, ids, tool, policy))
        if not went_on[-1]:
            break
    if went_on == [None] and not episode.completion_ids:
        return None
    ids, mask = episode.completion_ids, episode.loss_mask
    return {"goes on": went_on, "images": len(episode.images), "mask": mask, "ids": ids}


def one_step(episode, reply, tool, policy, **wrong):
    """The solution of exercise 3; ``wrong`` turns a part of it off or round."""
    calls, parts = policy.calls(episode, reply), [(reply, wrong.get("reply_mask", 1))]
    goes_on = wrong.get("after_call", True) if calls else wrong.get("after_answer", False)
    if calls:
        contents = [answer_call(tool, call) for call in calls]
        images, errors = images_and_texts(contents)
        if errors and wrong.get("refused"):
            goes_on = False
        elif wrong.get("seen", True):
            parts.append((policy.observation_ids(contents), wrong.get("seen_mask", 0)))
        episode.images += images[: wrong.get("crops")]
    for ids, mask in parts[:: wrong.get("order", 1)] * wrong.get("times", 1):
        episode.completion_ids += ids
        episode.loss_mask += [mask] * (len(ids) - wrong.get("short", 0))
    return goes_on


def nothing_returned(values: list) -> str | None:
    if any(None in value["goes on"] for value in values if value):
        return "my_step returned None; return True after a call, False after an answer"
    return None


# Exercise 3. attempt(episode, reply, tool, policy) -> does the episode, which grows, go on?
step = Exercise(
    cases=[(name,) for name in SCRIPTS],
    solution=one_step,
    mistakes={
        "it stopped after a call; return True, so that the model sees the crop": partial(
            one_step, after_call=False
        ),
        "a refused call ended the episode; the error goes back as text, and it goes on": partial(
            one_step, refused=True
        ),
        "the mask is shorter than the ids; let both grow together": partial(one_step, short=1),
        "the observation stands before its call; append the reply first": partial(
            one_step, order=-1
        ),
        "the observation's ids are missing; the model would answer without its crop": partial(
            one_step, seen=False
        ),
        "it went on after the answer; return False where there is no call": partial(
            one_step, after_answer=True
        ),
        "a crop is missing; every crop goes into episode.images": partial(one_step, crops=0),
        "there are more ids than there should be; is a piece there twice?": partial(
            one_step, times=2
        ),
        "the observation has mask 1, but the model did not write it": partial(
            one_step, seen_mask=1
        ),
        "the mask must be 1 on replies and 0 on observations": partial(one_step, reply_mask=0),
    },
    praise="the same ids, mask and images as the package's loop",
    run=play,
    explain=nothing_returned,
)
