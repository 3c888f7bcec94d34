"""The claims ledger: each claim of the paper, what was measured, and the verdict in words.

Reads nothing but the records of `study.py`. An effect is a difference over the same held-out scenes; its
interval is a bootstrap over seeds and scenes, 2,000 times, so that neither a lucky seed nor a lucky
scene passes for a finding. Where a seed has one number (the training history), it is Student's t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepeyes_lite.evaluation import NotMeasured, bootstrap_seeds_and_scenes, t_interval
from deepeyes_lite.study.collapse import (
    QuestionGroup,
    by_group,
    first_order,
    fit,
    simulate_call_rate,
)
from deepeyes_lite.study.records import WINDOW, Record, load_records, load_sweep_base


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
    """The runs of a group, by seed; one alone would be no replication."""
    found = [run for run in records.values() if run.group == group]
    if len(found) < 2:
        raise NotMeasured(f"{len(found)} records of {group}, and two are the least")
    return sorted(found, key=lambda run: run.config["seed"])


def _pairs(records: dict[str, Record], arm: str, other: str) -> list[tuple[Record, Record]]:
    """The runs of two groups that have a seed in common."""
    by_seed = {run.config["seed"]: run for run in _of(records, other)}
    pairs = [(a, by_seed[seed]) for a in _of(records, arm) if (seed := a.config["seed"]) in by_seed]
    if len(pairs) < 2:
        raise NotMeasured(f"{arm} and {other} have {len(pairs)} seeds in common, two are the least")
    return pairs


def _between(
    arm: str, condition: str, other: str, column: str = "correct", legible: int | None = None
) -> Callable[[dict[str, Record]], dict]:
    """Two conditions of the same runs."""

    def judge(records: dict[str, Record]) -> dict:
        return bootstrap_seeds_and_scenes(
            run.episodes(condition, column, legible) - run.episodes(other, column, legible)
            for run in _of(records, arm)
        )

    return judge


def _against(
    arm: str, other: str, condition: str = "trained", legible: int | None = None
) -> Callable[[dict[str, Record]], dict]:
    """The same condition of two arms, seed by seed."""

    def judge(records: dict[str, Record]) -> dict:
        return bootstrap_seeds_and_scenes(
            a.episodes(condition, "correct", legible) - b.episodes(condition, "correct", legible)
            for a, b in _pairs(records, arm, other)
        )

    return judge


def _steps(
    arm: str, column: str, end: str, other: str, share: float = 1.0
) -> Callable[[dict[str, Record]], dict]:
    """A share of one stretch of a history minus another; only seeds are there to be resampled."""

    def judge(records: dict[str, Record]) -> dict:
        return t_interval(
            share * run.mean(column, end) - run.mean(column, other) for run in _of(records, arm)
        )

    return judge


def _last(arm: str, other: str, column: str) -> Callable[[dict[str, Record]], dict]:
    """The last steps of two arms' histories, seed by seed; only seeds are there to be resampled."""

    def judge(records: dict[str, Record]) -> dict:
        return t_interval(
            a.mean(column, "last") - b.mean(column, "last") for a, b in _pairs(records, arm, other)
        )

    return judge


def predictions(records: dict[str, Record], base: dict) -> list[dict]:
    """C11, run by run: what each account says before training, and what the call rate did.

    Args:
        records: of the study. The rates of `collapse.race` are fitted to its group "sweep" alone; the
            group "fresh" is what the accounts are compared on.
        base: `study.sweep_base`'s figures of the base model.

    Returns:
        For each run group, share, bonus, before and after (call rates), grew, and by the name of each
        account whether it said so; the least_bonus of the first, and the call rate that the race expects.
    """
    runs = [run for run in records.values() if run.group in ("sweep", "fresh")]
    if not runs or not base:
        return []
    asked = [(halves(base, run.config["legible_share"]), run.config["bonus"]) for run in runs]
    curves = [np.array([row["call_rate"] for row in run.history]) for run in runs]
    fitted = [(*ask, curve) for ask, curve, run in zip(asked, curves, runs) if run.group == "sweep"]
    rates = fit(fitted) if fitted else None
    rows = []
    for run, ask, curve in zip(runs, asked, curves):
        before, after = sum(h.share * h.call_rate for h in ask[0]), run.mean("call_rate", "last")
        row = {
            "group": run.group,
            "share": run.config["legible_share"],
            "bonus": run.config["bonus"],
            "before": before,
            "after": after,
            "grew": after > before,
            "least_bonus": first_order(ask[0]),
            "first_order": run.config["bonus"] > first_order(ask[0]),
            "by_group": by_group(*ask),
        }
        if rates:
            row["expected"] = float(simulate_call_rate(*ask, len(curve), rates)[-WINDOW:].mean())
            row["race"] = row["expected"] > before
        rows.append(row)
    return rows


def halves(base: dict, legible_share: float) -> list[QuestionGroup]:
    """The base model on legible and on illegible questions, in their shares."""
    return [
        QuestionGroup(
            share, *(base[name + half]["mean"] for name in ("call_rate", "p_zoom", "p_direct"))
        )
        for half, share in (("_legible", legible_share), ("_illegible", 1 - legible_share))
    ]


def _hits(account: str, group: str, against: str = "") -> Callable[[dict[str, Record]], dict]:
    """Share of runs that an account predicts right, minus one half (a coin) or another account's."""

    def judge(records: dict[str, Record]) -> dict:
        base = load_sweep_base(_of(records, group)[0].folder.parent)
        rows = [row for row in predictions(records, base) if row["group"] == group]
        if not rows or account not in rows[0]:
            raise NotMeasured(f"no prediction of {account}")
        right = np.array([float(row[account] == row["grew"]) for row in rows])
        other = np.array([float(row[against] == row["grew"]) if against else 0.5 for row in rows])
        return {**bootstrap_seeds_and_scenes([right - other]), "hits": int(right.sum())}

    return judge


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
        "C3a",
        "selective use: calls fall again while accuracy holds",
        "dynamics figure",
        "calls per episode, nine tenths of the peak minus last steps",
        _steps("conditional", "calls_per_episode", "peak", "last", share=0.9),
        reversible=False,
    ),
    Claim(
        "C3b",
        "the same in runs twice as long",
        "ours",
        "calls per episode in 200 steps, nine tenths of the peak minus last steps",
        _steps("long", "calls_per_episode", "peak", "last", share=0.9),
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
        "C5d",
        "so it does where nine in ten details are legible",
        "ours: the users' complaint",
        "call rate of arm none, nine in ten legible, first steps minus last",
        _steps("legible-none", "call_rate", "first", "last"),
    ),
    Claim(
        "C5e",
        "and there the conditional bonus keeps it alive",
        "ours: the cure",
        "call rate of the last steps, nine in ten legible, conditional minus none",
        _last("legible-conditional", "legible-none", "call_rate"),
    ),
    Claim(
        "C5f",
        "which pays off there over all questions, too",
        "ours",
        "accuracy, nine in ten legible, conditional minus none",
        _against("legible-conditional", "legible-none"),
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
            ("C9c", "grounding", "transfer table: refCOCO"),
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
        "P1",
        "the price: it zooms on what it could have read at once",
        "ours",
        "calls per episode on legible details, trained minus base",
        _between("conditional", "trained", "base", "calls", legible=1),
    ),
    Claim(
        "P2",
        "the price: it forgets how to answer at once",
        "ours",
        "accuracy on legible details, base minus trained with tool off",
        _between("conditional", "base", "trained, tool off", legible=1),
    ),
    Claim(
        "C11a",
        "the collapse inequality predicts whether zooming grows or dies",
        "ours",
        "share of runs predicted right, minus one half",
        _hits("first_order", "sweep"),
    ),
    *(
        Claim(
            f"C11{letter}",
            f"on fresh runs, an account {how} predicts better",
            "ours",
            f"share of runs predicted right, {account} minus the inequality",
            _hits(account, "fresh", "first_order"),
        )
        for letter, account, how in (
            ("b", "by_group", "that compares within groups"),
            ("c", "race", "in which boxes improve while it calls"),
        )
    ),
    Claim(
        "C11d",
        "a small bonus is enough because GRPO divides by the group's deviation",
        "ours",
        "call rate of the last steps, bonus 0.05, divided minus not",
        _last("divided", "undivided", "call_rate"),
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

    Raises:
        FileNotFoundError: if there is no record at all.
    """
    records = load_records(folder)
    if not records:
        raise FileNotFoundError(f"no records in {folder}; make them with `study`")
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
                "<0.001" if row["p"] < 0.0005 else f"{row['p']:.3f}",
                f"{row['n']} × {row['seeds']}",
            ]
        lines.append(f"| {row['id']} | {row['text']} | {' | '.join(cells)} | {row['verdict']} |")
    return "\n".join(lines)
