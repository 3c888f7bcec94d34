"""rewards.py: the arithmetic of every arm, and the collapse inequality."""

import math
from itertools import product

import pytest

from deepeyes_lite.rewards import VARIANTS, Arm, arm, least_bonus, reward

# correct, well formed, calls -> reward
TABLE = {
    "conditional": {
        (True, True, 0): 0.8,
        (True, True, 1): 2.0,
        (True, True, 6): 2.0,
        (True, False, 1): 1.8,
        (True, False, 0): 0.6,
        (False, True, 0): 0.0,
        (False, True, 2): 0.0,
        (False, False, 2): -0.2,
    },
    "unconditional": {
        (True, True, 0): 0.8,
        (True, True, 1): 1.2,
        (False, True, 0): 0.0,
        (False, True, 2): 0.4,
        (False, False, 2): 0.2,
        (False, False, 0): -0.2,
    },
    "none": {
        (True, True, 0): 0.8,
        (True, True, 3): 0.8,
        (False, True, 3): 0.0,
        (True, False, 0): 0.6,
        (False, False, 0): -0.2,
    },
    "text_only": {(True, True, 0): 0.8, (False, True, 0): 0.0, (False, False, 0): -0.2},
    "curiosity": {  # best IoU, then the group's call rate
        (True, True, 0, 0.0, 0.0): 0.8,
        (True, True, 1, 0.0, 0.1): 0.8 + 0.5 * 0.2,
        (False, True, 1, 0.9, 0.3): 0.0,
        (True, True, 1, 0.0, 0.7): 0.8,
        (True, True, 3, 0.0, 0.2): 0.8 + 0.5 * 0.1 - 0.1,
    },
    "iou": {
        (True, True, 1, 0.5): 1.4,
        (False, True, 2, 1.0): 1.2,
        (True, True, 0, 0.0): 0.8,
    },
}


def test_the_table_has_every_arm():
    assert set(TABLE) == set(VARIANTS)


@pytest.mark.parametrize(
    ("name", "episode", "expected"),
    [(name, episode, value) for name, row in TABLE.items() for episode, value in row.items()],
)
def test_reward(name, episode, expected):
    assert reward(arm(name), *episode) == pytest.approx(expected)


@pytest.mark.parametrize(
    "weight", ["accuracy", "format", "bonus_if_correct", "bonus_always", "excess"]
)
def test_every_weight_acts_on_its_own_episodes_only(weight):
    zero = Arm(0.0, 0.0)
    one = Arm(**{**vars(zero), weight: 1.0})
    for correct, formed, calls in product((True, False), (True, False), (0, 1, 4)):
        expected = {
            "accuracy": float(correct),
            "format": -float(not formed),
            "bonus_if_correct": float(correct and calls > 0),
            "bonus_always": float(calls > 0),
            "excess": -float(max(0, calls - 1)),
        }[weight]
        assert reward(one, correct, formed, calls) == expected
        assert reward(zero, correct, formed, calls) == 0


def test_an_unknown_arm_is_refused_with_the_arms_there_are():
    with pytest.raises(ValueError, match="unknown arm 'bonus'; there are conditional, uncond"):
        arm("bonus")


@pytest.mark.parametrize(
    ("p_zoom", "p_direct", "expected"),
    [
        (0.5, 0.5, 0.0),
        (0.4, 0.5, 0.2),
        (0.9, 0.3, -8 / 15),
        (0.1, 0.0, -0.8),
        (0.0, 0.5, math.inf),
        (0.0, 0.0, math.inf),
    ],
)
def test_least_bonus(p_zoom, p_direct, expected):
    assert least_bonus(p_zoom, p_direct) == pytest.approx(expected)


@pytest.mark.parametrize(("p_zoom", "p_direct"), [(0.3, 0.7), (0.8, 0.2), (0.05, 0.95)])
def test_at_the_least_bonus_a_call_pays_as_much_as_none(p_zoom, p_direct):
    b = least_bonus(p_zoom, p_direct, accuracy=0.6)
    assert (0.6 + b) * p_zoom == pytest.approx(0.6 * p_direct)


@pytest.mark.parametrize(("p_zoom", "p_direct"), [(math.nan, 0.5), (0.5, math.nan)])
def test_least_bonus_is_unknown_where_a_probability_is(p_zoom, p_direct):
    assert math.isnan(least_bonus(p_zoom, p_direct))
