"""Checks of notebook 09: a box between frames, the room for an episode, the memory of a run."""

import torch

from checks import agrees, over


def frame(attempt) -> None:
    """Notebook 09, exercise 1: a box of the view in pixels of the original.

    Args:
        attempt: takes ``box_view``, the view's (width, height) and the original's, gives ``box_px``.
    """
    cases = [
        ((100, 50, 300, 200), (336, 112), (1001, 333)),
        ((12, 70, 64, 190), (84, 504), (97, 640)),
        ((400, 300, 500, 410), (952, 476), (2999, 1501)),
    ]

    def table(rule):
        return torch.tensor([rule(*case) for case in cases], dtype=torch.float32)

    def scaled(box, kx, ky):
        return [box[0] * kx, box[1] * ky, box[2] * kx, box[3] * ky]

    def right(box, view, size):
        return scaled(box, size[0] / view[0], size[1] / view[1])

    def cornered(box, view, size):
        x1, y1, x2, y2 = right(box, view, size)
        return [x1, y1, x2 - x1, y2 - y1]

    one = "one factor for both directions: sides of the view are rounded to whole tokens, each by itself"
    mistakes = {
        "these are pixels of the view still: DeepEyes issue 141": table(lambda b, v, s: list(b)),
        "the ratio is turned round: a crop of the original needs larger numbers": table(
            lambda b, v, s: scaled(b, v[0] / s[0], v[1] / s[1])
        ),
        one: table(lambda b, v, s: scaled(b, s[0] / v[0], s[0] / v[0])),
        one + " (yours is the height's)": table(
            lambda b, v, s: scaled(b, s[1] / v[1], s[1] / v[1])
        ),
        "width and height are mixed up: x goes with the width, y with the height": table(
            lambda b, v, s: scaled(b, s[1] / v[1], s[0] / v[0])
        ),
        "0 to 1000 is the frame of Qwen3-VL; this box is in pixels of the view": table(
            lambda b, v, s: scaled(b, s[0] / 1000, s[1] / 1000)
        ),
        "give two corners, (x1, y1, x2, y2), not a corner and the sides": table(cornered),
    }
    hint = "give four numbers; view and size are (width, height)"
    if agrees(over(attempt, cases), (), table(right), mistakes, hint) is not None:
        print("[ok] the box lies on the same pixels, at any size and shape")


def room(attempt) -> None:
    """Notebook 09, exercise 2: tokens after the prompt that an episode may take.

    Args:
        attempt: takes ``calls``, and tokens of a ``turn``, of a ``crop`` and of the markup ``around`` it;
            gives ``max_completion_length``.
    """
    cases = [(2, 160, 192, 80), (3, 256, 576, 80), (6, 384, 1024, 80), (0, 512, 576, 80)]

    def table(rule):
        return torch.tensor([rule(*case) for case in cases], dtype=torch.float32)

    mistakes = {
        "the answer is a turn, too: one turn more than calls": table(
            lambda n, turn, crop, around: n * (turn + crop + around)
        ),
        "after the answer comes no crop: as many crops as calls": table(
            lambda n, turn, crop, around: (n + 1) * (turn + crop + around)
        ),
        "crops count in max_completion_length": table(lambda n, turn, crop, around: (n + 1) * turn),
        "the markup around a crop takes tokens, too": table(
            lambda n, turn, crop, around: (n + 1) * turn + n * crop
        ),
        "the markup comes with every crop": table(
            lambda n, turn, crop, around: (n + 1) * turn + n * crop + around
        ),
        "one crop for every call, not one for all": table(
            lambda n, turn, crop, around: (n + 1) * turn + crop + around
        ),
        "every call is a turn of its own": table(
            lambda n, turn, crop, around: turn + n * (crop + around)
        ),
    }

    def right(n, turn, crop, around):
        return (n + 1) * turn + n * (crop + around)

    hint = "give one number"
    if agrees(over(attempt, cases), (), table(right), mistakes, hint) is not None:
        print("[ok] every turn and every crop has room; the preset 24GB needs 2,992 tokens")


def memory(attempt) -> None:
    """Notebook 09, exercise 3: gigabytes of weights and cache.

    Args:
        attempt: takes ``parameters``, a ``shape`` (a dict with layers, heads, kv_heads and head_dim),
            ``tokens`` of an episode and ``rollouts``; gives (weights, cache) in GB, both in bf16.
    """
    small = {"layers": 36, "heads": 16, "kv_heads": 2, "head_dim": 128}
    large = {"layers": 28, "heads": 28, "kv_heads": 4, "head_dim": 128}
    cases = [(3.75e9, small, 4068, 32), (8.29e9, large, 10_836, 64)]

    def gb(p, s, tokens, n, weight=2, number=2, both=2, heads="kv_heads", giga=1e9):
        cache = both * s["layers"] * s[heads] * s["head_dim"] * number * tokens * n
        return [weight * p / giga, cache / giga]

    def table(**changes):
        rows = [gb(*case, **changes) for case in cases]
        return torch.tensor(rows, dtype=torch.float32)

    def each(rule):
        return torch.tensor([rule(*case) for case in cases], dtype=torch.float32)

    mistakes = {
        "a factor of 2 is missing: keys and values are two, and each takes 2 bytes": table(both=1),
        "4 bytes are fp32; bf16 takes 2": table(weight=4, number=4),
        "a weight takes 2 bytes in bf16": table(weight=1),
        "only kv_heads heads have keys and values; the others share them": table(heads="heads"),
        "these are GiB, 2**30 bytes; GB are 1e9": table(giga=2**30),
        "these are bytes: divide by 1e9": table(giga=1.0),
        "the rollouts of a step are generated side by side: each has its cache": each(
            lambda p, s, tokens, n: gb(p, s, tokens, 1)
        ),
        "every token has its keys and values": each(lambda p, s, tokens, n: gb(p, s, 1, n)),
        "every layer has its keys and values": each(
            lambda p, s, tokens, n: gb(p, {**s, "layers": 1}, tokens, n)
        ),
        "weights first, then the cache": table().flip(1),
    }
    hint = "give (weights, cache), two numbers in GB"
    if agrees(over(attempt, cases), (), table(), mistakes, hint) is not None:
        print("[ok] 3B at 24 GB: 7.5 GB of weights, and 4.8 GB of cache for 32 rollouts")
