"""Accuracy with intervals, call rate, IoU, controls without tool or with wrong crops, paired tests.

Published zoom policies are rarely asked whether the crop is what helps. Here every evaluation runs the
trained policy without the tool in its prompt, with blank crops and with crops of another image beside it.
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import mpmath
import numpy as np
from datasets import Dataset

from deepeyes_lite.boxes import iou
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import environment_named
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rewards import WITHOUT_TOOL
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory, read_jsonl, write_jsonl

# The rows of the demo's table: name, which weights, how the tool answers.
CONDITIONS = {
    "base": ("base", "on"),
    "trained": ("trained", "on"),
    "trained, tool off": ("trained", "off"),
    "trained, blank crops": ("trained", "blank"),
    "trained, other crops": ("trained", "other"),
}
# A variant without a tool never sees it in a prompt, so there is nothing to switch off.
CONDITIONS_WITHOUT_TOOL = {"base": ("base", "on"), "trained": ("trained", "off")}
EPISODE_COLUMNS = ["condition", "id", "legible", "correct", "calls", "best_iou"]


def share(successes: int, n: int) -> dict:
    """A proportion with its 95 % Wilson interval; NaN without samples.

    >>> {name: round(value, 3) for name, value in share(80, 100).items()}
    {'mean': 0.8, 'low': 0.711, 'high': 0.867, 'n': 100}
    """
    if not n:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    z = 1.959964
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and 1 rounding would put a bound on the wrong side of the mean.
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return {"mean": p, "low": low, "high": high, "n": n}


def average(values: Sequence[float], seed: int = 0, counts: Sequence[int] | None = None) -> dict:
    """A mean with its 95 % bootstrap interval (2,000 resamples); NaN without values.

    Args:
        values: what is averaged; with ``counts``, its sum over each cluster, as over an image.
        seed: of the bootstrap.
        counts: how many items each cluster has. The mean is one over items; clusters are resampled.

    >>> {name: round(value, 2) for name, value in average([3, 0], counts=[4, 2]).items()}
    {'mean': 0.5, 'low': 0.0, 'high': 0.75, 'n': 6}
    """
    sums = np.asarray(values, float)
    sizes = np.ones(len(sums)) if counts is None else np.asarray(counts, float)
    n = int(sizes.sum())
    if not n:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    draws = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    drawn = sizes[draws].sum(1)  # (2000,)
    means = sums[draws].sum(1)[drawn > 0] / drawn[drawn > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(sums.sum() / n), "low": float(low), "high": float(high), "n": n}


def summarise(trajectories: list[Trajectory]) -> dict:
    """Figures of one condition, each with interval and count.

    Returns:
        accuracy (all, legible, illegible), call_rate, calls_per_episode, format, call_iou (over all
        answered calls, best target each), and p_zoom and p_direct for all and for each half.
    """
    halves = {
        "": trajectories,
        "_legible": [t for t in trajectories if t.sample["legible"] == 1],
        "_illegible": [t for t in trajectories if t.sample["legible"] == 0],
    }
    figures = {}
    for half, episodes in halves.items():
        zoomed = [t for t in episodes if t.called]
        direct = [t for t in episodes if not t.called]
        figures["accuracy" + half] = _correct(episodes)
        figures["call_rate" + half] = share(len(zoomed), len(episodes))
        figures["p_zoom" + half] = _correct(zoomed)
        figures["p_direct" + half] = _correct(direct)
    figures["format"] = share(sum(t.well_formed for t in trajectories), len(trajectories))
    figures["calls_per_episode"] = average([float(len(t.boxes_px)) for t in trajectories])
    figures["call_iou"] = average(
        [
            max(iou(box, target) for target in t.sample["boxes_px"])
            for t in trajectories
            if t.sample["boxes_px"]
            for box in t.boxes_px
        ]
    )
    return figures


def _correct(episodes: list[Trajectory]) -> dict:
    return share(sum(t.correct for t in episodes), len(episodes))


def paired_difference(a: list[Trajectory], b: list[Trajectory], seed: int = 0) -> dict:
    """Accuracy of ``b`` minus that of ``a`` on the same samples: bootstrap interval, sign-flip p.

    Raises:
        ValueError: if the two are not about the same samples in the same order.
    """
    if [t.sample["id"] for t in a] != [t.sample["id"] for t in b]:
        raise ValueError("a paired test needs the same samples in the same order")
    return paired([float(t.correct) for t in a], [float(t.correct) for t in b], seed)


def paired(a: list[float], b: list[float], seed: int = 0) -> dict:
    """Mean of ``b - a``, pair by pair: bootstrap interval, sign-flip p; NaN without pairs."""
    difference = np.subtract(b, a)
    figures = average(difference.tolist(), seed)
    if not len(difference):
        return {**figures, "p": math.nan}
    if not difference.any():  # resampled, nothing would differ: as sure as 0 of n can be
        high = share(0, len(difference))["high"]
        figures |= {"low": -high, "high": high}
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2000, len(difference)))
    flipped = np.abs((signs * difference).mean(1)) >= abs(difference.mean()) - 1e-12
    return {**figures, "p": float((flipped.sum() + 1) / (len(flipped) + 1))}


def evaluate_run(out: str | Path, dataset: Dataset, seed: int = 0) -> dict:
    """Evaluate a finished run under every condition on the same held-out questions.

    Leaves ``evaluation.json``, ``episodes.csv`` and ``trajectories/``. A condition whose trajectories are
    there already is not run again, so that a killed evaluation goes on.

    Args:
        out: folder of the run.
        dataset: at least two held-out questions in our schema.
        seed: of the sampling.

    Returns:
        What ``evaluation.json`` holds: per condition the figures of `summarise`, and paired differences.

    Raises:
        ValueError: for fewer than two questions.
        FileNotFoundError: if the run is not done.
    """
    from deepeyes_lite.training import base_of, load_trained, read_config  # seconds of imports

    out = Path(out)
    config = read_config(out)
    if len(dataset) < 2:
        raise ValueError(
            f"two questions are the least, for crops of another are one control; got {len(dataset)}"
        )
    folder = out / "trajectories"
    folder.mkdir(exist_ok=True)
    models = {"trained": load_trained(out)}  # at once, so that an unfinished run is refused at once
    episodes = {}
    tools = config.reward not in WITHOUT_TOOL
    conditions = CONDITIONS if tools else CONDITIONS_WITHOUT_TOOL
    for name, (weights, tool) in conditions.items():
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
        kept = read_jsonl(path) if path.exists() else []
        if [t.sample["id"] for t in kept] != list(dataset["id"]):
            if weights not in models:
                models[weights] = base_of(config)
            policy = LocalPolicy(
                *models[weights],
                tools=tools or weights == "base",
                environment=environment_named(config.environment),
            )
            kept = rollout(dataset, policy, tool=tool, seed=seed, title=name)
            with atomic_write(path) as tmp:
                write_jsonl(kept, tmp)
        episodes[name] = kept
    report = {
        "samples": len(dataset),
        "seed": seed,
        "conditions": {name: summarise(kept) for name, kept in episodes.items()},
        "paired_accuracy": {
            f"{name} minus base": paired_difference(episodes["base"], kept)
            for name, kept in episodes.items()
            if name != "base"
        },
    }
    write_episodes(episodes, out / "episodes.csv")
    with atomic_write(out / "evaluation.json") as tmp:
        tmp.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def write_episodes(episodes: dict[str, list[Trajectory]], path: Path) -> None:
    """A line an episode in ``EPISODE_COLUMNS``: what another run can be paired with later."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(EPISODE_COLUMNS)
        for name, kept in episodes.items():
            for t in kept:
                overlap = "" if t.best_iou is None else f"{t.best_iou:.3f}"
                figures = (t.sample["legible"], int(t.correct), len(t.boxes_px), overlap)
                writer.writerow([name, t.sample["id"], *figures])


def table(report: dict) -> str:
    """The table of an evaluation as text."""
    head = f"{'':22}{'accuracy':>20}{'legible':>20}{'illegible':>20}{'call rate':>11}{'IoU':>7}"
    lines = [head]
    for name, figures in report["conditions"].items():
        cells = [
            interval(figures[key]) for key in ("accuracy", "accuracy_legible", "accuracy_illegible")
        ]
        iou_ = figures["call_iou"]["mean"]
        lines.append(
            f"{name:22}"
            + "".join(f"{cell:>20}" for cell in cells)
            + f"{figures['call_rate']['mean']:>11.2f}"
            + (f"{iou_:>7.2f}" if iou_ == iou_ else f"{'-':>7}")
        )
    lines.append(
        f"{report['samples']} held-out scenes; 95 % intervals; IoU over all answered calls"
    )
    return "\n".join(lines)


def interval(figure: dict) -> str:
    """A share as text, in percent.

    >>> interval(share(80, 100))
    '80 % [71, 87]'
    """
    if not figure["n"]:
        return "-"
    return f"{100 * figure['mean']:.0f} % [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"


# --- over seeds ------------------------------------------------------------------------------------

RESAMPLES = 2000


class NotMeasured(LookupError):
    """A claim needs a record that is not there."""


def bootstrap_seeds_and_scenes(differences: Iterable[np.ndarray], seed: int = 0) -> dict:
    """Mean of differences with its 95 % interval, resampled over seeds and over scenes.

    Args:
        differences: one array per seed, all over the same scenes; NaN where there is none.
        seed: of the bootstrap.

    Returns:
        effect, low, high, p (two-sided, from the bootstrap), n (scenes), seeds.

    >>> figures = bootstrap_seeds_and_scenes([np.ones(50), np.ones(50)])
    >>> figures["effect"], figures["low"], figures["seeds"], figures["n"]
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


def t_interval(differences: Iterable[float]) -> dict:
    """The same where each seed has one number: Student's t, since a bootstrap of three numbers is too sure.

    Raises:
        NotMeasured: for a single number.

    >>> figures = t_interval([0.8, 1.0, 1.2])
    >>> {name: round(figures[name], 3) for name in ("effect", "low", "high", "p")}
    {'effect': 1.0, 'low': 0.503, 'high': 1.497, 'p': 0.013}
    """
    data = np.array([float(value) for value in differences])
    if len(data) < 2:
        raise NotMeasured("one seed and one value have no interval")
    effect, freedom = float(data.mean()), len(data) - 1
    error = float(data.std(ddof=1)) / len(data) ** 0.5

    def beyond(t: float) -> float:  # the chance of a Student's t beyond t on either side
        inside = freedom / (freedom + t * t)
        return mpmath.betainc(freedom / 2, 0.5, 0, inside, regularized=True)

    quantile = float(mpmath.findroot(lambda t: beyond(t) - 0.05, (1.9, 13), solver="anderson"))
    return {
        "effect": effect,
        "low": effect - quantile * error,
        "high": effect + quantile * error,
        "p": float(beyond(abs(effect) / error)) if error else float(effect == 0),
        "n": 1,
        "seeds": len(data),
    }
