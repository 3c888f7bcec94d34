"""Exercises of notebook 06: a reward of one's own, an effect over seeds and scenes, the least bonus."""

import numpy as np
import torch

from checks.exercise import Exercise
from deepeyes_lite.rewards import VARIANTS, reward
from deepeyes_lite.study.collapse import QuestionGroup, first_order


def curious(
    paid=lambda c, n: n > 0,
    lack=lambda r: (0.3 - r).clamp(min=0),
    cost=lambda n: 0.05 * (n - 1).clamp(min=0),
    right=0.8,
):
    """The solution in torch; each setting changes a part of it."""
    return lambda c, n, r: right * c + 0.5 * lack(r) * paid(c, n) - cost(n)


# Exercise 1. attempt(correct, calls, group_call_rate) -> (B,) rewards of the variant curiosity.
curiosity = Exercise(
    cases=[
        (
            torch.tensor([1, 0, 1, 0, 1, 1]).bool(),
            torch.tensor([1, 1, 0, 3, 2, 4]),
            torch.tensor([0.125, 0.125, 0.125, 0.5, 0.5, 0.25]),
        )
    ],
    solution=lambda *batch: [
        reward(VARIANTS["curiosity"], c, True, n, 0.0, rate) for c, n, rate in zip(*batch)
    ],
    mistakes={
        "episodes without a call get the bonus, too": curious(paid=lambda c, n: 1),
        "a group that calls often enough is punished: cut what it lacks off at 0": (
            curious(lack=lambda r: 0.3 - r)
        ),
        "the bonus went to right answers only: curiosity pays for looking": (
            curious(paid=lambda c, n: c * (n > 0))
        ),
        "the bonus does not shrink as the group's call rate grows": curious(lack=lambda r: r < 0.3),
        "there is no bonus: 0.5 times what the group lacks to 0.3": curious(lack=lambda r: 0),
        "the first call costs, too: only calls beyond it do": curious(cost=lambda n: 0.05 * n),
        "every call beyond the first costs 0.05, not only one of them": (
            curious(cost=lambda n: 0.05 * (n > 1))
        ),
        "calls beyond the first cost nothing": curious(cost=lambda n: 0),
        "calls beyond the first are rewarded: they cost 0.05": (
            curious(cost=lambda n: -0.05 * (n - 1).clamp(min=0))
        ),
        "a right answer is worth 0.8, not 1": curious(right=1),
    },
    praise="paid for looking while the group looks too seldom; further calls cost",
)


ones = torch.ones_like


def resampled(
    take=lambda a, b: a - b, seeds=lambda n: n, scenes=lambda n: n, by=lambda n: n.numel()
):
    """The solution; each setting changes what is averaged, the counts, or the divisor."""
    return lambda a, b, by_seed, by_scene: (
        (seeds(by_seed) @ take(a, b) * scenes(by_scene)).sum(1) / by(a)
    )


def two_policies():
    rng = np.random.default_rng(0)
    a, b = ((rng.random((3, 7)) < p).astype(float) for p in (0.8, 0.3))
    counts = (rng.multinomial(n, [1 / n] * n, 5).astype(float) for n in (3, 7))
    return [tuple(map(torch.as_tensor, (a, b, *counts)))]


# Exercise 2. attempt(a, b, seed_counts, scene_counts) -> (R,) differences; a and b are (seeds, scenes) of 0
# and 1, the counts (R, seeds) and (R, scenes) say how often each is drawn.
effect = Exercise(
    cases=two_policies,
    solution=resampled(),
    mistakes={
        "the sign is turned round: a minus b": resampled(lambda a, b: b - a),
        "only seeds are resampled: a lucky scene stays in every draw": resampled(scenes=ones),
        "only scenes are resampled: a lucky seed stays in every draw": resampled(seeds=ones),
        "nothing is resampled: weigh seeds and scenes by their counts": (
            resampled(seeds=ones, scenes=ones)
        ),
        "a sum: divide by the number of seeds times the number of scenes": resampled(
            by=lambda a: 1
        ),
        "divided by the scenes only": resampled(by=lambda a: a.shape[1]),
        "divided by the seeds only": resampled(by=lambda a: a.shape[0]),
        "this is a alone: take b off, pair by pair": resampled(lambda a, b: a),
        "drawn or not is not how often: a scene that is drawn twice counts twice": (
            resampled(seeds=lambda n: (n > 0).double(), scenes=lambda n: (n > 0).double())
        ),
    },
    praise="pairs are kept, seeds and scenes are drawn: neither luck passes for a finding",
    hint="(R, seeds) @ (seeds, scenes) is (R, scenes)",
)


def least(
    zooms=lambda s, c: s * c,
    answers=lambda s, c: s * (1 - c),
    finish=lambda r: 0.8 * (r - 1),
):
    """The solution in torch; each setting changes the weights of the halves, or the last line."""

    def attempt(share, call_rate, p_zoom, p_direct):
        zoom, answer = zooms(share, call_rate), answers(share, call_rate)
        direct = (answer * p_direct).sum() / answer.sum()
        return finish(direct / ((zoom * p_zoom).sum() / zoom.sum()))

    return attempt


# Exercise 3. attempt(share, call_rate, p_zoom, p_direct) -> the least bonus b*; each is (2,).
line = Exercise(
    cases=[tuple(map(torch.tensor, ([0.8, 0.2], [0.3, 0.2], [0.9, 0.3], [0.95, 0.1])))],
    solution=lambda *halves: first_order([QuestionGroup(*half) for half in zip(*halves)]),
    mistakes={
        "both halves weigh the same: their shares differ": (
            least(lambda s, c: c, lambda s, c: 1 - c)
        ),
        "p_zoom is over episodes that zoomed: weigh by share times call rate": (
            least(lambda s, c: s)
        ),
        "p_direct is over episodes that did not zoom: weigh by share times (1 - call rate)": (
            least(answers=lambda s, c: s)
        ),
        "neither is weighed by who zooms: share times call rate, share times the rest": (
            least(lambda s, c: s, lambda s, c: s)
        ),
        "both are weighed by who zooms": least(answers=lambda s, c: s * c),
        "upside down: p_direct over p_zoom": least(finish=lambda r: 0.8 * (1 / r - 1)),
        "this is the ratio: take 1 off, then times 0.8": least(finish=lambda r: r),
        "times a = 0.8": least(finish=lambda r: r - 1),
        "take 1 off: without a bonus zooming pays already where the ratio is below 1": (
            least(finish=lambda r: 0.8 * r)
        ),
        "a line for each half: pool them first": lambda s, c, z, d: (0.8 * (d / z - 1)).mean(),
    },
    praise="the more details are legible, the more a zoom has to be paid",
)
