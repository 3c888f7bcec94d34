"""What is kept of the study's runs, read back, and the tables that are made of it."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deepeyes_lite.config import RunConfig
from deepeyes_lite.evaluation import CONDITIONS, NotMeasured, interval
from deepeyes_lite.training import read_history

WINDOW = 10  # steps that are averaged where a history is read


@dataclass(frozen=True)
class Record:
    """What is kept of one run.

    Attributes:
        folder: with ``config.json``, ``run.json``, ``history.csv`` and, of most runs,
            ``evaluation.json`` and ``episodes.csv``.
    """

    folder: Path

    @cached_property
    def config(self) -> dict:
        """What ``config.json`` holds, see `training.RunConfig`."""
        return _read_json(self.folder / "config.json")

    @cached_property
    def run(self) -> dict:
        """What ``run.json`` holds: the group, the commit, and the machine with its versions."""
        return _read_json(self.folder / "run.json")

    @property
    def group(self) -> str:
        """What the run is for, as `plan.plan` says: a reward variant, "sweep", "data-both", …"""
        return self.run["group"]

    @property
    def device(self) -> str:
        """Name of the GPU, or "CPU"."""
        return self.run["machine"].split(",")[0].split(" (")[0]

    @cached_property
    def history(self) -> list[dict]:
        """The rows of ``history.csv``, one a step."""
        return read_history(self.folder / "history.csv")

    def episodes(self, condition: str, column: str, legible: int | None = None) -> np.ndarray:
        """A column of the episodes of a condition, scene by scene; NaN where it is empty.

        Args:
            condition: such as "trained", or "chart: trained" for another set of scenes.
            column: "correct", "calls", "best_iou", or "at once" (1 for an episode without a call).
            legible: 0 or 1 for one half of the scenes only.

        Raises:
            NotMeasured: if there is no such episode.
        """
        values = [
            float(row["calls"] == "0" if column == "at once" else row[column] or "nan")
            for row in self._rows
            if row["condition"] == condition and legible in (None, int(row["legible"]))
        ]
        if not values:
            raise NotMeasured(f"no episodes of {condition!r} in {self.folder}")
        return np.array(values)

    @cached_property
    def _rows(self) -> list[dict]:
        rows = []
        base = self.folder.parent / "base-transfer.csv"
        for path in (self.folder / "episodes.csv", self.folder / "transfer.csv", base):
            if path.exists():
                with path.open(encoding="utf-8", newline="") as file:
                    rows += csv.DictReader(file)
        return rows

    def mean(self, column: str, stretch: str) -> float:
        """Mean of a column of the history over a stretch.

        Args:
            column: of the history.
            stretch: "first", "last" or "peak" for ``WINDOW`` steps, or steps such as "31-40".
        """
        values = np.array([row[column] for row in self.history])
        if "-" in stretch:
            first, last = map(int, stretch.split("-"))
            return float(values[first - 1 : last].mean())
        windows = np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")
        return float({"first": windows[0], "last": windows[-1], "peak": windows.max()}[stretch])


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def load_records(folder: str | Path) -> dict[str, Record]:
    """The records of a study by name."""
    paths = sorted(Path(folder).glob("*/config.json"))
    return {path.parent.name: Record(path.parent) for path in paths}


def load_sweep_base(folder: str | Path) -> dict:
    """What C11 predicts from, see `run.sweep_base`; empty if it was not measured."""
    path = Path(folder) / "sweep-base.json"
    return _read_json(path) if path.exists() else {}


def spent(records: dict[str, Record]) -> str:
    """What the training of the recorded runs took, by device, as a Markdown table; no evaluation is in it.

    Times are of a process: two of them were run side by side, and each was slower for the other.
    """
    lines = [
        "| device | runs | hours of training | minutes of a variant's 100 steps: median [range] |",
        "|---|---:|---:|---|",
    ]
    minutes = defaultdict(list)  # of each run, by device
    whole = defaultdict(list)  # of the runs with the usual number of steps
    for run in records.values():
        minutes[run.device].append(sum(row["step_time"] for row in run.history) / 60)
        if len(run.history) == RunConfig.steps:
            whole[run.device].append(minutes[run.device][-1])
    for device, values in sorted(minutes.items()):
        usual = "–"
        if some := whole[device]:
            usual = f"{np.median(some):.1f} [{min(some):.1f}, {max(some):.1f}]"
        lines.append(f"| {device} | {len(values)} | {sum(values) / 60:.1f} | {usual} |")
    return "\n".join(lines)


def seeds_table(runs: Iterable[Path]) -> str:
    """Several seeds of one run as a Markdown table, "–" where a condition was not measured.

    Args:
        runs: their folders or records.
    """
    lines = [
        "| seed | illegible: base | trained | tool off | blank crops | other crops "
        "| all: base | trained | call rate | IoU of calls | training |",
        "|---|---|---|---|---|---|---|---|---|---|---:|",
    ]
    for run in sorted(map(Record, runs), key=lambda run: (run.config["seed"], run.folder)):
        conditions = _read_json(run.folder / "evaluation.json")["conditions"]
        base, trained = conditions["base"], conditions["trained"]
        cells = [
            interval(conditions[name]["accuracy_illegible"]) if name in conditions else "–"
            for name in CONDITIONS
        ]
        cells += [interval(base["accuracy"]), interval(trained["accuracy"])]
        for key in ("call_rate", "call_iou"):
            cells.append(f"{base[key]['mean']:.2f} → {trained[key]['mean']:.2f}")
        minutes = sum(row["step_time"] for row in run.history) / 60
        lines.append(f"| {run.config['seed']} | {' | '.join(cells)} | {minutes:.1f} min |")
    return "\n".join(lines)
