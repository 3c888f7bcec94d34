"""Where the time and the memory of a training step go, phase by phase."""

import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from transformers import TrainerCallback

from deepeyes_lite.fast import vision_tower

PHASES = ["prompts", "generation", "reward", "forward", "backward", "rest"]
INSIDE = ["vision tower", "image processor"]


class Clock(TrainerCallback):
    """Seconds of every step, by phase; "inside" phases overlap the others.

    Attributes:
        steps: a dictionary of seconds for each step.
        peaks: for each step the peak of allocated GPU memory in GB, by phase; empty on a CPU.
        patches: to be entered around the training.
    """

    def __init__(self, trainer):
        self.steps: list[dict] = []
        self.peaks: list[dict] = []
        self.patches = ExitStack()
        self._now: dict = defaultdict(float)
        self._peak: dict = defaultdict(float)
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
        outer = name in PHASES and not any(self._depth[phase] for phase in PHASES)
        if outer:
            self._note_peak("rest")
        began = _clock()
        self._depth[name] += 1
        try:
            yield
        finally:
            self._depth[name] -= 1
            if not self._depth[name]:
                self._now[name] += _clock() - began
            if outer:
                self._note_peak(name)

    def _note_peak(self, name: str) -> None:
        """Write the peak since the last time down for a phase, and begin a new one."""
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 1e9
            self._peak[name] = max(self._peak[name], peak)
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs):
        self._now.clear()
        self._peak.clear()
        self._began = _clock()

    def on_step_end(self, args, state, control, **kwargs):
        total = _clock() - self._began
        self._note_peak("rest")
        self.peaks.append(dict(self._peak))
        row = {name: self._now[name] for name in [*PHASES, *INSIDE]}
        row["rest"] = total - sum(row[name] for name in PHASES if name != "rest")
        self.steps.append({**row, "total": total})


def _clock() -> float:
    if torch.cuda.is_available():  # it works on while Python goes on
        torch.cuda.synchronize()
    return time.perf_counter()
