"""The study: the claims of DeepEyes that a tiny world can put to the test, over seeds, by one command.

``python -m deepeyes_lite study`` shows its plan, then trains and measures run after run. Killed at any
moment it goes on where it was; started twice, the two share the runs. What it measured is kept, small, in
a folder of records, from which `claims.py` fills the ledger.
"""

import gc
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from datasets import Dataset
from filelock import FileLock
from tqdm.auto import tqdm

from deepeyes_lite import selection
from deepeyes_lite.doctor import machine
from deepeyes_lite.evaluation import evaluate_run, summarise, write_episodes
from deepeyes_lite.files import atomic_write, file_lock
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rewards import WITHOUT_TOOL
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.records import SWEEP_STEPS
from deepeyes_lite.tinyworld.dataset import held_out, tiny_world
from deepeyes_lite.tinyworld.pretraining.card import grounding
from deepeyes_lite.tinyworld.questions import CORRUPTIONS
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.training import RunConfig, load_trained, read_config, read_history, train

SEEDS = {"conditional": 5, "unconditional": 5, "none": 5, "text_only": 3, "curiosity": 3, "iou": 3}
# Where nine in ten details are legible, answering at once is mostly right: the world in which calls die.
MOSTLY_LEGIBLE, LEGIBLE_VARIANTS = 0.9, ("none", "conditional")
# Where a gain should carry over: the scenes, and the counterpart in the paper.
SETS: dict[str, Callable[[int], Dataset]] = {
    "canvas 768": lambda n: tiny_world("test", n, World(canvas=768)),  # HR-Bench 4K
    "canvas 1536": lambda n: tiny_world("test", n, World(canvas=1536)),  # HR-Bench 8K
    "unseen pairs": lambda n: tiny_world("test", n, World(pairs="unseen")),
    "exists": lambda n: tiny_world("test", n, kind="exists"),  # POPE
    "chart": lambda n: tiny_world("test", n, kind="chart"),  # ArxivQA
}
# C7: what training questions are chosen by. All are drawn from the same spoiled scenes.
SELECTIONS = ("unfiltered", "difficulty", "benefit", "both")
CORRUPTED = dict.fromkeys(CORRUPTIONS, 0.1)
# Whether calls grow or die shows early, and so does what a choice of questions saves; C3's third stage
# may come late.
SHORT_STEPS, MIDDLE_STEPS, LONG_STEPS = SWEEP_STEPS, 60, 200
# C11: short runs from the same base, on both sides of the line of `rewards.least_bonus`; and fresh ones,
# on which nothing was fitted.
SWEEPS = (
    ("sweep", (0.1, 0.3, 0.5, 0.7, 0.9), (0.0, 0.4, 0.8, 1.2)),
    ("fresh", (0.2, 0.4, 0.6, 0.8), (0.0, 0.05, 0.2, 0.6, 1.0)),
)


# C11: a small bonus where nine in ten details are legible, with advantages as GRPO has them, and as Dr. GRPO
# has them: not divided by the group's deviation.
SMALL_BONUS = 0.05
DIVISIONS = (("divided", {}), ("undivided", {"scale_rewards": "none"}))


@dataclass(frozen=True)
class Run:
    """One run of the plan.

    Attributes:
        config: what is trained.
        measured: how it is measured afterwards: "full" (every control, and the other ``SETS``),
            "controls" (`evaluation.evaluate_run`) or "history" (not at all).
    """

    config: RunConfig
    measured: str = "controls"

    @property
    def files(self) -> tuple[str, ...]:
        """What is kept of the run's folder."""
        files = {"history": (), "controls": ("evaluation.json", "episodes.csv")}
        files["full"] = (*files["controls"], "transfer.csv")
        return ("config.json", "history.csv", *files[self.measured])


def plan(base: RunConfig, data: Path) -> dict[str, Run]:
    """Name and run, the most important first.

    Args:
        base: what all runs share; its seed is the first one's. The sweeps keep theirs, which tell fitted
            runs from fresh ones.
        data: folder of the selected training questions (`prepare`).
    """
    runs, first = {}, base.seed
    for seed in range(first, first + max(SEEDS.values())):
        for name, seeds in SEEDS.items():
            if seed < first + seeds:
                measured = "full" if name in ("conditional", "text_only") else "controls"
                runs[f"{name}-{seed}"] = Run(replace(base, reward=name, seed=seed), measured)
    for seed, name in product(range(first, first + 5), LEGIBLE_VARIANTS):
        config = replace(
            base, steps=MIDDLE_STEPS, reward=name, legible_share=MOSTLY_LEGIBLE, seed=seed
        )
        runs[f"legible-{name}-{seed}"] = Run(config)
    for seed, (name, shares, bonuses) in enumerate(SWEEPS):
        for share, bonus in product(shares, bonuses):
            config = replace(base, steps=SHORT_STEPS, legible_share=share, bonus=bonus, seed=seed)
            runs[f"{name}-{share:.2f}-{bonus:.2f}"] = Run(config, "history")
    for seed, (name, trl) in product(range(first, first + 3), DIVISIONS):
        config = replace(
            base,
            steps=MIDDLE_STEPS,
            legible_share=MOSTLY_LEGIBLE,
            bonus=SMALL_BONUS,
            seed=seed,
            trl=trl,
        )
        runs[f"{name}-{seed}"] = Run(config, "history")
    for seed in range(first, first + 5):
        for name in SELECTIONS:
            config = replace(base, steps=MIDDLE_STEPS, data=str(data / name), seed=seed)
            runs[f"data-{name}-{seed}"] = Run(config)
    for seed in range(first, first + 3):
        runs[f"long-{seed}"] = Run(replace(base, steps=LONG_STEPS, seed=seed))
    return runs


def study(
    out: str | Path,
    records: str | Path,
    base: RunConfig,
    only: str = "*",
    samples: int = 300,
) -> None:
    """Train, measure and record every run of the plan that has no record yet.

    Processes with the same folders share the work: each takes runs that no other one is at.

    Args:
        out: folder of the runs; large, not kept.
        records: folder of what was measured; small, kept.
        base: what all runs share.
        only: pattern of the names to run, such as "conditional-*".
        samples: held-out scenes of every measurement.
    """
    out, records = Path(out), Path(records)
    runs = {n: run for n, run in plan(base, out / "data").items() if fnmatch(n, only)}
    left = {n: run for n, run in runs.items() if not recorded(records / n, run)}
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them recorded; next: {', '.join(left)}")
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".shared.lock"):  # a second process waits for what both need
        if any(run.config.bonus is not None for run in left.values()):
            sweep_base(base, records / "sweep-base.json", samples)
        if any(run.measured == "full" for run in left.values()):
            transfer(*load(base.model), "base", samples, records / "base-transfer.csv")
        if any(run.config.data for run in left.values()):
            prepare(base, out / "data")
            records.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "data" / "selections.json", records)
    elsewhere = []
    for name, run in tqdm(left.items(), desc="study"):
        with file_lock(out / f".{name}.lock") as free:
            if not free:
                elsewhere.append(name)
            elif not recorded(records / name, run):  # by another process, meanwhile
                _carry_out(run, out / name, samples)
                record(out / name, records / name, run.files)
                gc.collect()  # a trainer refers to itself: the memory of many would pile up
    if elsewhere:
        print(f"left to another process: {', '.join(elsewhere)}")


def _carry_out(run: Run, folder: Path, samples: int) -> None:
    """Train and measure one run in its folder; what is there already stays."""
    train(run.config, folder)
    if run.measured != "history":
        evaluate_run(folder, samples)
    if run.measured == "full":
        tools = run.config.reward not in WITHOUT_TOOL
        transfer(*load_trained(folder), "trained", samples, folder / "transfer.csv", tools)


def recorded(folder: Path, run: Run) -> bool:
    """Whether the folder holds the whole record of this run."""
    if not all((folder / name).exists() for name in run.files):
        return False
    rows = read_history(folder / "history.csv")
    return read_config(folder) == run.config and len(rows) == run.config.steps


def record(folder: Path, to: Path, files: Iterable[str]) -> None:
    """Keep these files of a run's folder, and at which commit they were made and on what; all or nothing."""
    with atomic_write(to) as tmp:
        tmp.mkdir()
        for name in files:
            shutil.copy(folder / name, tmp / name)
        (tmp / "commit.txt").write_text(f"{commit()}\n{machine()}\n", encoding="utf-8")


def commit() -> str:
    """The commit of the working tree, with a "+" if files were changed since; "unknown" without one."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def transfer(model, processor, who: str, samples: int, path: Path, tools: bool = True) -> None:
    """A model on the other ``SETS``, and pointing at named objects; a line an episode.

    Args:
        model, processor: who is measured.
        who: its name in the conditions: "base" or "trained".
        samples: scenes of every set.
        path: the CSV file to write; one that is there stays.
        tools: whether its prompts offer the tool; pointing is asked in a single turn without it.
    """
    if path.exists():
        return
    policy = LocalPolicy(model, processor, tools=tools)
    episodes = {
        f"{name}: {who}": rollout(draw(samples), policy, tool="on" if tools else "off")
        for name, draw in SETS.items()
    }
    greedy = LocalPolicy(model, processor, tools=False, temperature=0.0)
    episodes[f"grounding: {who}"] = grounding(held_out(samples), greedy)
    with atomic_write(path) as tmp:
        write_episodes(episodes, tmp)


def sweep_base(base: RunConfig, path: Path, samples: int) -> None:
    """What C11 predicts from: the base model's figures for legible and illegible details apart."""
    if path.exists():
        return
    found = summarise(rollout(held_out(2 * samples), LocalPolicy(*load(base.model))))
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def prepare(base: RunConfig, out: Path, n: int = 1000) -> None:
    """The training questions of C7, each kind in a folder of ``out``; one that is there stays.

    ``selections.json`` there says what they hold: questions, legible ones, planted errors. Pass rates come
    from the base model with the tool, the benefit from its likeliest answers.
    """
    if all((out / name).exists() for name in (*SELECTIONS, "selections.json")):
        return
    drawn = tiny_world("train", n, start=500_000, corrupted=CORRUPTED)
    model = load(base.model)
    hard = selection.difficulty(drawn, LocalPolicy(*model), record=out / "difficulty.jsonl")
    greedy = LocalPolicy(*model, temperature=0.0)
    useful = selection.tool_benefit(drawn, greedy, record=out / "tool_benefit.jsonl")
    both = [not (a or b) for a, b in zip(hard["dropped"], useful["dropped"])]
    chosen = {
        "unfiltered": drawn,
        "difficulty": selection.kept(hard),
        "benefit": selection.kept(useful),
        "both": drawn.select([i for i, keep in enumerate(both) if keep]),
    }
    holds = {}
    for name, rows in chosen.items():
        with atomic_write(out / name) as tmp:
            rows.save_to_disk(tmp)
        planted = sum("planted" in source for source in rows["source"])
        holds[name] = {"questions": len(rows), "legible": sum(rows["legible"]), "planted": planted}
    with atomic_write(out / "selections.json") as tmp:
        tmp.write_text(json.dumps(holds, indent=2) + "\n", encoding="utf-8")
