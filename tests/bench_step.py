"""Seconds a training step, stock TRL against ours, and where they go: ``python tests/bench_step.py``.

Stock is TRL with nothing of ours but the environment and the reward. Both train the same configuration
from the same seed in this one process, in turns (stock, ours, stock, ours, …), so that a machine that
slows down slows both. The first step of each turn warms up and is not counted.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from transformers import TrainerCallback

from deepeyes_lite.training import build_trainer, preset
from deepeyes_lite.vision_cache import vision_tower

PHASES = ["prompts", "generation", "reward", "forward", "backward", "rest"]
INSIDE = ["vision tower", "image processor"]


class Clock(TrainerCallback):
    """Seconds of every step, by phase; "inside" phases overlap the others."""

    def __init__(self, trainer):
        self.steps: list[dict] = []
        self.patches = ExitStack()
        self._now: dict = defaultdict(float)
        self._depth: dict = defaultdict(int)
        self._began = 0.0
        for name, owner, method in (
            ("prompts", trainer, "_tokenize_prompts"),
            ("generation", trainer, "_generate_single_turn"),
            ("reward", trainer, "_calculate_rewards"),
            ("forward", trainer, "compute_loss"),
            ("backward", trainer.accelerator, "backward"),
            ("vision tower", vision_tower(trainer.model), "forward"),
            # On the class: the processor writes its own attributes into every checkpoint.
            ("image processor", type(trainer.processing_class.image_processor), "preprocess"),
        ):
            self.patches.enter_context(
                patch.object(owner, method, self._timed(name, getattr(owner, method)))
            )

    def _timed(self, name: str, method):
        def timed(*args, **kwargs):
            with self._phase(name):
                return method(*args, **kwargs)

        return timed

    @contextmanager
    def _phase(self, name: str):
        began = time.perf_counter()
        self._depth[name] += 1
        try:
            yield
        finally:
            self._depth[name] -= 1
            if not self._depth[name]:
                self._now[name] += time.perf_counter() - began

    def on_step_begin(self, args, state, control, **kwargs):
        self._now.clear()
        self._began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        total = time.perf_counter() - self._began
        row = {name: self._now[name] for name in [*PHASES, *INSIDE]}
        row["rest"] = total - sum(row[name] for name in PHASES if name != "rest")
        self.steps.append({**row, "total": total})


def measure(config, stock: bool) -> tuple[list[dict], list[dict]]:
    """Phases and history of the steps of one turn."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), stock=stock)
        clock = Clock(trainer)
        trainer.add_callback(clock)
        with clock.patches:
            trainer.train()
        return clock.steps, trainer.history.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps a turn, the first not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--model", default="data/tiny-eyes")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    config = replace(preset("demo", model=args.model), steps=args.steps, save_every=args.steps + 1)
    phases = {"stock": [], "ours": []}
    losses = {}
    for turn in range(args.turns):
        for name in phases:
            steps, history = measure(replace(config, seed=turn), stock=name == "stock")
            phases[name] += steps[1:]
            losses.setdefault(name, [row["loss"] for row in history])
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
