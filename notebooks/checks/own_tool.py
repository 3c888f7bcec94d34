"""Exercises of notebook 10: a tool's function, its class, the draw of a warm start, who called what."""

import math
import random
from collections import Counter
from functools import partial

import numpy as np
from PIL import Image
from transformers.utils import get_json_schema

from checks.exercise import Exercise
from deepeyes_lite.study.low_contrast import CONTRAST
from deepeyes_lite.tools import ZOOM, ToolError, ZoomTool, answer_call, tool_names

ROTATE = "image_rotate_tool"
TOOLS = ("none", ZOOM, CONTRAST)
# Four colours in the corners, wider than high: every turn looks different.
CORNERS = [[[255, 0, 0], [9, 9, 9], [0, 255, 0]], [[0, 0, 255], [9, 9, 9], [255, 255, 0]]]
PIXELS = np.array(CORNERS, np.uint8)


def turned(
    turn=lambda picture, degrees: picture.rotate(-degrees, expand=True),
    refuse=lambda degrees: type(degrees) is not int or degrees not in (90, 180, 270),
    message="degrees must be 90, 180 or 270",
):
    """The solution; each setting changes a part of it."""

    def attempt(picture, degrees):
        if refuse(degrees):
            raise ToolError(message)
        return turn(picture, degrees)

    return attempt


def tried(attempt, degrees):
    """How far the picture is turned, or what was raised."""
    picture = Image.fromarray(PIXELS)
    try:
        answer = attempt(picture, degrees)
    except ToolError as error:
        return "a ToolError" if str(error) else "an empty ToolError"
    if answer is None or answer is picture:
        return answer and "the same picture"
    if not isinstance(answer, Image.Image):
        raise TypeError(f"return the picture, an image, not a {type(answer).__name__}")
    for turns in range(4):
        if np.array_equal(answer.convert("RGB"), np.rot90(PIXELS, -turns)):
            return f"turned by {90 * turns}"
    return f"other pixels, {answer.width} x {answer.height}"


# Exercise 1. attempt(picture, degrees) -> the picture turned clockwise, or a ToolError.
rotate = Exercise(
    cases=[(degrees,) for degrees in (90, 180, 270, 45, 90.5, True, None, "90", math.nan, [90])],
    solution=turned(),
    mistakes={
        "return a new picture; the one that came in stays as it is": turned(lambda p, d: p),
        "that is counter-clockwise, which is how Pillow counts; turn the sign": (
            turned(lambda p, d: p.rotate(d, expand=True))
        ),
        "a picture of 3 x 2 px turned by 90 is 2 x 3 px, and yours kept its size: corners are cut off "
        "(expand=True)": turned(lambda p, d: p.rotate(-d)),
        "any number of degrees was accepted; allow 90, 180 and 270, refuse the rest": (
            turned(refuse=lambda d: type(d) not in (int, float) or d != d)
        ),
        "the ToolError is empty; it is all that the model will read": turned(message=""),
        "True counts as the number 1 in Python; refuse it": (
            turned(refuse=lambda d: d not in (True, 90, 180, 270))
        ),
    },
    praise="three quarter turns, and a message for everything else",
    hint="a model can write anything, so check first and raise a ToolError that says what is allowed",
    run=tried,
)


def classed(answer=lambda tool, image, turn: tool._changed(image, turn), **changes):
    """The solution with another ``answer``, or with ``changes`` of the method's attributes."""

    def attempt(rotate):
        class RotateTool(ZoomTool):
            def image_rotate_tool(self, degrees: int, image: int = 0) -> list:
                """Turn an image clockwise.

                Args:
                    degrees: 90, 180 or 270.
                    image: Which image: 0 is the original, 1 the first answer of a tool, and so on.
                """
                return answer(self, image, lambda picture: rotate(picture, degrees))

        for name, value in changes.items():
            setattr(RotateTool.image_rotate_tool, name, value)
        return RotateTool

    return attempt


def in_short(tool, call):
    """A tool's answer to a call in short: the size of an image, "words", or what else it is."""
    try:
        content = answer_call(tool, call)
    except TypeError:
        return "no list of blocks"
    return content[0]["image"].size if content[0]["type"] == "image" else "words"


def over_calls(attempt):
    """What the model may give to the tool of a class, and the answers to four calls."""
    kind = attempt(turned())
    if kind is None:
        return None
    if not isinstance(kind, type):
        raise TypeError(f"return the class itself, not a {type(kind).__name__}")
    if (names := [name for name in tool_names(kind) if name != ZOOM]) != [ROTATE]:
        raise ValueError(f"its public methods are {names}; it needs one, {ROTATE}")
    both = kind if issubclass(kind, ZoomTool) else type(kind.__name__, (kind, ZoomTool), {})
    tool = both(Image.fromarray(PIXELS.repeat(40, 0).repeat(40, 1)))
    schema = get_json_schema(getattr(tool, ROTATE))["function"]["parameters"]
    if (names := sorted(schema["properties"])) != ["degrees", "image"]:
        raise ValueError(f"the model may give {names}, not degrees and image")
    facts = {"required": schema.get("required")}
    for degrees, image in ((90, {}), (90, {"image": 1}), (7, {}), (90, {"image": 9})):
        call = {"name": ROTATE, "arguments": {"degrees": degrees, **image}}
        facts[str(call["arguments"])] = in_short(tool, call)
    return facts


# Exercise 2. attempt(the function of exercise 1) -> a class with the method image_rotate_tool.
tool = Exercise(
    cases=[()],
    solution=classed(),
    mistakes={
        "image has no default: with image: int = 0 a call without it is fine": (
            classed(__defaults__=None)
        ),
        "a tool answers with what self._changed(image, …) gives: a list of blocks": (
            classed(lambda tool, image, turn: turn(tool.image))
        ),
        "a call with 90 degrees does not bring back the turned picture": (
            classed(lambda tool, image, turn: tool._changed(image, lambda picture: picture))
        ),
        "image = 1 is the first answer: pass image on, do not take the original": (
            classed(lambda tool, image, turn: tool._changed(0, turn))
        ),
        "7 degrees and image 9 must come back as an error, in words": (
            classed(lambda tool, image, turn: tool._changed(min(image, 1), turn))
        ),
    },
    praise="a schema, a picture, and an error in words",
    hint="the schema is made of the types and of the docstring, with its Args",
    run=over_calls,
)

KINDS = ("plain", "small", "faint")


def over_scenes(attempt):
    """The tools that a tenth of 1,800 draws or more has, or what is wrong with the draw."""
    drawn, rng = {kind: Counter() for kind in KINDS}, random.Random(0)
    for i in range(600):
        for kind in KINDS:
            sample = {"id": f"{kind}-{i}", "kind": kind, "legible": int(kind == "plain")}
            sample |= {"question": "What letter is on the red circle?", "answer": "K"}
            drawn[kind][attempt(sample, rng)] += 1
    total = sum(drawn.values(), Counter())
    if len(total) == 1:
        return "always the same" if None not in total else None
    if any(abs(drawn[a][t] - drawn[b][t]) > 120 for a in KINDS for b in KINDS for t in total):
        return "by kind"
    return sorted(str(tool) for tool, n in total.items() if n >= 180)


# Exercise 3. attempt(sample, rng) -> "none" or the name of a tool, for an episode of the warm start.
draw = Exercise(
    cases=[()],
    solution=lambda sample, rng: rng.choice(TOOLS),
    mistakes={
        "always the same: what never varies, reward cannot choose from": lambda sample, rng: ZOOM,
        "the draw depends on the kind of question: then it is the teacher who chose the tool, and "
        "reward has nothing to find": lambda sample, rng: TOOLS[KINDS.index(sample["kind"])],
        "never none: the policy could not find out that plain scenes need no tool": (
            lambda sample, rng: rng.choice(TOOLS[1:])
        ),
        f"{CONTRAST} in less than a tenth: groups of eight would hardly ever see it": (
            lambda sample, rng: rng.choices(TOOLS, [10, 10, 1])[0]
        ),
    },
    praise="all three, whatever the scene",
    run=over_scenes,
)

# Step 1 is far from the end; step 3 has twice as many episodes as step 2.
EPISODES = [(1, "small", "none", 8), (1, "faint", "none", 8), (2, "small", "zoom", 2)]
EPISODES += [(2, "small", "none", 6), (2, "faint", "contrast", 8), (3, "small", "zoom", 16)]
EPISODES += [(3, "faint", "contrast", 12), (3, "faint", "none", 4)]
ROWS = [
    {"step": step, "kind": kind, "tool": tool, "episodes": n, "correct": n // 4}
    for step, kind, tool, n in EPISODES
]


def called(rows, last, field="episodes", of=lambda row: row["kind"]):
    """The solution; the settings change what is counted, and of what it is a share."""
    counts, totals, end = Counter(), Counter(), max(row["step"] for row in rows)
    for row in rows:
        if row["step"] > end - last:
            counts[row["kind"], row["tool"]] += row[field]
            totals[of(row)] += row["episodes"]
    return {key: n / totals[of({"kind": key[0]})] for key, n in counts.items()}


def mean_of_steps(rows, last):
    each = [called([row for row in rows if row["step"] == step], 1) for step in (2, 3)]
    return {key: sum(step.get(key, 0) for step in each) / 2 for key in each[0] | each[1]}


def above_zero(attempt, rows, last):
    shares = attempt(rows, last)
    if shares is None:
        return None
    return {tuple(key): float(share) for key, share in dict(shares).items() if share}


# Exercise 4. attempt(rows of tools.csv, a number of steps) -> {(kind, tool): share}, over the last steps.
shares = Exercise(
    cases=[(ROWS, 2)],
    solution=called,
    mistakes={
        "that is over all steps; take the last ones": lambda rows, last: called(rows, 3),
        "that is the last step alone": lambda rows, last: called(rows, 1),
        "divided by the episodes of all kinds; each kind has a total of its own": (
            partial(called, of=lambda row: "all")
        ),
        "that counts right answers; count episodes": partial(called, field="correct"),
        "a mean of the steps' shares: a step with twice the episodes counts twice, so add up first": (
            mean_of_steps
        ),
    },
    praise="each kind's shares add up to 1",
    hint="the keys are pairs such as ('small', 'zoom')",
    run=above_zero,
)
