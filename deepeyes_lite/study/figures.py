"""The study's figures, made of its records alone; in the manner of `viz/plots.py`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.study.claims import predictions
from deepeyes_lite.study.records import Record, load_records, load_sweep_base
from deepeyes_lite.viz.plots import BLUE, GREY, ORANGE, STYLES, png, smooth

# Six variants in one picture: two colours more, and dashes that differ from the others.
VARIANT_STYLES = [*STYLES, ("#CC79A7", (0, (5, 1))), ("#56B4E9", (0, (3, 1, 1, 1)))]
Histories = dict[str, list[list[dict]]]  # for each variant the histories of its seeds


def write_figures(records: str | Path, rows: list[dict], out: str | Path) -> list[Path]:
    """All figures that the records are enough for, as PNG files.

    Args:
        records: folder of the study's records.
        rows: the ledger.
        out: folder to write.
    """
    runs = load_records(records)
    figures = {}
    if variants := by_variant(runs):
        figures["variants"] = variant_curves(variants)
    if mostly_legible := by_variant(runs, "legible-"):
        figures["complaint"] = seed_lines(mostly_legible)
    if sweep := predictions(runs, load_sweep_base(records)):
        figures["collapse"] = phase_diagram(sweep)
    if any("effect" in row for row in rows):
        figures["claims"] = forest(rows)
    Path(out).mkdir(parents=True, exist_ok=True)
    paths = [Path(out) / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values()):
        path.write_bytes(png(figure))
    return paths


def by_variant(records: dict[str, Record], prefix: str = "") -> Histories:
    """The histories of every reward variant that has records, by its name.

    Args:
        records: of the study.
        prefix: "legible-" for the world in which most details are legible.
    """
    histories = {
        name: [run.history for run in records.values() if run.group == prefix + name]
        for name in VARIANTS
    }
    return {name: runs for name, runs in histories.items() if runs}


def variant_curves(runs: Histories) -> Figure:
    """Training curves of several variants: the mean over seeds, and a band from the least to the greatest."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = [
        ("accuracy_illegible", "Accuracy, illegible details", "share of episodes"),
        ("call_rate", "Call rate", "share of episodes"),
        ("best_iou", "Boxes", "best IoU with the target"),
    ]
    for axes, (column, title, unit) in zip(figure.subplots(1, 3), panels):
        for n, (name, histories) in enumerate(runs.items()):
            color, style = VARIANT_STYLES[n % len(VARIANT_STYLES)]
            curves = [smooth([row[column] for row in history], 9) for history in histories]
            length = min(map(len, curves))
            data = np.ma.masked_invalid([curve[:length] for curve in curves])  # (seeds, steps)
            steps = np.arange(1, length + 1)
            axes.fill_between(steps, data.min(0), data.max(0), color=color, alpha=0.12, linewidth=0)
            label = f"{name} ({len(histories)})"
            axes.plot(steps, data.mean(0), linestyle=style, color=color, linewidth=2, label=label)
        axes.set(title=title, xlabel="step", ylabel=unit, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    # Where curves are not: boxes are never hit whole.
    place = {"loc": "upper left", "ncols": 2}
    figure.axes[2].legend(fontsize=9, title="(number of seeds)", title_fontsize=9, **place)
    return figure


def seed_lines(runs: Histories) -> Figure:
    """Call rate and accuracy by step, a line a seed: for runs of a variant that differ."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = [("call_rate", "Call rate"), ("accuracy", "Accuracy, all questions")]
    for axes, (column, title) in zip(figure.subplots(1, 2), panels):
        for (name, histories), (color, style) in zip(runs.items(), STYLES):
            for n, history in enumerate(histories):
                values = smooth([row[column] for row in history])
                label = f"{name} ({len(histories)} seeds)" if n == 0 else None
                steps = range(1, len(values) + 1)
                axes.plot(steps, values, linestyle=style, color=color, linewidth=2, label=label)
        axes.set_title(title, fontsize=14)
        axes.set_xlabel("step", fontsize=13)
        axes.set_ylabel("share of episodes", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.set(ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    figure.axes[1].legend(fontsize=12, loc="lower right")
    return figure


def phase_diagram(rows: list[dict]) -> Figure:
    """C11: where zooming grew and where it died, against the line of the inequality; and the race.

    Args:
        rows: of `claims.predictions`.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    plane, race = figure.subplots(1, 2)
    line = sorted({(row["share"], row["least_bonus"]) for row in rows})
    plane.plot(*zip(*line), color=GREY, linewidth=2, label="least bonus of the inequality")
    for grew, color, marker, label in ((True, BLUE, "^", "grew"), (False, ORANGE, "v", "fell")):
        for hit, words in ((True, "as predicted"), (False, "against it")):
            runs = [r for r in rows if r["grew"] == grew and (r["first_order"] == grew) == hit]
            plane.scatter(
                [run["share"] for run in runs],
                [run["bonus"] for run in runs],
                s=60,
                marker=marker,
                facecolor=color if hit else "white",
                edgecolor=color,
                label=f"{label}, {words} ({len(runs)})",
            )
    plane.set(title="Did zooming grow?", xlabel="share of legible details")
    plane.set(ylabel="bonus for a right answer with a zoom")
    # Below the axes, for runs lie everywhere in them.
    plane.legend(fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    for group, face, words in (("sweep", "white", "fitted to"), ("fresh", BLUE, "fresh")):
        runs = [row for row in rows if row["group"] == group]
        expected, after = ([run[key] for run in runs] for key in ("expected", "after"))
        label = f"{words} ({len(runs)})"
        race.scatter(expected, after, facecolor=face, edgecolor=BLUE, label=label)
    race.plot([0, 1], [0, 1], color=GREY, linewidth=1.5)
    race.set(title="Call rate at the end", xlabel="expected by the race", ylabel="observed")
    race.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    race.legend(fontsize=9)
    for axes in (plane, race):
        axes.grid(alpha=0.3)
    return figure


def forest(rows: list[dict]) -> Figure:
    """The claims ledger as a picture: every effect with its interval, and the verdict in words."""
    rows = [row for row in rows if "effect" in row]
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    looks = {"replicated": (BLUE, "o"), "shown": (BLUE, "o"), "contradicted": (ORANGE, "D")}
    for place, row in enumerate(rows):
        color, marker = looks.get(row["verdict"], (GREY, "s"))
        axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2)
        axes.plot(row["effect"], place, marker, color=color, markersize=8)
        axes.text(1.02, place, row["verdict"], va="center", transform=axes.get_yaxis_transform())
    axes.axvline(0, color="black", linewidth=1)
    names = [f"{row['id']}  {row['measure']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.set(xlabel="effect with its 95 % interval", ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    return figure
