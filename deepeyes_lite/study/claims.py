"""The claims ledger: each claim of the paper, what was measured, and the verdict in words.

The claims are data, in ``claims.csv``. What is measured comes out of the records of the study and of nothing
else. An effect is a difference over the same held-out scenes; its interval is a bootstrap over seeds and
scenes, 2,000 times, so that neither a lucky seed nor a lucky scene passes for a finding. Where a seed has
one number (the training history), the interval is Student's t.
"""

import csv
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
    """One line of the ledger before it is filled in; its effect is one mean minus another.

    Attributes:
        id: such as "C1".
        text: the claim.
        source: where it is from.
        measure: what the effect is, with its unit.
        group: of the runs, see `plan.Run`.
        condition: of an evaluation, such as "trained" or "chart: trained"; or a stretch of the training
            history, "first", "last" or "peak"; or an account of `collapse.py`.
        other_group: of the runs whose mean is subtracted; they are paired with the others by seed.
        other_condition: what is subtracted.
        column: of the episodes or of the history; "hits" for the share of runs that an account predicts.
        legible: 0 or 1 for one half of the scenes; None for all.
        share: of the first mean, from which the other one is subtracted.
        reversible: whether an effect below zero says the contrary, not only that there is no effect.
    """

    id: str
    text: str
    source: str
    measure: str
    group: str
    condition: str
    other_group: str
    other_condition: str
    column: str
    legible: int | None
    share: float
    reversible: bool

    def effect(self, records: dict[str, Record]) -> dict:
        """The effect with its interval, as `bootstrap_seeds_and_scenes` gives it.

        Raises:
            NotMeasured: if a record is missing.
        """
        if self.column == "hits":
            return hits(records, self.group, self.condition, self.other_condition)
        pairs = pairs_of(records, self.group, self.other_group)
        if self.condition in ("first", "last", "peak"):
            return t_interval(
                self.share * run.mean(self.column, self.condition)
                - other.mean(self.column, self.other_condition)
                for run, other in pairs
            )
        return bootstrap_seeds_and_scenes(
            run.episodes(self.condition, self.column, self.legible)
            - other.episodes(self.other_condition, self.column, self.legible)
            for run, other in pairs
        )


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a CSV file with a column for each attribute of `Claim`."""
    claims = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            row["legible"] = int(row["legible"]) if row["legible"] else None
            row["share"] = float(row["share"] or 1)
            row["reversible"] = row["reversible"] != "no"
            claims.append(Claim(**row))
    return tuple(claims)


CLAIMS = read_claims(Path(__file__).with_name("claims.csv"))


def pairs_of(records: dict[str, Record], group: str, other: str) -> list[tuple[Record, Record]]:
    """The runs of two groups that have a seed in common, by seed; of one group, each with itself.

    Raises:
        NotMeasured: for fewer than two pairs, for one alone would be no replication.
    """
    runs, others = (
        sorted((r for r in records.values() if r.group == name), key=lambda r: r.config["seed"])
        for name in (group, other)
    )
    by_seed = {run.config["seed"]: run for run in others}
    pairs = [(run, by_seed[seed]) for run in runs if (seed := run.config["seed"]) in by_seed]
    if group == other:
        pairs = list(zip(runs, runs))
    if len(pairs) < 2:
        raise NotMeasured(
            f"{group} and {other} have {len(pairs)} seeds in common, two are the least"
        )
    return pairs


def hits(records: dict[str, Record], group: str, account: str, other: str) -> dict:
    """Share of runs that an account predicts correctly, minus that of another account or of a coin."""
    base = load_sweep_base(pairs_of(records, group, group)[0][0].folder.parent)
    rows = [row for row in predictions(records, base) if row["group"] == group]
    if not rows:
        raise NotMeasured("predictions need the runs of the sweep and the figures of its base")
    hit = np.array([float(row[account] == row["grew"]) for row in rows])
    expected = [0.5 if other == "coin" else float(row[other] == row["grew"]) for row in rows]
    return {**bootstrap_seeds_and_scenes([hit - expected]), "hits": int(hit.sum())}


def predictions(records: dict[str, Record], base: dict) -> list[dict]:
    """C11, run by run: what each account says before training, and what the call rate did.

    Args:
        records: of the study. The rates of `collapse.simulate_call_rate` are fitted to the group "sweep"
            alone; the group "fresh" is what the accounts are compared on.
        base: the base model's figures, see `run.sweep_base`.

    Returns:
        For each run group, share, bonus, before and after (call rates), grew, and by the name of each
        account whether it said so; least_bonus, and the call rate that the race expects. Empty if there
        is nothing to fit the rates to.
    """
    runs = [run for run in records.values() if run.group in ("sweep", "fresh")] if base else []
    worlds = [question_groups(base, run.config["legible_share"]) for run in runs]
    finished = tuple(
        (world, run.config["bonus"], tuple(row["call_rate"] for row in run.history))
        for run, world in zip(runs, worlds)
        if run.group == "sweep"
    )
    if not finished:
        return []
    rates, rows = fit(finished), []
    for run, world in zip(runs, worlds):
        bonus, least_bonus = run.config["bonus"], first_order(world)
        before = sum(kind.share * kind.call_rate for kind in world)
        after = run.mean("call_rate", "last")
        simulated = simulate_call_rate(world, bonus, len(run.history), rates)
        expected = float(simulated[-WINDOW:].mean())
        rows.append(
            {
                "group": run.group,
                "share": run.config["legible_share"],
                "bonus": bonus,
                "before": before,
                "after": after,
                "grew": after > before,
                "least_bonus": least_bonus,
                "first_order": bonus > least_bonus,
                "by_group": by_group(world, bonus),
                "expected": expected,
                "race": expected > before,
            }
        )
    return rows


def question_groups(base: dict, legible_share: float) -> tuple[QuestionGroup, ...]:
    """The base model on legible and on illegible questions, in their shares."""
    shares = {"legible": legible_share, "illegible": 1 - legible_share}
    names = ("call_rate", "p_zoom", "p_direct")
    return tuple(
        QuestionGroup(share, **{name: base[f"{name}_{half}"]["mean"] for name in names})
        for half, share in shares.items()
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
            figures = claim.effect(records)
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
