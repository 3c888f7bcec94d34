"""The study: the claims of DeepEyes that a tiny world can put to the test, over seeds, by one command.

``python -m deepeyes_lite study`` shows its plan, then trains and evaluates run after run. Killed at any
moment it goes on where it was; what it measured is kept, small, in a folder of records, and `claims.py`
reads nothing else.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from tqdm.auto import tqdm

from deepeyes_lite.evaluation import evaluate_run
from deepeyes_lite.history import read_history
from deepeyes_lite.training import RunConfig, read_config, train

RECORD = ("config.json", "history.csv", "evaluation.json", "episodes.csv")
SEEDS = {"conditional": 5, "unconditional": 5, "none": 5, "text_only": 3, "curiosity": 3, "iou": 3}
# The sweep of C11: short runs from the same base on both sides of the line of `rewards.least_bonus`.
SWEEP_SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
SWEEP_BONUSES = (0.0, 0.2, 0.6, 1.2)
SWEEP_STEPS = 60


def plan(base: RunConfig = RunConfig()) -> dict[str, RunConfig]:
    """Name and configuration of every run, the most important first."""
    runs = {}
    for seed in range(max(SEEDS.values())):
        for arm, seeds in SEEDS.items():
            if seed < seeds:
                runs[f"{arm}-{seed}"] = replace(base, arm=arm, seed=seed)
    for share in SWEEP_SHARES:
        for bonus in SWEEP_BONUSES:
            runs[f"sweep-{share:.1f}-{bonus:.1f}"] = replace(
                base, steps=SWEEP_STEPS, legible_share=share, bonus=bonus
            )
    return runs


def study(
    out: str | Path, records: str | Path, only: str = "*", samples: int = 300
) -> Iterable[str]:
    """Train, evaluate and record every run of the plan that is not recorded yet.

    Args:
        out: folder of the runs; large, not kept.
        records: folder of what was measured; small, kept.
        only: pattern of the names to run, such as "conditional-*".
        samples: held-out scenes of an evaluation.
    """
    runs = {name: config for name, config in plan().items() if fnmatch(name, only)}
    for name, config in tqdm(runs.items(), desc="study"):
        if not recorded(Path(records) / name, config):
            run = train(config, Path(out) / name)
            evaluate_run(run, samples)
            record(run, Path(records) / name)


def recorded(folder: Path, config: RunConfig) -> bool:
    """Whether the folder holds the whole record of this run."""
    there = all((folder / name).exists() for name in RECORD)
    return (
        there
        and read_config(folder) == config
        and len(read_history(folder / "history.csv")) == config.steps
    )


def record(run: Path, to: Path) -> None:
    """Keep what a run measured, and the commit it was measured at; all or nothing."""
    aside = to.with_name(to.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in RECORD:
        shutil.copy(run / name, aside / name)
    (aside / "commit.txt").write_text(commit() + "\n")
    shutil.rmtree(to, ignore_errors=True)
    os.replace(aside, to)


def commit() -> str:
    """The commit of the working tree, "unknown" outside of one; "+" if files were changed since."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
