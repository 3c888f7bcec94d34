"""Checks of notebook 03: the crop, the loss mask, one step of the loop."""

import numpy as np
from PIL import Image


def crop(attempt) -> None:
    """Notebook 03, exercise 1: the crop of a ``box_1000``, cut from the original.

    Args:
        attempt: takes ``scene`` (an image) and ``box_1000``, gives the crop.
    """
    print("[{}] {}".format(*_judge_crop(attempt)))


def mask(attempt) -> None:
    """Notebook 03, exercise 2: the loss mask of a completion.

    Args:
        attempt: takes ``ids`` (list), ``end`` (an id) and ``opening`` (list), gives 0 or 1 for each id.
    """
    print("[{}] {}".format(*_judge_mask(attempt)))


def step(attempt, processor) -> None:
    """Notebook 03, exercise 3: one step of the loop.

    Args:
        attempt: takes ``episode``, ``reply``, ``tool`` and ``policy``; gives whether it goes on.
        processor: the model's processor.
    """
    print("[{}] {}".format(*_judge_step(attempt, processor)))


def _judge_crop(attempt) -> tuple[str, str]:
    # Red and green count columns and rows, so that a crop shows where it was cut; blue is a
    # checkerboard, which does not survive the reduction to a view.
    y, x = np.mgrid[:200, :400]
    scene = Image.fromarray(np.stack([x // 2, y, 255 * ((x + y) % 2)], -1).astype(np.uint8))
    try:
        crop = attempt(scene.copy(), (250, 400, 500, 800))  # (100, 80, 200, 160) in pixels
    except Exception as error:
        return "not yet", f"{type(error).__name__}: {error}"
    if crop is None:
        return "todo", "my_crop returns nothing so far"
    if not isinstance(crop, Image.Image):
        return "not yet", f"return the crop, an image, not a {type(crop).__name__}"
    if min(crop.size) < 1:
        return "not yet", "the crop is empty: multiply the shares by the sides of the image"
    pixels = np.asarray(crop.convert("RGB")).astype(int)
    column, row, blue = 2 * pixels[0, 0, 0], pixels[0, 0, 1], pixels[..., 2]
    wrong_starts = {
        (160, 50): "x and y are swapped: a box is (x1, y1, x2, y2)",
        (100, 160): "y was scaled with the width; it belongs to the height",
        (50, 80): "x was scaled with the height; it belongs to the width",
        (24, 38): "these are pixels of the 96 x 96 view, but the crop comes from the original",
    }
    if ((blue > 8) & (blue < 247)).any():
        return "not yet", "the fine pattern is gone: cut from scene, the original, not a view"
    if crop.size == (250, 400):
        return "not yet", "0-1000 was taken for pixels: divide by 1000, times the side"
    if (column, row) in wrong_starts:
        return "not yet", wrong_starts[column, row]
    if (column, row) == (100, 80) and crop.size == (200, 160):
        return "not yet", "the last two numbers are a corner, not width and height"
    if (column, row) != (100, 80) or crop.size != (100, 80):
        cut = f"{crop.width} x {crop.height} px from ({column}, {row})"
        return "not yet", f"your crop is {cut}, expected 100 x 80 px from (100, 80)"
    return "ok", "the right place, cut from the original"


# Two calls in made-up ids: 2 ends a turn (an observation ends with one, too), 1 and 9 open the next
# reply, 8 is a crop's placeholder.
_ROLLOUT_SEEN = [5, 1, 7, 6, 8, 8, 8, 6, 2, 5, 1, 9]
_ROLLOUT_IDS = [11, 12, 13, 2, *_ROLLOUT_SEEN, 11, 14, 2, *_ROLLOUT_SEEN, 15, 16, 2]
_ROLLOUT_MASK = [1] * 4 + [0] * 12 + [1] * 3 + [0] * 12 + [1] * 3


def _judge_mask(attempt) -> tuple[str, str]:
    ids, right = _ROLLOUT_IDS, _ROLLOUT_MASK
    try:
        mask = attempt(list(ids), 2, [1, 9])
        if mask is None:
            return "todo", "my_mask returns nothing so far"
        mask = [int(value) for value in mask]
    except Exception as error:
        return "not yet", f"{type(error).__name__}: {error}"
    if mask == right:
        return "ok", "1 on what the model wrote, 0 on what it was shown"
    if len(mask) != len(ids):
        return "not yet", f"{len(mask)} values for {len(ids)} ids; every token needs its own"
    shown, reply = 4, 16  # first token of the first observation, of the second reply
    mistakes = [
        (mask == [1 - m for m in right], "upside down: 1 is for what the model wrote"),
        (all(mask), "all ones: the model would be trained to write its own crops"),
        (
            mask == [int(token != 8) for token in ids],
            "0 on the placeholders only; the model did not write the markup around them either",
        ),
        (
            not mask[shown - 1],
            "off by one where the observation begins: the end of turn is the model's own token; "
            "with mask 0 it never learns to stop",
        ),
        (
            mask[shown],
            "off by one where the observation begins: the token after the end of turn has mask 0",
        ),
        (not any(mask[shown:]), "later replies are the model's, too: mask 1"),
        (not mask[reply], "off by one where a reply begins: after the opening comes mask 1"),
        (
            mask[reply - 1],
            "a reply begins too early: an observation ends with an end of turn, too, so wait for "
            "the whole opening",
        ),
        (all(mask[reply:]), "the second observation has mask 1: start over after every reply"),
    ]
    for found, message in mistakes:
        if found:
            return "not yet", message
    i = next(i for i, pair in enumerate(zip(mask, right)) if pair[0] != pair[1])
    return "not yet", f"position {i} (id {ids[i]}) is {mask[i]}, expected {right[i]}"


def _judge_step(attempt, processor) -> tuple[str, str]:
    from deepeyes_lite import prompts
    from deepeyes_lite.policies import Policy, ScriptedPolicy
    from deepeyes_lite.rollout import rollout
    from deepeyes_lite.tools import ZoomTool
    from deepeyes_lite.trajectories import Trajectory

    call, outside = (prompts.tool_call({"bbox_2d": [v, v, v + 200, v + 100]}) for v in (100, 1200))
    answer = prompts.answer("I can read it.", "K")
    image = Image.new("RGB", (384, 384), (200, 200, 200))
    row = {"id": "check", "image": image, "question": "What letter is it?", "answer": "K"}
    policy = Policy(processor)
    scripts = {
        "one call": [call, answer],
        "a refused call": [outside, answer],
        "two calls": [call, call, answer],
    }
    for name, script in scripts.items():
        (right,) = rollout([row], ScriptedPolicy(processor, script), progress=False)
        episode = Trajectory({}, [image], policy.prompt_ids(row["question"], image))
        tool, went_on = ZoomTool(image), []
        for text in script:
            ids = processor.tokenizer(text + prompts.TURN_END, add_special_tokens=False)
            try:
                went_on.append(attempt(episode, ids["input_ids"], tool, policy))
            except Exception as error:
                return "not yet", f"{name}: {type(error).__name__}: {error}"
            if went_on == [None] and not episode.completion_ids:
                return "todo", "my_step returns nothing so far"
            if not went_on[-1]:
                break
        mistake = _step_mistake(episode, right, went_on, len(script))
        if mistake:
            return "not yet", f"{name}: {mistake}"
    return "ok", "the same ids, mask and images as the package's loop"


def _step_mistake(episode, right, went_on: list, turns: int) -> str | None:
    ids, mask = episode.completion_ids, episode.loss_mask
    first = right.loss_mask.index(0)  # length of the first reply
    if went_on[-1] is None:
        return "my_step returned None; return True after a call, False after an answer"
    if len(went_on) < turns:
        if right.called:
            return "it stopped after a call; return True, so that the model sees the crop"
        return "a refused call ended the episode; the error goes back as text, and it goes on"
    if len(mask) != len(ids):
        return f"{len(mask)} mask values for {len(ids)} ids; let both grow together"
    if ids[:first] != right.completion_ids[:first]:
        return "the observation stands before its call; append the reply first"
    if len(ids) == sum(right.loss_mask):
        return "the observation's ids are missing; the model would answer without its crop"
    if went_on[-1]:
        return "it went on after the answer; return False where there is no call"
    if len(episode.images) != len(right.images):
        expected = f"{len(episode.images)} images, expected {len(right.images)}"
        return f"{expected}; every crop goes into episode.images"
    if ids != right.completion_ids:
        return f"{len(ids)} ids, expected {len(right.completion_ids)}; is a piece there twice?"
    if all(mask):
        return "the observation has mask 1, but the model did not write it"
    if mask != right.loss_mask:
        return "the mask must be 1 on replies and 0 on observations"
    return None
