"""Will zooming grow or die? Three accounts, from what the base model does before any training.

- `first_order`: the collapse inequality (`rewards.least_bonus`): rewards compared over all episodes.
- `by_group`: as GRPO compares them: within a question's group, divided by the group's standard
  deviation, and a group without a difference counts for nothing.
- `race`: the same, step by step. While the policy calls, its boxes get better, which lifts p_zoom;
  while it does not, calling dies. Two rates decide; they are fitted to finished runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import comb, exp, log

import numpy as np

from deepeyes_lite.rewards import ACCURACY_WEIGHT, least_bonus


@dataclass(frozen=True)
class QuestionGroup:
    """What the base model does on one kind of question.

    Attributes:
        share: of the training questions.
        call_rate: share of its episodes with a call.
        p_zoom: probability of a correct answer given a zoom.
        p_direct: probability of a correct answer given none.
    """

    share: float
    call_rate: float
    p_zoom: float
    p_direct: float


def first_order(halves: Sequence[QuestionGroup]) -> float:
    """The least bonus with which zooming grows, where all episodes are compared alike.

    >>> legible = Half(0.9, 0.25, p_zoom=0.5, p_direct=0.97)
    >>> illegible = Half(0.1, 0.25, p_zoom=0.2, p_direct=0.1)
    >>> round(first_order([legible, illegible]), 2)
    0.7
    """
    calls = [half.share * half.call_rate for half in halves]
    answers = [half.share * (1 - half.call_rate) for half in halves]
    p_zoom = sum(n * half.p_zoom for n, half in zip(calls, halves)) / sum(calls)
    p_direct = sum(n * half.p_direct for n, half in zip(answers, halves)) / sum(answers)
    return least_bonus(p_zoom, p_direct)


def by_group(halves: Sequence[QuestionGroup], bonus: float, num_generations: int = 8) -> bool:
    """Whether advantages pull towards calling, at the first step."""
    return (
        sum(half.share * expected_gradient(half, bonus, num_generations)[0] for half in halves) > 0
    )


def simulate_call_rate(
    halves: Sequence[QuestionGroup], bonus: float, steps: int, rates: tuple[float, float]
) -> np.ndarray:
    """The call rate that is expected after each step.

    The habit of calling is one number for all questions, and so is the skill with boxes: both are
    moved on the logistic scale, as the policy gradient moves them.

    Args:
        halves: the base model.
        bonus: for a correct answer with a zoom.
        steps: of training.
        rates: how far a pull of 1 moves the habit, and the skill.

    Returns:
        (steps,) call rates.
    """
    habit = skill = 0.0
    curve = []
    for _ in range(steps):
        now = [
            QuestionGroup(h.share, _moved(h.call_rate, habit), _moved(h.p_zoom, skill), h.p_direct)
            for h in halves
        ]
        pull = sum(half.share * expected_gradient(half, bonus) for half in now)
        habit, skill = habit + rates[0] * pull[0], skill + rates[1] * pull[1]
        curve.append(sum(h.share * _moved(h.call_rate, habit) for h in halves))
    return np.array(curve)


def fit(runs: Sequence[tuple[Sequence[QuestionGroup], float, np.ndarray]]) -> tuple[float, float]:
    """The two rates with which `race` comes closest to finished runs, by least squares on a grid.

    Args:
        runs: base model, bonus, and the call rates of the run, step by step.
    """
    return _fit(tuple((tuple(halves), bonus, tuple(curve)) for halves, bonus, curve in runs))


@cache
def _fit(runs: tuple) -> tuple[float, float]:
    # Several lines of the ledger ask for the same fit, which takes seconds.
    grid = np.geomspace(0.05, 5, 13)
    errors = {
        rates: sum(
            np.mean((simulate_call_rate(halves, bonus, len(curve), rates) - np.array(curve)) ** 2)
            for halves, bonus, curve in runs
        )
        for rates in product(grid.tolist(), repeat=2)
    }
    return min(errors, key=errors.get)


def expected_gradient(half: QuestionGroup, bonus: float, num_generations: int = 8) -> np.ndarray:
    """What the advantages of one group push, on the average over groups.

    Returns:
        (2,): towards calling, and towards a right box in a call; the mean of advantage times score, as
        the policy gradient has it.

    >>> push = pulls(Half(1.0, 0.5, p_zoom=0.9, p_direct=0.1), bonus=0.0)
    >>> bool(push[0] > 0), bool(pulls(Half(1.0, 0.5, 0.5, 0.5), bonus=0.0)[0].round(9) == 0)
    (True, True)
    """
    n, right, direct, ways, callers, callers_right = _groups(num_generations, round(bonus, 6))
    chance = (
        ways
        * (half.call_rate**n * (1 - half.call_rate) ** (num_generations - n))
        * (half.p_zoom**right * (1 - half.p_zoom) ** (n - right))
        * (half.p_direct**direct * (1 - half.p_direct) ** (num_generations - n - direct))
    )
    return np.array([chance @ callers, chance @ (callers_right - half.p_zoom * callers)])


@cache
def _groups(num_generations: int, bonus: float) -> tuple[np.ndarray, ...]:
    """Every possible group: callers, right ones among them and among the others, in how many ways.

    And the advantages, summed over the callers and over the right ones of them, per rollout.
    """
    rows = []
    for n in range(num_generations + 1):
        for right, direct in product(range(n + 1), range(num_generations - n + 1)):
            rewards = np.zeros(num_generations)
            rewards[:right] = ACCURACY_WEIGHT + bonus
            rewards[n : n + direct] = ACCURACY_WEIGHT
            advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            callers, winners = advantages[:n].sum(), advantages[:right].sum()
            ways = comb(num_generations, n) * comb(n, right) * comb(num_generations - n, direct)
            rows.append(
                (n, right, direct, ways, callers / num_generations, winners / num_generations)
            )
    return tuple(np.array(rows).T)


def _moved(p: float, by: float) -> float:
    """A probability moved on the logistic scale."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    return 1 / (1 + exp(-log(p / (1 - p)) - by))
