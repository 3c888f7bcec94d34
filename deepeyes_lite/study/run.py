"""The study: the claims of DeepEyes that a tiny world can put to the test, over seeds, by one command.

``python -m deepeyes_lite study`` shows its plan (`plan.py`), then trains and measures run after run. Killed
at any moment it goes on where it was; started twice, the two share the runs. What was measured is kept,
small, in a folder of records, from which `claims.py` fills the ledger.
"""

import gc
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm

from deepeyes_lite import selection
from deepeyes_lite.config import RunConfig
from deepeyes_lite.doctor import machine
from deepeyes_lite.evaluation import evaluate_run, summarise, write_episodes
from deepeyes_lite.files import atomic_write, file_lock
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy, OracleZoomPolicy
from deepeyes_lite.rewards import WITHOUT_TOOL
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.plan import SELECTIONS, Run, plan
from deepeyes_lite.tinyworld.dataset import held_out, tiny_world, training_questions
from deepeyes_lite.tinyworld.pretraining.card import grounding
from deepeyes_lite.tinyworld.questions import CORRUPTIONS, label_of
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.training import load_trained, read_config, read_history, train
from deepeyes_lite.viz.snapshots import snapshots_of

# Where a gain should carry over: the scenes, and the counterpart in the paper.
SETS: dict[str, Callable[[int], Dataset]] = {
    "canvas 768": lambda n: tiny_world("test", n, World(canvas=768)),  # HR-Bench 4K
    "canvas 1536": lambda n: tiny_world("test", n, World(canvas=1536)),  # HR-Bench 8K
    "unseen pairs": lambda n: tiny_world("test", n, World(pairs="unseen")),
    "exists": lambda n: tiny_world("test", n, kind="exists"),  # POPE
    "chart": lambda n: tiny_world("test", n, kind="chart"),  # ArxivQA
}
CORRUPTED = dict.fromkeys(CORRUPTIONS, 0.1)  # shares of the questions from which C7 selects


def study(
    out: str | Path, records: str | Path, base: RunConfig, only: str = "*", samples: int = 300
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
    runs = {name: run for name, run in plan(base, out / "data").items() if fnmatch(name, only)}
    left = {name: run for name, run in runs.items() if not recorded(records / name, run)}
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them recorded; next: {', '.join(left)}")
    with file_lock(out / ".shared.lock", wait=True):  # a second process waits for what both need
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
                archive(out / name, records / name, run.files, run.group)
                gc.collect()  # a trainer refers to itself: the memory of many would pile up
    if elsewhere:
        print(f"left to another process: {', '.join(elsewhere)}")


def _carry_out(run: Run, folder: Path, samples: int) -> None:
    """Train and measure one run in its folder; what is there already stays."""
    config = run.config
    train(config, folder, training_questions(config), [snapshots_of(config, folder)])
    if run.measured != "history":
        evaluate_run(folder, held_out(samples, config.legible_share))
    if run.measured == "full":
        tools = config.reward not in WITHOUT_TOOL
        transfer(*load_trained(folder), "trained", samples, folder / "transfer.csv", tools)


def recorded(folder: Path, run: Run) -> bool:
    """Whether the folder holds the whole record of this run."""
    if not all((folder / name).exists() for name in (*run.files, "run.json")):
        return False
    steps = len(read_history(folder / "history.csv"))
    return read_config(folder) == run.config and steps == run.config.steps


def archive(folder: Path, to: Path, files: Iterable[str], group: str) -> None:
    """Keep some files of a run's folder, and in ``run.json`` where they come from; all or nothing.

    Args:
        folder: the run's.
        to: the record's.
        files: names of the files to keep.
        group: what the run is for.
    """
    origin = {"group": group, "commit": commit(), "machine": machine()}
    with atomic_write(to) as tmp:
        tmp.mkdir()
        for name in files:
            shutil.copy(folder / name, tmp / name)
        _write_json(origin, tmp / "run.json")


def commit() -> str:
    """The commit of the working tree, with a "+" if files were changed since; "unknown" without one."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    options = {"capture_output": True, "text": True, "timeout": 10}
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, **options)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() or "unknown"


def transfer(model, processor, who: str, samples: int, path: Path, tools: bool = True) -> None:
    """A model on the other ``SETS``, and pointing at named objects; a line an episode.

    Args:
        model: a transformers model.
        processor: of the model.
        who: the model's name in the conditions: "base" or "trained".
        samples: scenes of every set.
        path: the CSV file to write; one that is there stays.
        tools: whether the prompts offer the tool; pointing is asked in a single turn without it.
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
    """What C11 predicts from: the base model's figures for legible and illegible details apart.

    Args:
        base: names the model.
        path: the JSON file to write; one that is there stays.
        samples: half as many as the scenes that are asked.
    """
    if not path.exists():
        episodes = rollout(held_out(2 * samples), LocalPolicy(*load(base.model)))
        with atomic_write(path) as tmp:
            _write_json(summarise(episodes), tmp)


def prepare(base: RunConfig, out: Path, n: int = 1000) -> None:
    """The training questions of C7, each selection in a folder of ``out``; one that is there stays.

    Pass rates come from the base model with the tool, the benefit from its greedy answers. In
    ``selections.json`` stands what the selections hold: questions, legible ones, corrupted ones.

    Args:
        base: names the model.
        out: folder to write.
        n: questions before the selection.
    """
    if all((out / name).exists() for name in (*SELECTIONS, "selections.json")):
        return
    drawn = tiny_world("train", n, start=500_000, corrupted=CORRUPTED)
    model = load(base.model)
    hard = selection.difficulty(drawn, LocalPolicy(*model), record=out / "difficulty.jsonl")
    greedy = LocalPolicy(*model, temperature=0.0)
    record, oracle = out / "tool_benefit.jsonl", OracleZoomPolicy(greedy, label_of)
    useful = selection.tool_benefit(drawn, greedy, record=record, oracle=oracle)
    dropped = zip(hard["dropped"], useful["dropped"])
    both = [i for i, reasons in enumerate(dropped) if not any(reasons)]
    chosen = {
        "unfiltered": drawn,
        "difficulty": selection.kept(hard),
        "benefit": selection.kept(useful),
        "both": drawn.select(both),
    }
    holds = {}
    for name, rows in chosen.items():
        with atomic_write(out / name) as tmp:
            rows.save_to_disk(tmp)
        planted = sum("planted" in source for source in rows["source"])
        holds[name] = {"questions": len(rows), "legible": sum(rows["legible"]), "planted": planted}
    with atomic_write(out / "selections.json") as tmp:
        _write_json(holds, tmp)


def _write_json(value: dict, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
