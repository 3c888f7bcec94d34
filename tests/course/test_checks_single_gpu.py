"""The checks of notebook 09: each typical mistake is named."""

import pytest

from checks import single_gpu as checks
from deepeyes_lite.boxes import rescale

CHECKS = {"my_box": checks.frame, "my_room": checks.room, "my_memory": checks.memory}


def boxed(kx=lambda v, s: s[0] / v[0], ky=lambda v, s: s[1] / v[1], sides=False):
    """An attempt at exercise 1; the defaults are right."""

    def attempt(box, view, size):
        x, y = kx(view, size), ky(view, size)
        x1, y1, x2, y2 = box[0] * x, box[1] * y, box[2] * x, box[3] * y
        return (x1, y1, x2 - x1, y2 - y1) if sides else (x1, y1, x2, y2)

    return attempt


def across(v, s):
    return s[0] / v[0]


def down(v, s):
    return s[1] / v[1]


def room(turns=lambda n: n + 1, crops=lambda n: n, markups=lambda n: n):
    """An attempt at exercise 2; the defaults are right."""
    return lambda n, turn, crop, around: turns(n) * turn + crops(n) * crop + markups(n) * around


def memory(
    weight=2.0,
    number=2.0,
    both=2,
    heads="kv_heads",
    giga=1e9,
    turned=False,
    without=(),
):
    """An attempt at exercise 3; the defaults are right."""

    def attempt(parameters, shape, tokens, rollouts):
        parts = {"layers": shape["layers"], "tokens": tokens, "rollouts": rollouts}
        cache = both * number * shape[heads] * shape["head_dim"]
        for name, value in parts.items():
            cache *= 1 if name in without else value
        found = weight * parameters / giga, cache / giga
        return found[::-1] if turned else found

    return attempt


MISTAKES = [
    ("my_box", lambda box, view, size: box, "issue 141"),
    ("my_box", boxed(lambda v, s: v[0] / s[0], lambda v, s: v[1] / s[1]), "turned round"),
    ("my_box", boxed(ky=across), "one factor for both directions"),
    ("my_box", boxed(kx=down), "yours is the height's"),
    ("my_box", boxed(kx=down, ky=across), "mixed up"),
    ("my_box", boxed(lambda v, s: s[0] / 1000, lambda v, s: s[1] / 1000), "frame of Qwen3-VL"),
    ("my_box", boxed(sides=True), "not a corner and the sides"),
    ("my_box", lambda box, view, size: boxed()(box, view, size)[:2], "the shape is (3, 2)"),
    ("my_box", lambda box, view, size: size / view, "TypeError"),
    ("my_room", room(turns=lambda n: n), "one turn more than calls"),
    ("my_room", room(crops=lambda n: n + 1, markups=lambda n: n + 1), "after the answer"),
    ("my_room", room(crops=lambda n: 0, markups=lambda n: 0), "crops count in"),
    ("my_room", room(markups=lambda n: 0), "takes tokens, too"),
    ("my_room", room(markups=lambda n: 1), "comes with every crop"),
    ("my_room", room(crops=lambda n: 1, markups=lambda n: 1), "not one for all"),
    ("my_room", room(turns=lambda n: 1), "a turn of its own"),
    ("my_room", lambda n, turn, crop, around: [turn, crop], "the shape is (4, 2)"),
    ("my_memory", memory(both=1), "a factor of 2 is missing"),
    ("my_memory", memory(number=1), "a factor of 2 is missing"),
    ("my_memory", memory(weight=4, number=4), "4 bytes are fp32"),
    ("my_memory", memory(weight=1), "a weight takes 2 bytes"),
    ("my_memory", memory(heads="heads"), "only kv_heads heads"),
    ("my_memory", memory(giga=2**30), "these are GiB"),
    ("my_memory", memory(giga=1), "these are bytes"),
    ("my_memory", memory(without=("rollouts",)), "each has its cache"),
    ("my_memory", memory(without=("tokens",)), "every token"),
    ("my_memory", memory(without=("layers",)), "every layer"),
    ("my_memory", memory(turned=True), "weights first"),
    ("my_memory", lambda *asked: memory()(*asked)[0], "the shape is (2,)"),
    ("my_memory", lambda p, shape, tokens, n: shape["key_heads"], "KeyError"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=lambda value: str(value)[:28]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_right_ways_pass(capsys):
    checks.frame(boxed())
    checks.frame(lambda box, view, size: rescale(box, view, size))
    checks.room(room())
    checks.memory(memory())
    assert capsys.readouterr().out.count("[ok] ") == 4


def test_the_figures_it_tells_are_the_presets():
    from deepeyes_lite.models import completion_length, ready
    from deepeyes_lite.realworld.gpu import cache_gb, episode_tokens, weights_gb
    from deepeyes_lite.training import PRESETS
    from shapes import processor_of

    config = PRESETS["24GB"]
    processor = ready(processor_of(config.model), config.max_pixels)
    assert completion_length(processor, config.max_calls, config.max_new_tokens) == 2992
    assert episode_tokens(config) == 4068 and episode_tokens(PRESETS["80GB"]) == 10_836
    assert f"{weights_gb(config):.1f} {cache_gb(config):.1f}" == "7.5 4.8"
