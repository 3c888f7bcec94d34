"""Move through recorded runs step by step: their curves, and what the policy did on the same scenes."""

import math
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from deepeyes_lite.viz import html, plots
from deepeyes_lite.viz.snapshots import read_run
from deepeyes_lite.viz.widgets.explorable import Explorable

COLORS = ("blue", "orange", "green")
FEWEST = 5  # episodes behind a point of p_zoom or p_direct; a share of fewer is noise
COUNTS = {"p_zoom": "n_zoom", "p_direct": "n_direct"}


class TrainingScrubber(Explorable):
    """One slider over the steps of a run; it plays, and lays several runs over each other."""

    title = "A run, step by step"

    def __init__(self, *folders: str | Path):
        """Open runs.

        Args:
            folders: run folders as `train` leaves them; ``history.csv`` is needed, and ``snapshots/`` shows
                scenes.

        Raises:
            FileNotFoundError: for a folder without ``history.csv`` or ``config.json``.
            ValueError: without a folder, or with one whose history is empty.
        """
        if not folders:
            raise ValueError("give the folder of at least one run, such as runs/demo-conditional-0")
        self.runs = {str(folder): read_run(folder) for folder in folders}

    @cached_property
    def data(self) -> dict:
        """Curves, scenes and episodes of every run."""
        panels = [
            {"title": title, "unit": unit, "columns": [_column(*c) for c in zip(columns, COLORS)]}
            for title, unit, columns in plots.PANELS
        ]
        return {"panels": panels, "runs": [_run(name, *run) for name, run in self.runs.items()]}

    @property
    def still(self) -> Markup:
        """The curves of the first run."""
        history, _ = next(iter(self.runs.values()))
        row = history[-1]
        figures = ", ".join(
            f"{name.replace('_', ' ')} {row[name]:.2f}"
            for name in ("accuracy", "call_rate", "best_iou", "p_zoom", "p_direct")
        )
        alt = f"Training curves over {len(history)} steps, at the last: {figures}."
        return plots.image_tag(plots.curves(history), alt, dpi=80)


def _column(key: str, color: str) -> dict:
    return {"key": key, "label": plots.LABELS[key], "color": color}


def _run(name: str, history: list[dict], snapshots: dict) -> dict:
    curves = {}
    for column in plots.LABELS:
        count = COUNTS.get(column)
        raw = [math.nan if count and row[count] < FEWEST else float(row[column]) for row in history]
        curves[column] = {"raw": _known(raw), "smooth": _known(plots.smooth(raw))}
    first = next(iter(snapshots.values()), [])
    return {
        "name": html.line(Path(name).name or name, 60),
        "steps": [int(row["step"]) for row in history],
        "curves": curves,
        "scenes": [
            {"picture": html.picture(t), "question": html.line(t.sample.get("question", ""))}
            for t in first
        ],
        "shots": [
            {"step": step, "episodes": [*map(_episode, episodes)]}
            for step, episodes in snapshots.items()
        ],
    }


def _episode(t) -> dict:
    return {
        "correct": t.correct,
        "called": t.called,
        "verdict": html.excerpt(html.verdict(t), 200),
        "boxes": html.boxes(t),
        "turns": html.turns(t),
    }


def _known(values) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 3) for value in values]
