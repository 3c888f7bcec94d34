"""The claims ledger: each claim of the paper, what was measured, and the verdict in words.

Reads nothing but the records of `study.py`. An effect is a difference over the same held-out scenes; its
interval is a bootstrap over seeds and scenes, 2,000 times, so that neither a lucky seed nor a lucky
scene passes for a finding.
"""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deepeyes_lite.history import read_history
from deepeyes_lite.rewards import least_bonus

RESAMPLES = 2000
WINDOW = 10  # steps that are averaged where a history is read


class NotMeasured(LookupError):
    """A claim needs a record that is not there."""


@dataclass(frozen=True)
class Record:
    """What is kept of one run."""

    folder: Path

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def group(self) -> str:
        """Which runs it is a seed of: "sweep", "data-" and the choice of questions, or the arm."""
        if self.config.get("bonus") is not None:
            return "sweep"
        chosen = Path(self.config.get("data", "")).name
        return f"data-{chosen}" if chosen else self.config["arm"]

    @cached_property
    def history(self) -> list[dict]:
        return read_history(self.folder / "history.csv")

    def episodes(self, condition: str, column: str, legible: int | None = None) -> np.ndarray:
        """A column of the episodes of a condition, scene by scene; NaN where it is empty.

        Args:
            condition: such as "trained", or "chart: trained" for another set of scenes.
            column: "correct", "calls" or "best_iou".
            legible: 0 or 1 for one half of the scenes only.
        """
        rows = [
            float(row[column] or "nan")
            for row in self._rows
            if row["condition"] == condition and legible in (None, int(row["legible"]))
        ]
        if not rows:
            raise NotMeasured(f"no episodes of {condition!r} in {self.folder}")
        return np.array(rows)

    @cached_property
    def _rows(self) -> list[dict]:
        rows = []
        for name in ("episodes.csv", "transfer.csv"):
            if (self.folder / name).exists():
                with (self.folder / name).open(newline="") as file:
                    rows += csv.DictReader(file)
        return rows

    def mean(self, column: str, end: str) -> float:
        """Mean of a column of the history over its first, last or (smoothed) highest steps."""
        values = np.array([row[column] for row in self.history])
        windows = np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")
        return float({"first": windows[0], "last": windows[-1], "peak": windows.max()}[end])


def load_records(folder: str | Path) -> dict[str, Record]:
    """The records of a study by name."""
    return {path.parent.name: Record(path.parent) for path in Path(folder).glob("*/config.json")}


def load_sweep_base(folder: str | Path) -> dict:
    """What C11 predicts from, by share of legible details; empty if it was not measured."""
    path = Path(folder) / "sweep-base.json"
    return json.loads(path.read_text()) if path.exists() else {}


def clustered(differences: Iterable[np.ndarray], seed: int = 0) -> dict:
    """Mean of differences with its 95 % interval, resampled over seeds and over scenes.

    Args:
        differences: one array per seed, all over the same scenes; NaN where there is none.
        seed: of the bootstrap.

    Returns:
        effect, low, high, p (two-sided, from the bootstrap), n (scenes), seeds.

    Raises:
        NotMeasured: for a single number.

    >>> found = clustered([np.ones(50), np.ones(50)])
    >>> found["effect"], found["low"], found["seeds"], found["n"]
    (1.0, 1.0, 2, 50)
    """
    data = np.stack([np.asarray(row, float) for row in differences])
    seeds, scenes = data.shape
    if seeds == scenes == 1:
        raise NotMeasured("one seed and one value have no interval")
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


@dataclass(frozen=True)
class Claim:
    """One line of the ledger before it is filled in.

    Attributes:
        id: such as "C1".
        text: the claim.
        source: where it is from.
        measure: what the effect is, with its unit.
        judge: gives the figures of `clustered` from the records.
        reversible: whether an effect below zero says the contrary, not only that there is no effect.
    """

    id: str
    text: str
    source: str
    measure: str
    judge: Callable[[dict[str, Record]], dict]
    reversible: bool = True


def _of(records: dict[str, Record], group: str) -> list[Record]:
    """The runs of a group, by seed."""
    found = [run for run in records.values() if run.group == group]
    if not found:
        raise NotMeasured(f"no record of {group}")
    return sorted(found, key=lambda run: run.config["seed"])


def _between(
    arm: str, condition: str, other: str, column: str = "correct", legible: int | None = None
) -> Callable[[dict[str, Record]], dict]:
    """Two conditions of the same runs."""

    def judge(records: dict[str, Record]) -> dict:
        return clustered(
            run.episodes(condition, column, legible) - run.episodes(other, column, legible)
            for run in _of(records, arm)
        )

    return judge


def _against(
    arm: str, other: str, condition: str = "trained", legible: int | None = None
) -> Callable[[dict[str, Record]], dict]:
    """The same condition of two arms, seed by seed."""

    def judge(records: dict[str, Record]) -> dict:
        pairs = zip(_of(records, arm), _of(records, other))
        return clustered(
            a.episodes(condition, "correct", legible) - b.episodes(condition, "correct", legible)
            for a, b in pairs
        )

    return judge


def _steps(
    arm: str, column: str, end: str, other: str, share: float = 1.0
) -> Callable[[dict[str, Record]], dict]:
    """A share of one stretch of a history minus another; only seeds are there to be resampled."""

    def judge(records: dict[str, Record]) -> dict:
        return clustered(
            np.array([share * run.mean(column, end) - run.mean(column, other)])
            for run in _of(records, arm)
        )

    return judge


def predictions(records: dict[str, Record], base: dict) -> list[dict]:
    """C11, run by run: bonus, predicted least bonus, call rate at the start and end of training.

    Args:
        records: of the study.
        base: `study.sweep_base`'s figures, by share of legible details.
    """
    rows = []
    for name in sorted(records):
        run = records[name]
        if run.group != "sweep" or f"{run.config['legible_share']:.1f}" not in base:
            continue
        share, bonus = run.config["legible_share"], run.config["bonus"]
        figures = base[f"{share:.1f}"]
        needed = least_bonus(figures["p_zoom"]["mean"], figures["p_direct"]["mean"])
        before, after = figures["call_rate"]["mean"], run.mean("call_rate", "last")
        rows.append(
            {
                "share": share,
                "bonus": bonus,
                "least_bonus": needed,
                "before": before,
                "after": after,
                "predicted": bonus > needed,
                "observed": after > before,
            }
        )
    return rows


def _collapse(records: dict[str, Record]) -> dict:
    """Share of hits minus one half, so that 0 is a coin."""
    base = load_sweep_base(_of(records, "sweep")[0].folder.parent)
    hits = [float(row["predicted"] == row["observed"]) for row in predictions(records, base)]
    return {**clustered([np.array(hits) - 0.5]), "hits": int(sum(hits))}


_FINE = "accuracy on illegible details"
CLAIMS = (
    Claim(
        "C1",
        "RL from the outcome alone lifts accuracy on fine detail",
        "headline: 71 → 90 on V*",
        f"{_FINE}, trained minus base",
        _between("conditional", "trained", "base", legible=0),
    ),
    Claim(
        "C2",
        "no supervised zoom traces are needed: calls rise from a clumsy base",
        "headline",
        "calls per episode, trained minus base",
        _between("conditional", "trained", "base", "calls"),
    ),
    Claim(
        "C3",
        "selective use: calls fall again while accuracy holds",
        "dynamics figure",
        "calls per episode, nine tenths of the peak minus last steps",
        _steps("conditional", "calls_per_episode", "peak", "last", share=0.9),
        reversible=False,
    ),
    Claim(
        "C4",
        "the boxes get better without box supervision",
        "dynamics figure: IoU 0.25 → 0.35–0.39",
        "best IoU of an episode with a call, last steps minus first",
        _steps("conditional", "best_iou", "last", "first"),
    ),
    Claim(
        "C5a",
        "a conditional bonus is better than an unconditional one",
        "reward ablation",
        f"{_FINE}, conditional minus unconditional",
        _against("conditional", "unconditional", legible=0),
    ),
    Claim(
        "C5b",
        "an unconditional bonus is better than none",
        "reward ablation",
        f"{_FINE}, unconditional minus none",
        _against("unconditional", "none", legible=0),
    ),
    Claim(
        "C5c",
        "without a bonus zooming dies out",
        "reward ablation",
        "call rate of arm none, first steps minus last",
        _steps("none", "call_rate", "first", "last"),
    ),
    Claim(
        "C6",
        "RL on text alone does not reach it on larger images",
        "ablation: HR-8K 72.6 against 60.8",
        "accuracy on the 1536 px canvas, conditional minus text_only",
        _against("conditional", "text_only", "canvas 1536: trained"),
    ),
    *(
        Claim(
            f"C7{letter}",
            f"questions chosen by {name} are better than unfiltered ones at equal steps",
            "data selection",
            f"{_FINE}, {name} minus unfiltered",
            _against(f"data-{name}", "data-unfiltered", legible=0),
        )
        for letter, name in zip("abc", ("difficulty", "benefit", "both"))
    ),
    *(
        Claim(
            f"{id}",
            f"the gain carries over: {name}",
            source,
            f"accuracy on {name}, trained minus base",
            _between("conditional", f"{name}: trained", f"{name}: base"),
        )
        for id, name, source in (
            ("C8a", "canvas 768", "HR-Bench 4K"),
            ("C8b", "canvas 1536", "HR-Bench 8K"),
            ("C8c", "unseen pairs", "HR-Bench"),
            ("C9a", "exists", "transfer table: POPE"),
            ("C9b", "chart", "transfer table: charts"),
        )
    ),
    *(
        Claim(
            f"C10{letter}",
            f"the gain comes from the crop: {name}",
            "control that the paper lacks",
            f"{_FINE}, trained minus trained with {name}",
            _between("conditional", "trained", f"trained, {name}", legible=0),
        )
        for letter, name in zip("abc", ("tool off", "blank crops", "other crops"))
    ),
    Claim(
        "C11",
        "the collapse inequality predicts whether zooming grows or dies",
        "ours",
        "share of runs predicted right, minus one half",
        _collapse,
    ),
)


def verdict(figures: dict, reversible: bool = True) -> str:
    """In words: "replicated", "reversed" or "not replicated"."""
    if figures["low"] > 0:
        return "replicated"
    return "reversed" if figures["high"] < 0 and reversible else "not replicated"


def ledger(folder: str | Path) -> list[dict]:
    """Every claim with its figures and verdict; "not measured" where a record is missing.

    Args:
        folder: the records of the study.
    """
    records = load_records(folder)
    rows = []
    for claim in CLAIMS:
        row = {name: getattr(claim, name) for name in ("id", "text", "source", "measure")}
        try:
            figures = claim.judge(records)
        except NotMeasured:
            rows.append({**row, "verdict": "not measured"})
        else:
            rows.append({**row, **figures, "verdict": verdict(figures, claim.reversible)})
    return rows


def table(rows: list[dict]) -> str:
    """The ledger as a Markdown table."""
    lines = [
        "| | claim | effect [95 %] | p | scenes × seeds | verdict |",
        "|---|---|---|---:|---|---|",
    ]
    for row in rows:
        cells = ["–", "–", "–"]
        if "effect" in row:
            interval = f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
            cells = [
                f"{row['measure']}: {interval}",
                f"{row['p']:.3f}",
                f"{row['n']} × {row['seeds']}",
            ]
        lines.append(f"| {row['id']} | {row['text']} | {' | '.join(cells)} | {row['verdict']} |")
    return "\n".join(lines)
