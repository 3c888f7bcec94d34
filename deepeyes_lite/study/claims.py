"""The claims ledger: each claim of the paper, what was measured, and the verdict in words.

The claims are data, in ``claims.csv``. What is measured comes out of the records of the study and of nothing
else. An effect is a difference over the same held-out scenes; its interval is a bootstrap over seeds and
scenes, 2,000 times, so that neither a lucky seed nor a lucky scene passes for a finding. Where a seed has
one number (the training history), the interval is Student's t. "No difference" is a verdict of its own: an
interval that holds zero does not show it, one that lies within ``MARGIN`` of zero does.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
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

MARGIN = 0.05  # an effect that is smaller than this is none
# The race is fitted to runs of 40 steps. These are longer, and in other worlds: does it hold there?
LONGER = ("none", "legible-none", "divided")


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
            history, see `Record.mean`; or an account of `collapse.py`.
        other_group: of the runs whose mean is subtracted; they are paired with the others by seed.
        other_condition: what is subtracted.
        column: of the episodes, see `Record.episodes`, or of the history; "hits" for the share of runs that
            an account predicts.
        legible: 0 or 1 for one half of the scenes; None for all.
        share: of the first mean, from which the other one is subtracted.
        fixed: the verdict where no figure can give it: "true by construction", "cannot be tested here".
        note: what has to be known beside the verdict; may name figures of the row in braces.
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
    fixed: str
    note: str

    def effect(self, records: dict[str, Record]) -> dict:
        """The effect with its interval, as `bootstrap_seeds_and_scenes` gives it.

        With it come the two means (``mean``, ``other_mean``), and ``devices``: for each device its effect
        and its seeds.

        Raises:
            NotMeasured: if a record is missing.
        """
        if self.column == "hits":
            return hits(records, self.group, self.condition, self.other_condition)
        pairs = pairs_of(records, self.group, self.other_group)
        if re.fullmatch(r"first|last|peak|\d+-\d+", self.condition):
            values = [
                (
                    self.share * run.mean(self.column, self.condition),
                    other.mean(self.column, self.other_condition),
                )
                for run, other in pairs
            ]
            figures = t_interval(a - b for a, b in values)
        else:
            values = [
                (
                    run.episodes(self.condition, self.column, self.legible),
                    other.episodes(self.other_condition, self.column, self.legible),
                )
                for run, other in pairs
            ]
            figures = bootstrap_seeds_and_scenes(a - b for a, b in values)
        figures["mean"], figures["other_mean"] = (float(np.nanmean(v)) for v in zip(*values))
        by_device = defaultdict(list)
        for (run, _), (a, b) in zip(pairs, values):
            by_device[run.device].append(np.nanmean(a - b))
        figures["devices"] = {
            device: {"effect": float(np.mean(effects)), "seeds": len(effects)}
            for device, effects in by_device.items()
        }
        return figures


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a CSV file with a column for each attribute of `Claim`."""
    claims = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            row["legible"] = int(row["legible"]) if row["legible"] else None
            row["share"] = float(row["share"] or 1)
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
    """Share of runs that an account predicts correctly, minus that of another one.

    Args:
        records: of the study.
        group: of the runs; "longer" for those of ``LONGER``.
        account: whose hits are counted, a key of `predictions`.
        other: whose hits are subtracted.
    """
    base = load_sweep_base(next(iter(records.values())).folder.parent)
    longer = group == "longer"
    rows = predictions(records, base, LONGER if longer else (group,), 0.5 if longer else None)
    if not rows:
        raise NotMeasured("predictions need the runs of the sweep and the figures of its base")
    hit, expected = (
        np.array([float(row[name] == row["grew"]) for row in rows]) for name in (account, other)
    )
    return {
        **bootstrap_seeds_and_scenes([hit - expected]),
        "mean": float(hit.mean()),
        "other_mean": float(expected.mean()),
        "hits": int(hit.sum()),
        "missed": [row["name"] for row, right in zip(rows, hit) if not right],
    }


def predictions(
    records: dict[str, Record],
    base: dict,
    groups: Sequence[str] = ("sweep", "fresh"),
    bar: float | None = None,
) -> list[dict]:
    """C11, run by run: what each account says before training, and what the call rate did.

    Args:
        records: of the study. The rates of `collapse.simulate_call_rate` are fitted to the group "sweep"
            alone; the group "fresh" is what the accounts are compared on.
        base: the base model's figures, see `run.sweep_base`.
        groups: of the runs to predict.
        bar: call rate that has to be passed to have grown; None for that of the base model.

    Returns:
        For each run name, group, share, bonus, before and after (call rates), grew, and by the name of each
        account whether it said so; least_bonus, and the call rate that the race expects. Two accounts are
        trivial: "always" it grows, or wherever there is a "bonus". Empty if there is nothing to fit the
        rates to.
    """
    runs = [run for run in records.values() if run.group in ("sweep", *groups)] if base else []
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
        if run.group not in groups:
            continue
        bonus, least_bonus = run.config["bonus"] or 0.0, first_order(world)  # None without a bonus
        before = sum(kind.share * kind.call_rate for kind in world)
        after = run.mean("call_rate", "last")
        simulated = simulate_call_rate(world, bonus, len(run.history), rates)
        expected = float(simulated[-WINDOW:].mean())
        needed = before if bar is None else bar
        rows.append(
            {
                "name": run.folder.name,
                "group": run.group,
                "share": run.config["legible_share"],
                "bonus": bonus,
                "before": before,
                "after": after,
                "grew": after > needed,
                "always": True,
                "bonus > 0": bonus > 0,
                "least_bonus": least_bonus,
                "first_order": bonus > least_bonus,
                "by_group": by_group(world, bonus),
                "expected": expected,
                "race": expected > needed,
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


def verdict(figures: dict, confirmed: str = "replicated") -> str:
    """In words: ``confirmed``, "contradicted", "no difference" or "inconclusive".

    "No difference" is an equivalence test: its interval of 95 % is stricter than two one-sided tests at 5 %,
    for which 90 % would do.

    >>> verdict({"low": -0.02, "high": 0.03}), verdict({"low": -0.1, "high": 0.03})
    ('no difference', 'inconclusive')
    """
    if figures["low"] > 0:
        return confirmed
    if figures["high"] < 0:
        return "contradicted"
    return "no difference" if max(-figures["low"], figures["high"]) < MARGIN else "inconclusive"


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
            # What is no paper's claim cannot be replicated.
            confirmed = "shown" if claim.source.startswith("ours") else "replicated"
            words = claim.fixed or verdict(figures, confirmed)
            rows.append({**row, **figures, "verdict": words, "note": _note(claim.note, figures)})
    return rows


def _note(text: str, figures: dict) -> str:
    devices = (
        f"{name} {of['effect']:+.2f} ({of['seeds']} seeds)"
        for name, of in figures.get("devices", {}).items()
    )
    missed = ", ".join(figures.get("missed", []))
    return text.format_map({**figures, "devices": ", ".join(devices), "missed": missed})


def table(rows: list[dict]) -> str:
    """The ledger as a Markdown table."""
    lines = [
        "| | claim | effect [95 %] | p | scenes × seeds | verdict |",
        "|---|---|---|---:|---|---|",
    ]
    for row in rows:
        cells = ["–", "–", "–"]
        if "effect" in row:
            cells = [
                f"{row['measure']}: {interval(row)}",
                p_value(row["p"]),
                f"{row['n']} × {row['seeds']}",
            ]
        words = row["verdict"] + (f"; {row['note']}" if row.get("note") else "")
        lines.append(f"| {row['id']} | {row['text']} | {' | '.join(cells)} | {words} |")
    return "\n".join(lines)


def interval(row: dict) -> str:
    """Both means and their difference with its interval, as text.

    >>> interval({"mean": 0.9, "other_mean": 0.1, "effect": 0.8, "low": 0.75, "high": 0.85})
    '0.90 against 0.10: +0.80 [+0.75, +0.85]'
    """
    ends = f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['mean']:.2f} against {row['other_mean']:.2f}: {ends}"


def p_value(p: float) -> str:
    """A p as text; 2,000 resamples cannot tell one below 0.001 from 0.001.

    >>> p_value(0.001), p_value(0.0123)
    ('≤ 0.001', '0.012')
    """
    return "≤ 0.001" if p <= 0.001 else f"{p:.3f}"
