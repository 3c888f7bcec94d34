"""Checks of notebook 06: a reward of one's own, an effect over seeds and scenes, the line of an arm."""

import numpy as np
import torch

from checks import agrees
from deepeyes_lite.study.collapse import QuestionGroup, first_order


def curiosity(attempt) -> None:
    """Notebook 06, exercise 1: the reward of the arm ``curiosity``.

    Args:
        attempt: takes ``correct`` (B,) bool, ``calls`` (B,) and ``group_call_rate`` (B,), gives (B,).
    """
    correct = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    calls = torch.tensor([1, 1, 0, 3, 2, 4])
    rate = torch.tensor([0.125, 0.125, 0.125, 0.5, 0.5, 0.25])
    right, used, beyond = 0.8 * correct, calls > 0, (calls - 1).clamp(min=0)
    lack = (0.3 - rate).clamp(min=0)
    mistakes = {
        "episodes without a call get the bonus, too": right + 0.5 * lack - 0.05 * beyond,
        "a group that calls often enough is punished: cut what it lacks off at 0": right
        + 0.5 * (0.3 - rate) * used
        - 0.05 * beyond,
        "the bonus went to right answers only: curiosity pays for looking": right
        + 0.5 * lack * used * correct
        - 0.05 * beyond,
        "the bonus does not shrink as the group's call rate grows": right
        + 0.5 * (rate < 0.3) * used
        - 0.05 * beyond,
        "there is no bonus: 0.5 times what the group lacks to 0.3": right - 0.05 * beyond,
        "the first call costs, too: only calls beyond it do": right
        + 0.5 * lack * used
        - 0.05 * calls,
        "every call beyond the first costs 0.05, not only one of them": right
        + 0.5 * lack * used
        - 0.05 * (beyond > 0),
        "calls beyond the first cost nothing": right + 0.5 * lack * used,
        "calls beyond the first are rewarded: they cost 0.05": right
        + 0.5 * lack * used
        + 0.05 * beyond,
        "a right answer is worth 0.8, not 1": correct + 0.5 * lack * used - 0.05 * beyond,
    }
    wanted = right + 0.5 * lack * used - 0.05 * beyond
    if agrees(attempt, (correct, calls, rate), wanted, mistakes) is not None:
        print("[ok] paid for looking while the group looks too seldom; further calls cost")


def effect(attempt) -> None:
    """Notebook 06, exercise 2: a difference, resampled over seeds and over scenes.

    Args:
        attempt: takes ``a`` and ``b``, (seeds, scenes) of 0 and 1, ``seed_counts`` (R, seeds) and
            ``scene_counts`` (R, scenes): how often each is drawn; gives (R,).
    """
    rng = np.random.default_rng(0)
    a, b = (torch.as_tensor(rng.random((3, 7)) < p).double() for p in (0.8, 0.3))
    seeds = torch.as_tensor(rng.multinomial(3, [1 / 3] * 3, 5)).double()
    scenes = torch.as_tensor(rng.multinomial(7, [1 / 7] * 7, 5)).double()

    def mean(x, by_seed=seeds, by_scene=scenes, n=21):
        return ((by_seed @ x) * by_scene).sum(1) / n

    ones = torch.ones_like
    right = mean(a - b)
    mistakes = {
        "the sign is turned round: a minus b": -right,
        "only seeds are resampled: a lucky scene stays in every draw": mean(
            a - b, by_scene=ones(scenes)
        ),
        "only scenes are resampled: a lucky seed stays in every draw": mean(
            a - b, by_seed=ones(seeds)
        ),
        "nothing is resampled: weigh seeds and scenes by their counts": (a - b).mean().expand(5),
        "a sum: divide by the number of seeds times the number of scenes": right * 21,
        "divided by the scenes only": right * 3,
        "divided by the seeds only": right * 7,
        "this is a alone: take b off, pair by pair": mean(a),
        "drawn or not is not how often: a scene that is drawn twice counts twice": mean(
            a - b, (seeds > 0).double(), (scenes > 0).double()
        ),
    }
    hint = "(R, seeds) @ (seeds, scenes) is (R, scenes)"
    inputs = (a, b, seeds, scenes)
    right, mistakes = right.float(), {name: value.float() for name, value in mistakes.items()}
    if agrees(attempt, inputs, right, mistakes, hint) is not None:
        print("[ok] pairs are kept, seeds and scenes are drawn: neither luck passes for a finding")


def line(attempt) -> None:
    """Notebook 06, exercise 3: the least bonus in a world of two kinds of details.

    Args:
        attempt: takes ``share``, ``call_rate``, ``p_zoom`` and ``p_direct``, each (2,), gives b*.
    """
    numbers = ((0.8, 0.2), (0.3, 0.2), (0.9, 0.3), (0.95, 0.1))
    share, calls, zoom, direct = inputs = tuple(torch.tensor(row) for row in numbers)

    def least(zoom_weights, direct_weights):
        zooming = (zoom_weights * zoom).sum() / zoom_weights.sum()
        answering = (direct_weights * direct).sum() / direct_weights.sum()
        return 0.8 * (answering / zooming - 1)

    right = torch.tensor(first_order([QuestionGroup(*row) for row in zip(*numbers)]))
    ratio = right / 0.8 + 1
    mistakes = {
        "both halves weigh the same: their shares differ": least(calls, 1 - calls),
        "p_zoom is over episodes that zoomed: weigh by share times call rate": least(
            share, share * (1 - calls)
        ),
        "p_direct is over episodes that did not zoom: weigh by share times (1 - call rate)": least(
            share * calls, share
        ),
        "neither is weighed by who zooms: share times call rate, share times the rest": least(
            share, share
        ),
        "both are weighed by who zooms": least(share * calls, share * calls),
        "upside down: p_direct over p_zoom": 0.8 * (1 / ratio - 1),
        "this is the ratio: take 1 off, then times 0.8": ratio,
        "times a = 0.8": ratio - 1,
        "take 1 off: without a bonus zooming pays already where the ratio is below 1": 0.8 * ratio,
        "a line for each half: pool them first": 0.8 * (direct / zoom - 1).mean(),
    }
    if agrees(attempt, inputs, right, mistakes) is not None:
        print("[ok] the more details are legible, the more a zoom has to be paid")
