"""Seconds a training step, stock TRL against ours, and where they go: ``python tests/bench_step.py``.

Stock is TRL with nothing of ours but the environment and the reward. Both train the same configuration
from the same seed in this one process, in turns (stock, ours, stock, ours, …), so that a machine that
slows down slows both. The first step of each turn warms up and is not counted.
"""

import argparse
import json
import platform
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

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
            ("image processor", trainer.processing_class.image_processor, "preprocess"),
        ):
            setattr(owner, method, self._timed(name, getattr(owner, method)))

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
    """Phases and history of the steps of one turn, the first left out."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), stock=stock)
        clock = Clock(trainer)
        trainer.add_callback(clock)
        trainer.train()
        return clock.steps[1:], trainer.history.rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps a turn, the first not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--model", default="data/tiny-eyes")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    config = replace(preset("demo", model=args.model), steps=args.steps, save_every=args.steps + 1)
    phases = {"stock": [], "ours": []}
    for turn in range(args.turns):
        for name in phases:
            steps, _ = measure(replace(config, seed=turn), stock=name == "stock")
            phases[name] += steps
    medians = {
        name: {key: median(step[key] for step in steps) for key in steps[0]}
        for name, steps in phases.items()
    }
    print(
        f"\n| seconds a step (median of {len(phases['stock'])}) | stock TRL | ours |\n|---|---:|---:|"
    )
    for key in [*PHASES, "total", *INSIDE]:
        label = f"of these, in the {key}" if key in INSIDE else key
        print(f"| {label} | {medians['stock'][key]:.2f} | {medians['ours'][key]:.2f} |")
    ratio = medians["stock"]["total"] / medians["ours"]["total"]
    print(
        f"\n{ratio:.2f} times as fast; {platform.processor() or platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    if args.out:
        args.out.write_text(
            json.dumps(
                {
                    "command": f"python tests/bench_step.py --steps {args.steps} --turns {args.turns}",
                    "cpu": torch.backends.cpu.get_cpu_capability(),
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "median_seconds": medians,
                    "ratio": ratio,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
