"""A mean difference with its interval: over seeds and scenes at once, or over seeds alone."""

from collections.abc import Iterable
from math import atan, cos, pi, sin

import numpy as np

RESAMPLES = 2000


class NotMeasured(LookupError):
    """A claim needs a record that is not there."""


def clustered(differences: Iterable[np.ndarray], seed: int = 0) -> dict:
    """Mean of differences with its 95 % interval, resampled over seeds and over scenes.

    Args:
        differences: one array per seed, all over the same scenes; NaN where there is none.
        seed: of the bootstrap.

    Returns:
        effect, low, high, p (two-sided, from the bootstrap), n (scenes), seeds.

    >>> found = clustered([np.ones(50), np.ones(50)])
    >>> found["effect"], found["low"], found["seeds"], found["n"]
    (1.0, 1.0, 2, 50)
    """
    data = np.stack([np.asarray(row, float) for row in differences])
    seeds, scenes = data.shape
    rng = np.random.default_rng(seed)
    # How often each seed, and each scene, is drawn in each resample.
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    by_scene = rng.multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    there = ~np.isnan(data)
    total = ((by_seed @ np.where(there, data, 0.0)) * by_scene).sum(1)
    count = ((by_seed @ there.astype(float)) * by_scene).sum(1)
    means = total / np.where(count, count, np.nan)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return {
        "effect": float(np.nanmean(data)),
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, 2 * max(tail, 1 / RESAMPLES))),
        "n": scenes,
        "seeds": seeds,
    }


def over_seeds(differences: Iterable[float]) -> dict:
    """The same where each seed has one number: Student's t, since a bootstrap of three numbers is too sure.

    Raises:
        NotMeasured: for a single number.

    >>> found = over_seeds([0.8, 1.0, 1.2])
    >>> {name: round(found[name], 3) for name in ("effect", "low", "high", "p")}
    {'effect': 1.0, 'low': 0.503, 'high': 1.497, 'p': 0.013}
    """
    data = np.array([float(value) for value in differences])
    if len(data) < 2:
        raise NotMeasured("one seed and one value have no interval")
    error, freedom = float(data.std(ddof=1)) / len(data) ** 0.5, len(data) - 1
    low, high = 0.0, 1000.0  # the quantile lies between, found by halving
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, freedom) > 0.05 else (low, middle)
    effect = float(data.mean())
    return {
        "effect": effect,
        "low": effect - high * error,
        "high": effect + high * error,
        "p": _beyond(abs(effect) / error, freedom) if error else float(effect == 0),
        "n": 1,
        "seeds": len(data),
    }


def _beyond(t: float, freedom: int) -> float:
    """Chance of a Student's t beyond ``t`` on either side (Abramowitz and Stegun 26.7.3 and 26.7.4).

    >>> round(_beyond(12.706, 1), 3), round(_beyond(4.303, 2), 3), round(_beyond(2.776, 4), 3)
    (0.05, 0.05, 0.05)
    """
    odd = freedom % 2
    angle = atan(t / freedom**0.5)
    total, term = 0.0, cos(angle) if odd else 1.0
    for k in range(1, freedom - odd, 2):
        total += term
        term *= cos(angle) ** 2 * (k + odd) / (k + 1 + odd)
    inside = sin(angle) * total
    return 1 - (2 / pi * (angle + inside) if odd else inside)
