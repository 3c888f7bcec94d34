"""collapse.py: three accounts of whether zooming grows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.rewards import least_bonus
from deepeyes_lite.study.collapse import (
    QuestionGroup,
    by_group,
    expected_gradient,
    first_order,
    simulate_call_rate,
)

HALVES = (QuestionGroup(0.9, 0.25, 0.5, 0.97), QuestionGroup(0.1, 0.25, 0.2, 0.1))
chances = st.floats(0.05, 0.95)


@given(chances, chances, chances, st.sampled_from([0.0, 0.3, 1.2]))
def test_one_kind_of_question_has_the_line_of_the_inequality(call_rate, p_zoom, p_direct, bonus):
    half = QuestionGroup(1.0, call_rate, p_zoom, p_direct)
    assert first_order([half]) == pytest.approx(least_bonus(p_zoom, p_direct))


def test_pulls_are_the_mean_of_advantage_times_score():
    half, bonus, rng = QuestionGroup(1.0, 0.4, 0.6, 0.3), 0.5, np.random.default_rng(0)
    calls = rng.random((40_000, 8)) < half.call_rate
    right = rng.random(calls.shape) < np.where(calls, half.p_zoom, half.p_direct)
    rewards = 0.8 * right + bonus * (right & calls)
    scale = rewards.std(1, ddof=1, keepdims=True) + 1e-4
    advantages = (rewards - rewards.mean(1, keepdims=True)) / scale
    calling = (advantages * (calls - half.call_rate)).mean()
    boxes = (advantages * calls * (right - half.p_zoom)).mean()
    assert expected_gradient(half, bonus) == pytest.approx([calling, boxes], abs=0.003)


def test_without_boxes_that_improve_the_race_goes_where_the_group_pulls():
    for bonus in (0.0, 1.2):
        curve = simulate_call_rate(HALVES, bonus, 60, (1.0, 0.0))
        assert (curve[-1] > 0.25) == by_group(HALVES, bonus)
        assert np.all((curve > 0) & (curve < 1)) and len(curve) == 60


def test_boxes_that_improve_in_time_turn_the_race():
    dying = simulate_call_rate(HALVES, 0.0, 100, (1.0, 0.05))
    saved = simulate_call_rate(HALVES, 0.0, 100, (1.0, 5.0))
    assert dying[-1] < 0.2 < saved[-1]
