"""Exercises of notebook 09: a box between frames, the room for an episode, the memory of a run."""

from checks.exercise import Exercise
from deepeyes_lite.boxes import rescale


def by(kx, ky):
    """A box whose x and y are multiplied by what these give for view and size."""
    return lambda box, view, size: rescale(box, (1, 1), (kx(*view, *size), ky(*view, *size)))


def wide(view_w, view_h, w, h):
    return w / view_w


def high(view_w, view_h, w, h):
    return h / view_h


def cornered(*case):
    x1, y1, x2, y2 = rescale(*case)
    return x1, y1, x2 - x1, y2 - y1


ONE = (
    "one factor for both directions: sides of the view are rounded to whole tokens, each by itself"
)

# Exercise 1. attempt(box_view, view, size) -> box_px; view and size are (width, height).
frame = Exercise(
    cases=[
        ((100, 50, 300, 200), (336, 112), (1001, 333)),
        ((12, 70, 64, 190), (84, 504), (97, 640)),
        ((400, 300, 500, 410), (952, 476), (2999, 1501)),
    ],
    solution=rescale,
    mistakes={
        "these are pixels of the view still: DeepEyes issue 141": lambda b, v, s: b,
        "the ratio is turned round: a crop of the original needs larger numbers": (
            lambda b, v, s: rescale(b, s, v)
        ),
        ONE: by(wide, wide),
        ONE + " (yours is the height's)": by(high, high),
        "width and height are mixed up: x goes with the width, y with the height": by(high, wide),
        "0 to 1000 is the frame of Qwen3-VL; this box is in pixels of the view": (
            lambda b, v, s: rescale(b, (1000, 1000), s)
        ),
        "give two corners, (x1, y1, x2, y2), not a corner and the sides": cornered,
    },
    praise="the box lies on the same pixels, at any size and shape",
    hint="give four numbers; view and size are (width, height)",
)

# Exercise 2. attempt(calls, turn, crop, around) -> max_completion_length, in tokens as the other three.
room = Exercise(
    cases=[(2, 160, 192, 80), (3, 256, 576, 80), (6, 384, 1024, 80), (0, 512, 576, 80)],
    solution=lambda n, t, c, m: (n + 1) * t + n * (c + m),
    mistakes={
        "the answer is a turn, too: one turn more than calls": lambda n, t, c, m: n * (t + c + m),
        "after the answer comes no crop: as many crops as calls": (
            lambda n, t, c, m: (n + 1) * (t + c + m)
        ),
        "crops count in max_completion_length": lambda n, t, c, m: (n + 1) * t,
        "the markup around a crop takes tokens, too": lambda n, t, c, m: (n + 1) * t + n * c,
        "the markup comes with every crop": lambda n, t, c, m: (n + 1) * t + n * c + m,
        "one crop for every call, not one for all": lambda n, t, c, m: (n + 1) * t + c + m,
        "every call is a turn of its own": lambda n, t, c, m: t + n * (c + m),
    },
    praise="every turn and every crop has room; the preset 24GB needs 2,992 tokens",
    hint="give one number",
)

SMALL = {"layers": 36, "heads": 16, "kv_heads": 2, "head_dim": 128}
LARGE = {"layers": 28, "heads": 28, "kv_heads": 4, "head_dim": 128}


def gb(weight=2, number=2, both=2, heads="kv_heads", giga=1e9, **known):
    """The solution; each setting changes a factor, ``known`` one of layers, tokens and rollouts."""

    def attempt(parameters, shape, tokens, rollouts):
        counts = {"layers": shape["layers"], "tokens": tokens, "rollouts": rollouts, **known}
        numbers = both * counts["layers"] * shape[heads] * shape["head_dim"]
        cache = number * numbers * counts["tokens"] * counts["rollouts"]
        return weight * parameters / giga, cache / giga

    return attempt


# Exercise 3. attempt(parameters, shape, tokens of an episode, rollouts) -> (weights, cache) in GB, in bf16.
memory = Exercise(
    cases=[(3.75e9, SMALL, 4068, 32), (8.29e9, LARGE, 10_836, 64)],
    solution=gb(),
    mistakes={
        "a factor of 2 is missing: keys and values are two, and each takes 2 bytes": gb(both=1),
        "4 bytes are fp32; bf16 takes 2": gb(weight=4, number=4),
        "a weight takes 2 bytes in bf16": gb(weight=1),
        "only kv_heads heads have keys and values; the others share them": gb(heads="heads"),
        "these are GiB, 2**30 bytes; GB are 1e9": gb(giga=2**30),
        "these are bytes: divide by 1e9": gb(giga=1),
        "the rollouts of a step are generated side by side: each has its cache": gb(rollouts=1),
        "every token has its keys and values": gb(tokens=1),
        "every layer has its keys and values": gb(layers=1),
        "weights first, then the cache": lambda *case: gb()(*case)[::-1],
    },
    praise="3B at 24 GB: 7.5 GB of weights, and 4.8 GB of cache for 32 rollouts",
    hint="give (weights, cache), two numbers in GB",
)
