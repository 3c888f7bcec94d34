"""Will zooming grow or die? Three accounts, from what the base model does before any training.

- `first_order`: the collapse inequality (`rewards.least_bonus`): rewards compared over all episodes.
- `by_group`: as GRPO compares them: within a question's group, divided by the group's standard
  deviation, and a group without a difference counts for nothing.
- The race, `simulate_call_rate`: the same, step by step. While the policy calls, its boxes get better,
  which lifts p_zoom; while it does not, calling dies. Two rates decide; they are fitted to finished runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import comb, exp, log

import numpy as np

from deepeyes_lite.rewards import ACCURACY_WEIGHT, advantages, least_bonus

GROUP_SIZE = 8  # rollouts of a question, as in the study's runs
Rates = tuple[
    float, float
]  # how far a pull of 1 moves the habit of calling, and the skill with boxes


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


def first_order(kinds: Sequence[QuestionGroup]) -> float:
    """The least bonus with which zooming grows, where all episodes are compared alike.

    >>> legible = QuestionGroup(0.9, 0.25, p_zoom=0.5, p_direct=0.97)
    >>> illegible = QuestionGroup(0.1, 0.25, p_zoom=0.2, p_direct=0.1)
    >>> round(first_order([legible, illegible]), 2)
    0.7
    """
    calls = [kind.share * kind.call_rate for kind in kinds]
    answers = [kind.share * (1 - kind.call_rate) for kind in kinds]
    p_zoom = sum(n * kind.p_zoom for n, kind in zip(calls, kinds)) / sum(calls)
    p_direct = sum(n * kind.p_direct for n, kind in zip(answers, kinds)) / sum(answers)
    return least_bonus(p_zoom, p_direct)


def by_group(kinds: Sequence[QuestionGroup], bonus: float) -> bool:
    """Whether advantages pull towards calling, at the first step."""
    return sum(kind.share * expected_gradient(kind, bonus)[0] for kind in kinds) > 0


def simulate_call_rate(
    kinds: Sequence[QuestionGroup], bonus: float, steps: int, rates: Rates
) -> np.ndarray:
    """The call rate that is expected after each step.

    The habit of calling is one number for all questions, and so is the skill with boxes: both are
    moved on the logistic scale, as the policy gradient moves them.

    Args:
        kinds: the base model on each kind of question.
        bonus: for a correct answer with a zoom.
        steps: of training.
        rates: see `Rates`.

    Returns:
        (steps,) call rates.
    """
    habit = skill = 0.0
    curve = []
    for _ in range(steps):
        now = [
            replace(k, call_rate=_moved(k.call_rate, habit), p_zoom=_moved(k.p_zoom, skill))
            for k in kinds
        ]
        pull = sum(kind.share * expected_gradient(kind, bonus) for kind in now)
        habit, skill = habit + rates[0] * pull[0], skill + rates[1] * pull[1]
        curve.append(sum(kind.share * _moved(kind.call_rate, habit) for kind in kinds))
    return np.array(curve)


@cache  # several lines of the ledger ask for the same fit, which takes seconds
def fit(runs: tuple[tuple[tuple[QuestionGroup, ...], float, tuple[float, ...]], ...]) -> Rates:
    """The two rates with which the race comes closest to finished runs, by least squares on a grid.

    Args:
        runs: base model, bonus, and the call rates of the run, step by step.
    """

    def error(rates: Rates) -> float:
        return sum(
            np.mean((simulate_call_rate(kinds, bonus, len(curve), rates) - np.array(curve)) ** 2)
            for kinds, bonus, curve in runs
        )

    return min(product(np.geomspace(0.05, 5, 13).tolist(), repeat=2), key=error)


def expected_gradient(kind: QuestionGroup, bonus: float) -> np.ndarray:
    """What the advantages of one group push, on the average over groups.

    Args:
        kind: the policy on the group's question.
        bonus: for a correct answer with a zoom.

    Returns:
        (2,): towards calling, and towards a correct box in a call; the mean of advantage times score, as
        the policy gradient has it.

    >>> push = expected_gradient(QuestionGroup(1.0, 0.5, p_zoom=0.9, p_direct=0.1), bonus=0.0)
    >>> even = expected_gradient(QuestionGroup(1.0, 0.5, p_zoom=0.5, p_direct=0.5), bonus=0.0)
    >>> bool(push[0] > 0), bool(even[0].round(9) == 0)
    (True, True)
    """
    callers, zoomed, direct, ways, pull, zoomed_pull = _outcomes(round(bonus, 6))  # each (N,)
    chance = (
        ways
        * (kind.call_rate**callers * (1 - kind.call_rate) ** (GROUP_SIZE - callers))
        * (kind.p_zoom**zoomed * (1 - kind.p_zoom) ** (callers - zoomed))
        * (kind.p_direct**direct * (1 - kind.p_direct) ** (GROUP_SIZE - callers - direct))
    )
    return np.array([chance @ pull, chance @ (zoomed_pull - kind.p_zoom * pull)])


@cache
def _outcomes(bonus: float) -> tuple[np.ndarray, ...]:
    """Every possible outcome of a group; each array has a number an outcome.

    Returns:
        How many rollouts call, how many of these are correct, how many of the others are correct, in how
        many ways; and the advantages, summed over the callers and over the correct ones of them, per rollout.
    """
    rows = []
    for n in range(GROUP_SIZE + 1):
        for zoomed, direct in product(range(n + 1), range(GROUP_SIZE - n + 1)):
            rewards = [ACCURACY_WEIGHT + bonus] * zoomed + [0.0] * (n - zoomed)
            rewards += [ACCURACY_WEIGHT] * direct + [0.0] * (GROUP_SIZE - n - direct)
            values = advantages(rewards)
            ways = comb(GROUP_SIZE, n) * comb(n, zoomed) * comb(GROUP_SIZE - n, direct)
            pull, zoomed_pull = sum(values[:n]) / GROUP_SIZE, sum(values[:zoomed]) / GROUP_SIZE
            rows.append((n, zoomed, direct, ways, pull, zoomed_pull))
    return tuple(np.array(rows).T)


def _moved(p: float, by: float) -> float:
    """A probability moved on the logistic scale."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    return 1 / (1 + exp(-log(p / (1 - p)) - by))
