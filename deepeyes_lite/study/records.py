"""What is kept of the study's runs, read back."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deepeyes_lite.evaluation import NotMeasured
from deepeyes_lite.training import RunConfig, read_history

WINDOW = 10  # steps that are averaged where a history is read
SWEEP_STEPS = 40  # of the runs for the collapse inequality


@dataclass(frozen=True)
class Record:
    """What is kept of one run."""

    folder: Path

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def group(self) -> str:
        """Which runs it is one of, by what its configuration has that others do not have.

        "sweep", "fresh", "divided", "undivided", "data-" and the choice of questions, "long", the arm, or
        "legible-" and the arm where most details are legible.
        """
        config = self.config
        if config.get("trl"):
            return "undivided"
        if config.get("bonus") is not None:
            if config.get("steps", 0) > SWEEP_STEPS:
                return "divided"
            return "fresh" if config["seed"] else "sweep"
        if chosen := Path(config.get("data", "")).name:
            return f"data-{chosen}"
        if config.get("steps", 0) > RunConfig.steps:
            return "long"
        usual = config.get("legible_share", 0.5) == RunConfig.legible_share
        return config["reward"] if usual else f"legible-{config['reward']}"

    @property
    def device(self) -> str:
        """Name of the GPU, or "CPU", which those records are of that do not say it."""
        path = self.folder / "commit.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return lines[1].split(",")[0].split(" (")[0] if len(lines) > 1 else "CPU"

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
        base = self.folder.parent / "base-transfer.csv"
        for path in (self.folder / "episodes.csv", self.folder / "transfer.csv", base):
            if path.exists():
                with path.open(encoding="utf-8", newline="") as file:
                    rows += csv.DictReader(file)
        return rows

    def mean(self, column: str, end: str) -> float:
        """Mean of a column of the history over its first, last or (smoothed) highest steps."""
        values = np.array([row[column] for row in self.history])
        windows = np.convolve(values, np.full(WINDOW, 1 / WINDOW), "valid")
        return float({"first": windows[0], "last": windows[-1], "peak": windows.max()}[end])


def load_records(folder: str | Path) -> dict[str, Record]:
    """The records of a study by name."""
    found = sorted(Path(folder).glob("*/config.json"))
    return {path.parent.name: Record(path.parent) for path in found}


def spent(records: dict[str, Record]) -> str:
    """What the training of the recorded runs took, by device, as a Markdown table; no evaluation is in it.

    Times are of a process: two of them were run side by side, and each was slower for the other.
    """
    lines = [
        "| device | runs | hours of training | minutes of an arm's 100 steps: median [range] |",
        "|---|---:|---:|---|",
    ]
    by_device: dict[str, list[Record]] = {}
    for run in records.values():
        by_device.setdefault(run.device, []).append(run)
    for device, runs in sorted(by_device.items()):
        seconds = [sum(row["step_time"] for row in run.history) for run in runs]
        whole = [s / 60 for s, run in zip(seconds, runs) if len(run.history) == RunConfig.steps]
        usual = f"{np.median(whole):.1f} [{min(whole):.1f}, {max(whole):.1f}]" if whole else "–"
        lines.append(f"| {device} | {len(runs)} | {sum(seconds) / 3600:.1f} | {usual} |")
    return "\n".join(lines)


def load_sweep_base(folder: str | Path) -> dict:
    """What C11 predicts from, by share of legible details; empty if it was not measured."""
    path = Path(folder) / "sweep-base.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
