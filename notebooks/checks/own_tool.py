"""Checks of notebook 10: a tool's function, its class, the draw of a warm start, who called what."""

import math
import random
from collections import Counter

import numpy as np
from PIL import Image


def rotate(attempt) -> None:
    """Notebook 10, exercise 1: turn a picture, and refuse what is no quarter turn.

    Args:
        attempt: takes a picture and ``degrees``, gives the picture turned clockwise.
    """
    print("[{}] {}".format(*_judge_rotate(attempt)))


def tool(attempt) -> None:
    """Notebook 10, exercise 2: the class around the function.

    Args:
        attempt: takes the function of exercise 1, gives a class with the method ``image_rotate_tool``.
    """
    print("[{}] {}".format(*_judge_tool(attempt)))


def draw(attempt) -> None:
    """Notebook 10, exercise 3: the tool of an episode of the warm start.

    Args:
        attempt: takes a sample and a ``random.Random``, gives "none" or the name of a tool.
    """
    print("[{}] {}".format(*_judge_draw(attempt)))


def shares(attempt) -> None:
    """Notebook 10, exercise 4: which tool was called on which kind, over the last steps of a record.

    Args:
        attempt: takes rows of ``tools.csv`` and a number of steps, gives {(kind, tool): share}.
    """
    print("[{}] {}".format(*_judge_shares(attempt)))


# Four colours in the corners, wider than high: every turn looks different.
_PIXELS = np.array([[[255, 0, 0], [9, 9, 9], [0, 255, 0]], [[0, 0, 255], [9, 9, 9], [255, 255, 0]]])
_NO_TURNS = [45, 90.5, "90", None, True, math.nan, [90], 10**400]


def _judge_rotate(attempt) -> tuple[str, str]:
    from deepeyes_lite.tools import ToolError

    pixels = _PIXELS.astype(np.uint8)
    for degrees, turns in ((90, 1), (180, 2), (270, 3)):
        picture = Image.fromarray(pixels)
        try:
            found = attempt(picture, degrees)
        except Exception as error:
            return "not yet", f"degrees = {degrees}: {type(error).__name__}: {error}"
        if found is None:
            if degrees == 90:
                return "todo", f"{attempt.__name__} returns nothing so far"
            return "not yet", f"degrees = {degrees}: it returns nothing"
        if not isinstance(found, Image.Image):
            return "not yet", f"return the picture, an image, not a {type(found).__name__}"
        if found is picture:
            return "not yet", "return a new picture; the one that came in stays as it is"
        got, wanted = np.asarray(found.convert("RGB")), np.rot90(pixels, -turns)
        if got.shape == wanted.shape and (got == wanted).all():
            continue
        if got.shape == wanted.shape and (got == np.rot90(pixels, turns)).all():
            return "not yet", "that is counter-clockwise, which is how Pillow counts; turn the sign"
        if got.shape[:2] == pixels.shape[:2] and turns != 2:
            return (
                "not yet",
                f"a picture of 3 x 2 px turned by {degrees} is 2 x 3 px, and yours kept its size: "
                "corners are cut off (expand=True)",
            )
        return "not yet", f"degrees = {degrees}: the pixels are not where they should be"
    for degrees in _NO_TURNS:
        told = str(degrees)[:20]
        try:
            attempt(Image.fromarray(pixels), degrees)
        except ToolError as error:
            if not str(error):
                return "not yet", "the ToolError is empty; it is all that the model will read"
            continue
        except Exception as error:
            return (
                "not yet",
                f"degrees = {told} ends in {type(error).__name__}; a model can write anything, so "
                "check first and raise a ToolError that says what is allowed",
            )
        if degrees is True:
            return "not yet", "True counts as the number 1 in Python; refuse it"
        return "not yet", f"degrees = {told} was accepted; allow 90, 180 and 270, refuse the rest"
    return "ok", "three quarter turns, and a message for everything else"


def _judge_tool(attempt) -> tuple[str, str]:
    from deepeyes_lite.study.extra_tools import with_extra
    from transformers.utils import get_json_schema

    from deepeyes_lite.tools import ToolError, ZoomTool, answer_call, tool_names

    def turn(picture, degrees):
        if type(degrees) is not int or degrees not in (90, 180, 270):
            raise ToolError("degrees must be 90, 180 or 270")
        return picture.rotate(-degrees, expand=True)

    name = "image_rotate_tool"
    try:
        kind = attempt(turn)
        if kind is None:
            return "todo", f"{attempt.__name__} returns nothing so far"
        if not isinstance(kind, type):
            return "not yet", f"return the class itself, not a {type(kind).__name__}"
        if issubclass(kind, ZoomTool):
            return "not yet", "the class stands beside ZoomTool, not under it: no base class"
        if tool_names(kind) != [name]:
            return "not yet", f"its public methods are {tool_names(kind)}; it needs one, {name}"
        both = with_extra(ZoomTool, kind)
        schema = get_json_schema(getattr(both(), name))["function"]["parameters"]
    except Exception as error:
        return "not yet", f"the schema cannot be made: {type(error).__name__}: {error}"
    if set(schema["properties"]) != {"degrees", "image"}:
        return (
            "not yet",
            f"the model may give {sorted(schema['properties'])}, not degrees and image",
        )
    if schema.get("required") != ["degrees"]:
        return "not yet", "image has no default: with image: int = 0 a call without it is fine"
    pixels = _PIXELS.repeat(40, 0).repeat(40, 1).astype(np.uint8)
    bound = both(Image.fromarray(pixels))
    calls = [
        {"name": name, "arguments": {"degrees": 90}},
        {"name": name, "arguments": {"degrees": 90, "image": 1}},
        {"name": name, "arguments": {"degrees": 7}},
        {"name": name, "arguments": {"degrees": 90, "image": 9}},
    ]
    found = [answer_call(bound, call) for call in calls]
    for call, content in zip(calls, found):
        if isinstance(content, str):
            return "not yet", f"{call['arguments']} ends in {content[:150]}"
        if not isinstance(content, list) or not isinstance(content[0], dict):
            return (
                "not yet",
                "a tool answers with what self._changed(image, …) gives: a list of blocks",
            )
    first, second, seven, ninth = (content[0] for content in found)
    if first["type"] != "image" or first["image"].size != (80, 120):
        return "not yet", "a call with 90 degrees does not bring back the turned picture"
    if second["type"] != "image" or second["image"].size != (120, 80):
        return "not yet", "image = 1 is the first answer: pass image on, do not take the original"
    if seven["type"] != "text" or ninth["type"] != "text" or len(bound.boxes_px) != 2:
        return "not yet", "7 degrees and image 9 must come back as an error, in words"
    return "ok", "a schema, a picture, and an error in words"


_KINDS = ("plain", "small", "faint")


def _judge_draw(attempt) -> tuple[str, str]:
    from deepeyes_lite.study.low_contrast import CONTRAST
    from deepeyes_lite.tools import ZOOM

    known, drawn = ("none", ZOOM, CONTRAST), {kind: Counter() for kind in _KINDS}
    rng = random.Random(0)
    for i in range(600):
        for kind in _KINDS:
            sample = {"id": f"{kind}-{i}", "kind": kind, "legible": int(kind == "plain")}
            sample |= {"question": "What letter is on the red circle?", "answer": "K"}
            try:
                found = attempt(sample, rng)
            except Exception as error:
                return "not yet", f"{type(error).__name__}: {error}"
            if found is None:
                return "todo", f"{attempt.__name__} returns nothing so far"
            if found not in known:
                return "not yet", f"{found!r} is none of {', '.join(known)}"
            drawn[kind][found] += 1
    total = sum(drawn.values(), Counter())
    if len(total) == 1:
        return (
            "not yet",
            f"always {next(iter(total))}: what never varies, reward cannot choose from",
        )
    widest = max(abs(drawn[a][t] - drawn[b][t]) for a in _KINDS for b in _KINDS for t in known)
    if widest > 120:
        return (
            "not yet",
            "the draw depends on the kind of question: then it is the teacher who chose the tool, and "
            "reward has nothing to find",
        )
    if not total["none"]:
        return "not yet", "never none: the policy could not find out that plain scenes need no tool"
    if min(total[tool] for tool in known) < 0.1 * sum(total.values()):
        rare = min(known, key=total.get)
        return "not yet", f"{rare} in less than a tenth: groups of eight would hardly ever see it"
    return "ok", "all three, whatever the scene"


# Step 1 is far from the end; step 3 has twice as many episodes as step 2.
_ROWS = [
    {"step": step, "kind": kind, "tool": tool, "episodes": n, "correct": n // 4}
    for step, kind, tool, n in [
        (1, "small", "none", 8),
        (1, "faint", "none", 8),
        (2, "small", "zoom", 2),
        (2, "small", "none", 6),
        (2, "faint", "contrast", 8),
        (3, "small", "zoom", 16),
        (3, "faint", "contrast", 12),
        (3, "faint", "none", 4),
    ]
]


def _judge_shares(attempt) -> tuple[str, str]:
    def table(last, per_kind=True, field="episodes"):
        some = [row for row in _ROWS if row["step"] > 3 - last]
        found, totals = Counter(), Counter()
        for row in some:
            found[row["kind"], row["tool"]] += row[field]
            totals[row["kind"] if per_kind else ""] += row["episodes"]
        return {key: n / totals[key[0] if per_kind else ""] for key, n in found.items()}

    right = table(2)
    mistakes = {
        "that is over all steps; take the last ones": table(3),
        "that is the last step alone": table(1),
        "divided by the episodes of all kinds; each kind has a total of its own": table(2, False),
        "that counts right answers; count episodes": table(2, field="correct"),
        "a mean of the steps' shares: a step with twice the episodes counts twice, so add up first": {
            ("small", "zoom"): 0.625,
            ("small", "none"): 0.375,
            ("faint", "contrast"): 0.875,
            ("faint", "none"): 0.125,
        },
    }
    try:
        found = attempt([dict(row) for row in _ROWS], 2)
        if found is None:
            return "todo", f"{attempt.__name__} returns nothing so far"
        found = {tuple(key): float(value) for key, value in dict(found).items()}
    except Exception as error:
        return "not yet", f"{type(error).__name__}: {error}"
    for message, numbers in {"": right, **mistakes}.items():
        named = {key: value for key, value in found.items() if value}
        numbers = {key: value for key, value in numbers.items() if value}
        if named.keys() == numbers.keys() and all(
            math.isclose(named[key], numbers[key], abs_tol=1e-6) for key in numbers
        ):
            return ("not yet", message) if message else ("ok", "each kind's shares add up to 1")
    if found.keys() != right.keys():
        return (
            "not yet",
            f"the keys are {sorted(found)[:3]} …, expected pairs such as {next(iter(right))}",
        )
    key = next(key for key in right if not math.isclose(found[key], right[key], abs_tol=1e-6))
    return "not yet", f"{key} is {found[key]:.3f}, expected {right[key]:.3f}"
