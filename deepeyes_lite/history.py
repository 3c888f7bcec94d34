"""What a run records at every step, and the alarm that reads it.

The reward function lives here, because it is where TRL shows every episode of a step.
"""

import csv
import math
import os
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

from accelerate.utils import gather_object
from transformers import ProgressCallback, TrainerCallback

from deepeyes_lite import prompts, tool_use
from deepeyes_lite.files import whole
from deepeyes_lite.rewards import Arm, least_bonus, reward
from deepeyes_lite.trajectories import best_iou
from deepeyes_lite.verifiers import check_answer, extract_answer, well_formed

HISTORY_COLUMNS = [
    "step",
    "accuracy",
    "accuracy_legible",
    "accuracy_illegible",
    "call_rate",
    "calls_per_episode",
    "valid_call_rate",
    "format_errors",
    "best_iou",
    "response_length",
    "reward",
    "p_zoom",
    "n_zoom",
    "p_direct",
    "n_direct",
    "least_bonus",
    "loss",
    "grad_norm",
    "step_time",
]


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else float("nan")


class History(TrainerCallback):
    """Scores the rollouts of a step and writes one line of ``history.csv``, flushed at every step."""

    def __init__(self, arm: Arm, tokenizer, path: Path):
        self.arm = arm
        self.tokenizer = tokenizer
        self.path = path
        self.rows: list[dict] = []
        self._step: dict = {}
        self._chosen: list[dict] = []
        self._began = 0.0

    def reward(
        self,
        completion_ids,
        id,
        answer,
        boxes_px,
        legible,
        environments,
        options=None,
        verifier=None,
        kind=None,
        **_,
    ) -> list[float]:
        """TRL's reward function: one reward per episode; what it saw is kept for the record."""
        checks = [
            {"answer": truth, "options": shown, "verifier": name}
            for truth, shown, name in zip(
                answer, options or [()] * len(id), verifier or [""] * len(id), strict=True
            )
        ]
        texts = self.tokenizer.batch_decode(completion_ids, skip_special_tokens=False)
        groups = defaultdict(list)
        for question, zoom in zip(id, environments, strict=True):
            groups[question].append(bool(zoom.boxes_px))
        episodes = []
        for text, ids, question, check, targets, seen, zoom in zip(
            texts, completion_ids, id, checks, boxes_px, legible, environments, strict=True
        ):
            turns = prompts.split_turns(text)
            correct = check_answer(extract_answer(turns[-1]), check)
            formed = well_formed(turns)
            calls, overlap = len(zoom.boxes_px), best_iou(zoom.boxes_px, targets)
            episodes.append(
                {
                    "correct": correct,
                    "formed": formed,
                    "calls": calls,
                    "attempts": text.count("<tool_call>"),
                    "iou": overlap,
                    "length": len(ids),
                    "legible": seen,
                    "reward": reward(
                        self.arm, correct, formed, calls, overlap or 0.0, _mean(groups[question])
                    ),
                }
            )
        rewards = [episode["reward"] for episode in episodes]
        right = [episode["correct"] for episode in episodes]
        self._chosen = tool_use.count(environments, kind or [""] * len(id), texts, right)
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the record is of all processes
            episodes = gather_object(episodes)
        self._step = summarise(episodes)
        return rewards

    def on_step_begin(self, args, state, control, **kwargs):
        self._began = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise FloatingPointError(
                f"step {state.global_step}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}. "
                "The last checkpoint is from before; lower learning_rate or raise precision to fp32."
            )
        row = {
            "step": state.global_step,
            **self._step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm", float("nan")),
            "step_time": time.perf_counter() - self._began,
        }
        self.rows.append(row)
        if state.is_world_process_zero:
            write_history([row], self.path, append=True)
            tool_use.append(state.global_step, self._chosen, self.path.with_name(tool_use.FILE))


def summarise(episodes: list[dict]) -> dict:
    """Figures of one step; NaN where there was nothing to average."""
    zoomed = [e["correct"] for e in episodes if e["calls"]]
    direct = [e["correct"] for e in episodes if not e["calls"]]
    attempts = sum(e["attempts"] for e in episodes)
    return {
        "accuracy": _mean([e["correct"] for e in episodes]),
        "accuracy_legible": _mean([e["correct"] for e in episodes if e["legible"] == 1]),
        "accuracy_illegible": _mean([e["correct"] for e in episodes if e["legible"] == 0]),
        "call_rate": _mean([e["calls"] > 0 for e in episodes]),
        "calls_per_episode": _mean([e["calls"] for e in episodes]),
        "valid_call_rate": sum(e["calls"] for e in episodes) / attempts
        if attempts
        else float("nan"),
        "format_errors": _mean([not e["formed"] for e in episodes]),
        "best_iou": _mean([e["iou"] for e in episodes if e["iou"] is not None]),
        "response_length": _mean([e["length"] for e in episodes]),
        "reward": _mean([e["reward"] for e in episodes]),
        "p_zoom": _mean(zoomed),
        "n_zoom": len(zoomed),
        "p_direct": _mean(direct),
        "n_direct": len(direct),
        "least_bonus": least_bonus(_mean(zoomed), _mean(direct)),
    }


def write_history(rows: list[dict], path: Path, append: bool = False) -> None:
    """Append rows of ``HISTORY_COLUMNS``, flushed to the disk; or write them anew, all or nothing."""
    new = not append or not path.exists()
    with (
        nullcontext(path) if append else whole(path) as target,
        target.open("a" if append else "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        file.flush()
        os.fsync(file.fileno())


def read_history(path: str | Path) -> list[dict]:
    """Rows of a ``history.csv``, as numbers; a last line cut short by a kill is left out."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
    return [
        {k: int(v) if k in ("step", "n_zoom", "n_direct") else float(v) for k, v in row.items()}
        for row in rows
    ]


class CollapseAlarm(TrainerCallback):
    """Says in plain words when the call rate is falling toward zero."""

    def __init__(self, history: History, bonus: float, window: int = 10, floor: float = 0.05):
        """Args: the record; bonus b of the arm; steps averaged; call rate taken for dead."""
        self.history, self.bonus, self.window, self.floor = history, bonus, window, floor
        self.warned_at = -math.inf

    def on_step_end(self, args, state, control, **kwargs):
        message = self.message() if state.is_world_process_zero else None
        if message and state.global_step - self.warned_at >= self.window:
            self.warned_at = state.global_step
            print(f"step {state.global_step}: {message}", flush=True)

    def message(self) -> str | None:
        """The warning for the last ``2 * window`` steps, or None."""
        rows = self.history.rows
        if len(rows) < 2 * self.window:
            return None
        before = _mean([row["call_rate"] for row in rows[-2 * self.window : -self.window]])
        recent = rows[-self.window :]
        now = _mean([row["call_rate"] for row in recent])
        if now > self.floor and now > 0.5 * before:
            return None
        p_zoom = _pooled(recent, "p_zoom", "n_zoom")
        p_direct = _pooled(recent, "p_direct", "n_direct")
        needed = least_bonus(p_zoom, p_direct)
        state = "has died out" if now <= self.floor else "is falling toward zero"
        why = (
            "there are no calls left to learn from"
            if math.isnan(needed)
            else f"a call pays only with a bonus above b* = {needed:.2f}, and this arm's is {self.bonus:.2f}"
        )
        return (
            f"tool use {state}: call rate {before:.2f} -> {now:.2f} over {self.window} steps; {why} "
            f"(p_zoom {p_zoom:.2f}, p_direct {p_direct:.2f})."
        )


def _pooled(rows: list[dict], p: str, n: str) -> float:
    total = sum(row[n] for row in rows)
    return sum(row[p] * row[n] for row in rows if row[n]) / total if total else float("nan")


class Progress(ProgressCallback):
    """A bar over the steps that shows what matters, instead of TRL's forty figures a line."""

    def __init__(self, history: History):
        super().__init__()
        self.history = history

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and self.history.rows:
            row = self.history.rows[-1]
            shown = ("accuracy", "call_rate", "best_iou", "reward")
            self.training_bar.set_postfix({name: f"{row[name]:.2f}" for name in shown})
