"""Seconds a training step, stock TRL against ours, and where they go: ``python tests/bench_step.py``.

Stock is TRL with nothing of ours but the environment and the reward. Both train the same configuration
from the same seed in this one process, in turns (stock, ours, stock, ours, …), so that a machine that
slows down slows both. The first step of each turn warms up and is not counted.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from deepeyes_lite.config import preset
from deepeyes_lite.fast import vision_tower
from deepeyes_lite.realworld.gpu import Clock
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import build_trainer

PHASES = ["prompts", "generation", "reward", "forward", "backward", "rest"]
INSIDE = ["vision tower", "image processor"]  # part of the others


def measure(config, stock: bool) -> tuple[list[dict], list[float]]:
    """Phases and losses of the steps of one turn."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), training_questions(config), stock=stock)
        clock = Clock()
        trainer.add_callback(clock)
        clock.watch("prompts", trainer, "_tokenize_prompts")
        clock.watch("generation", trainer, "_generate_single_turn")
        clock.watch("reward", trainer, "_calculate_rewards")
        clock.watch("forward", trainer, "compute_loss")
        clock.watch("backward", trainer.accelerator, "backward")
        clock.watch("vision tower", vision_tower(trainer.model), "forward")
        # On the class: the processor writes its own attributes into every checkpoint.
        images = type(trainer.processing_class.image_processor)
        with patch.object(images, "preprocess", images.preprocess):
            clock.watch("image processor", images, "preprocess")
            trainer.train()
    names = [*PHASES, *INSIDE, "total"]
    steps = [{name: step.get(name, 0.0) for name in names} for step in clock.steps]
    for step in steps:
        step["rest"] = step["total"] - sum(step[phase] for phase in PHASES)
    return steps, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps a turn, the first not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--model", default="data/tiny-eyes")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    config = replace(preset("demo", model=args.model), steps=args.steps, save_steps=args.steps + 1)
    phases = {"stock": [], "ours": []}
    losses = {}
    for turn in range(args.turns):
        for name in phases:
            steps, loss = measure(replace(config, seed=turn), stock=name == "stock")
            phases[name] += steps[1:]
            losses.setdefault(name, loss)
    medians = {
        name: {key: median(step[key] for step in steps) for key in steps[0]}
        for name, steps in phases.items()
    }
    record = {
        "command": f"python tests/bench_step.py --steps {args.steps} --turns {args.turns}",
        "machine": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "steps": len(phases["stock"]),
        "median_seconds": medians,
        "loss_stock": losses["stock"],
        "loss_ours": losses["ours"],
    }
    print("\n" + table(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


def table(record: dict) -> str:
    """The record as the README's table."""
    stock, ours = (record["median_seconds"][name] for name in ("stock", "ours"))
    lines = [
        f"| seconds a step, median of {record['steps']} | stock TRL | ours |",
        "|---|---:|---:|",
    ]
    for key in [*PHASES, "total", *INSIDE]:
        label = f"of these, in the {key}" if key in INSIDE else key
        lines.append(f"| {label} | {stock[key]:.2f} | {ours[key]:.2f} |")
    ratio = stock["total"] / ours["total"]
    gap = max(abs(a - b) for a, b in zip(record["loss_stock"], record["loss_ours"]))
    lines += [
        "",
        f"{ratio:.1f} times as fast ({record['machine']}). From one seed and the same weights, the losses "
        f"of the first {len(record['loss_ours'])} steps differ by {gap:.1e} at most.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
