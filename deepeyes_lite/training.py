"""A training run: the trainer, checkpoints, resume.

TRL trains. A run's configuration is in `presets.py`, and in TRL's terms in `settings.py`. How it differs
from the paper's: LoRA on the language model instead of full training, 8 x 8 rollouts a step instead of
256 x 16, a rate of 1e-3 (LoRA, small model) instead of 1e-6, rules instead of a judge.
"""

import csv
import json
import math
import os
import time
import warnings
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import load_from_disk
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.notebook import NotebookProgressCallback
from trl import GRPOConfig, GRPOTrainer

from deepeyes_lite import prompts
from deepeyes_lite.data import FEATURES
from deepeyes_lite.doctor import precision
from deepeyes_lite.fast import ZoomTrainer, cache_vision
from deepeyes_lite.files import atomic_write, file_lock
from deepeyes_lite.models import completion_length, device, load, spec_of, token_ids, tool_of
from deepeyes_lite.rewards import WITHOUT_TOOL, least_bonus, reward, variant
from deepeyes_lite.study import tool_use
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.tools import MAX_CALLS, NoTool, ViewZoomEnvironment, ZoomEnvironment
from deepeyes_lite.trajectories import best_iou
from deepeyes_lite.verifiers import check_answer, extract_answer, well_formed
from deepeyes_lite.viz.snapshots import Snapshots, scenes


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; written to ``config.json``.

    Attributes:
        reward: reward variant, a key of ``rewards.VARIANTS``.
        bonus: for a correct answer with a zoom, instead of the arm's; None for the arm's own.
        steps: optimizer steps.
        prompts_per_step: different questions a step.
        num_generations: rollouts of each question, the group of GRPO.
        learning_rate: constant after five steps of warm-up.
        lora_rank: rank of the adapters; alpha is twice the rank.
        legible_share: share of details that the view shows.
        seed: of scenes, adapters and sampling.
        model: a folder, or a name of the hub; its family is found from its configuration.
        data: folder of a dataset in our schema, as `select` writes it; empty for the tiny world.
        save_steps: steps between checkpoints.
        max_calls: of an episode.
        max_new_tokens: of a turn; 0 for the family's.
        max_pixels: greatest area of a view; 0 for the family's.
        micro_batch: rollouts in one forward pass, the rest is accumulated; 0 for all at once.
        gradient_checkpointing: computes activations a second time instead of keeping them.
        quantise: the language model in 4 bits (QLoRA); needs bitsandbytes.
        cold_start: steps of SFT on traces made of target boxes, before GRPO; 0 for none.
        extra_tool: a tool beside the zoom, a key of ``extra_tools.EXTRA_TOOLS``; empty for none.
        trl: options of TRL's ``GRPOConfig``, passed on as they are.
    """

    reward: str = "conditional"
    bonus: float | None = None
    steps: int = 100
    prompts_per_step: int = 8
    num_generations: int = 8
    learning_rate: float = 1e-3
    lora_rank: int = 16
    legible_share: float = 0.5
    seed: int = 0
    model: str = "data/tiny-eyes"
    data: str = ""
    save_steps: int = 10
    max_calls: int = MAX_CALLS
    max_new_tokens: int = 0
    max_pixels: int = 0
    micro_batch: int = 0
    gradient_checkpointing: bool = False
    quantise: bool = False
    cold_start: int = 0
    extra_tool: str = ""
    trl: dict = field(default_factory=dict)


def _gpu(model: str, tokens: int, factor: int, **changes) -> RunConfig:
    """A run on a GPU; ``tokens`` is the budget of a view, ``factor`` the px that one covers."""
    shared = {
        "learning_rate": 1e-5,
        "prompts_per_step": 2,
        "micro_batch": 1,
        "max_calls": 3,
        "max_new_tokens": 256,
        "gradient_checkpointing": True,
    }
    pixels = tokens * factor * factor
    return RunConfig(model=model, max_pixels=pixels, **{**shared, **changes})


PRESETS = {
    "demo": RunConfig(),
    "quick": RunConfig(
        steps=2, prompts_per_step=2, num_generations=4, save_steps=1
    ),  # does it run at all?
    "8GB": _gpu(
        "Qwen/Qwen3-VL-2B-Instruct",
        192,
        32,
        num_generations=4,
        max_calls=2,
        max_new_tokens=160,
        quantise=True,
    ),
    "12GB": _gpu(
        "Qwen/Qwen3-VL-2B-Instruct", 256, 32, num_generations=4, max_calls=2, max_new_tokens=192
    ),
    "16GB": _gpu("Qwen/Qwen2.5-VL-3B-Instruct", 320, 28, num_generations=6, max_calls=2),
    "24GB": _gpu("Qwen/Qwen2.5-VL-3B-Instruct", 576, 28, num_generations=8, prompts_per_step=4),
    "40GB": _gpu("Qwen/Qwen2.5-VL-7B-Instruct", 576, 28, num_generations=8, prompts_per_step=4),
    "80GB": _gpu(  # the paper's base model
        "Qwen/Qwen2.5-VL-7B-Instruct",
        1024,
        28,
        num_generations=8,
        prompts_per_step=8,
        micro_batch=2,
        max_calls=6,
        max_new_tokens=384,
    ),
}


def preset(name: str, **changes) -> RunConfig:
    """A preset with some of its values changed.

    Raises:
        ValueError: naming the presets there are.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    config = replace(PRESETS[name], **changes)
    variant(config.reward)
    return config


def options(given: list[str]) -> dict:
    """Options for TRL from the command line, values read as JSON where they are JSON.

    Raises:
        ValueError: for one without a name or a value.

    >>> options(["use_vllm=true", "vllm_mode=colocate", "max_grad_norm=0.5"])
    {'use_vllm': True, 'vllm_mode': 'colocate', 'max_grad_norm': 0.5}
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f"an option for TRL is given as NAME=VALUE, got {text!r}")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


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

    def __init__(self, weights: dict[str, float], tokenizer, path: Path):
        self.weights = weights
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
                        self.weights,
                        correct,
                        formed,
                        calls,
                        overlap or 0.0,
                        _mean(groups[question]),
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
        nullcontext(path) if append else atomic_write(path) as target,
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


def grpo_config(config: RunConfig, processor, precision: str, out: Path) -> GRPOConfig:
    """The trainer's settings.

    Args:
        config: the run.
        processor: of its model.
        precision: "bf16" or "fp32".
        out: the run's folder.

    Raises:
        ValueError: for rollouts that cannot be dealt out, or an option that TRL does not have.
    """
    cuda = device().type == "cuda"
    return GRPOConfig(
        **{
            "output_dir": str(out / "checkpoints"),
            **batches(config),
            "num_generations": config.num_generations,
            "max_steps": config.steps,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 5,
            "max_completion_length": completion_length(
                processor, config.max_calls, config.max_new_tokens
            ),
            "max_tool_calling_iterations": config.max_calls,
            "temperature": 1.0,
            "beta": 0.0,
            "loss_type": "dapo",
            "scale_rewards": "group",
            "generation_kwargs": sampling(config, processor),
            "use_cpu": not cuda,
            "bf16": precision == "bf16",
            "gradient_checkpointing": config.gradient_checkpointing,
            # Passes differ in number from process to process, so none may wait for another's buffers.
            "ddp_broadcast_buffers": False,
            "seed": config.seed,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_steps": config.save_steps,
            "save_total_limit": 2,
            "report_to": [],
            "dataloader_pin_memory": cuda,
            **trl_options(config.trl),
        }
    )


def batches(config: RunConfig) -> dict:
    """How a step's rollouts are dealt out to processes and forward passes, in TRL's terms.

    Raises:
        ValueError: if they cannot be dealt out evenly.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if config.prompts_per_step % world:
        raise ValueError(
            f"{config.prompts_per_step} prompts a step cannot be dealt out to {world} processes"
        )
    rollouts = config.prompts_per_step // world * config.num_generations
    micro = config.micro_batch or rollouts
    if rollouts % micro:
        raise ValueError(
            f"micro_batch must divide a process's {rollouts} rollouts "
            f"({config.prompts_per_step // world} prompts x {config.num_generations}), got {micro}"
        )
    passes = rollouts // micro
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": passes}


def sampling(config: RunConfig, processor) -> dict:
    """What bounds a turn and keeps the reserved tokens out of it; vLLM has other names for both."""
    spec = spec_of(processor)
    length = config.max_new_tokens or spec.max_new_tokens
    reserved = token_ids(processor.tokenizer, spec.reserved_tokens)
    if not config.trl.get("use_vllm"):
        return {"max_new_tokens": length, "suppress_tokens": reserved}
    warnings.warn(
        "TRL #6294: vLLM may expand the placeholders of an image a second time and then see another "
        "prompt than the trainer does. Its rollouts are held against transformers; a run in which they "
        "disagree stops.",
        stacklevel=2,
    )
    return {"max_tokens": length, "logit_bias": dict.fromkeys(reserved, -100.0)}


def trl_options(options: dict) -> dict:
    """Options for ``GRPOConfig``, looked over.

    Raises:
        ValueError: for an option that TRL does not have, or one that is a run's own business.
    """
    ours = {"output_dir": "--out", "max_steps": "steps", "num_generations": "generations"}
    ours |= {"per_device_train_batch_size": "micro_batch", "learning_rate": "learning_rate"}
    ours |= {"gradient_accumulation_steps": "micro_batch", "seed": "seed"}
    for name in options:
        if name in ours:
            raise ValueError(f"TRL's {name} follows from the run: set {ours[name]} instead")
        if name not in {known.name for known in fields(GRPOConfig)}:
            raise ValueError(f"TRL's GRPOConfig has no option {name!r}")
    if options.get("use_vllm") and options.get("vllm_importance_sampling_correction") is False:
        raise ValueError(
            "vllm_importance_sampling_correction=false leaves vLLM's rollouts unchecked (TRL #6294): "
            "leave it on"
        )
    return options


def reward_weights(config: RunConfig) -> dict[str, float]:
    """The arm of a run, with the run's own bonus where it has one."""
    weights = variant(config.reward)
    return weights if config.bonus is None else {**weights, "tool_bonus": config.bonus}


def training_set(config: RunConfig, suffix: str = ""):
    """The questions of a run, in TRL's columns: those of ``config.data``, or fresh scenes for every seed.

    Args:
        config: the run.
        suffix: what the model's family asks for after every question.

    Raises:
        FileNotFoundError: if ``config.data`` holds no dataset.
        ValueError: if it holds another one, or fewer questions than a step has prompts.
    """
    if config.data:
        dataset = load_from_disk(config.data)
        missing = set(FEATURES) - set(dataset.column_names)
        if missing or len(dataset) < config.prompts_per_step:
            raise ValueError(
                f"{config.data} has {len(dataset)} questions (a step takes {config.prompts_per_step}) "
                f"and lacks the columns {sorted(missing)}"
            )
        dataset = dataset.select_columns(list(FEATURES))
    else:
        n = min(config.steps * config.prompts_per_step, 1000)
        world = World(legible_share=config.legible_share)
        dataset = tiny_world("train", n, world, start=config.seed * 1000)
    prompt = [[{"role": "user", "content": text + suffix}] for text in dataset["question"]]
    return dataset.add_column("prompt", prompt)


def build_trainer(config: RunConfig, out: Path, stock: bool = False) -> GRPOTrainer:
    """The trainer of a run, ready for ``train``; its record is ``trainer.history``.

    Args:
        config: the run.
        out: its folder.
        stock: TRL as it is, with nothing of ours but environment and reward: for comparison.
    """
    model, processor = load(
        config.model,
        config.quantise,
        config.max_pixels,
        cache=not stock,
        extra_tool=config.extra_tool,
    )
    # Adapters are trained in the precision of their model: tiny-eyes is in fp32 on a GPU, too.
    name = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    spec, weights = spec_of(processor), reward_weights(config)
    tool = config.reward not in WITHOUT_TOOL
    history = History(weights, processor.tokenizer, out / "history.csv")
    settings = grpo_config(config, processor, name, out)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=spec.lora_targets,
        task_type="CAUSAL_LM",
    )
    dataset = training_set(config, spec.suffix[tool])
    if config.cold_start:
        from deepeyes_lite.realworld.cold_start import cold_start

        shared = ("use_cpu", "bf16", "gradient_checkpointing", "seed", "dataloader_pin_memory")
        shared = {name: getattr(settings, name) for name in shared}
        model = cold_start(model, processor, dataset, config.cold_start, lora, out, **shared)
    environment = tool_of(processor, (ZoomEnvironment, ViewZoomEnvironment))
    trainer = (GRPOTrainer if stock else ZoomTrainer)(
        model=model,
        args=settings,
        reward_funcs=history.reward,
        train_dataset=dataset,
        processing_class=processor,
        environment_factory=partial(environment, max_calls=config.max_calls) if tool else NoTool,
        peft_config=None if config.cold_start else lora,
        callbacks=[
            history,
            CollapseAlarm(history, weights.get("tool_bonus", 0.0)),
            MarkComplete(),
        ],
    )
    for noisy in (PrinterCallback, ProgressCallback, NotebookProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(Progress(history))
    trainer.history = history
    if not stock and not trainer.sharded:
        cache_vision(trainer.model)
    return trainer


class MarkComplete(TrainerCallback):
    """Marks a checkpoint as whole once everything in it is written."""

    NAME = "complete"

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.NAME).touch()


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill left half written is passed over."""
    whole = [
        path.parent for path in (out / "checkpoints").glob(f"checkpoint-*/{MarkComplete.NAME}")
    ]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def train(config: RunConfig, out: str | Path) -> Path:
    """Train in a run folder, or go on where a killed run stopped, or return at once if it is done.

    Leaves ``config.json``, ``history.csv``, ``snapshots/`` (`watch.py`) and ``adapter/``. Killed at any
    moment and started again, a run ends where the undisturbed run ends.

    Raises:
        ValueError: if the folder holds a run with another configuration, or another process trains in it.
        ImagesDropped, FloatingPointError: see `ZoomTrainer` and `History`.
    """
    out = Path(out)
    main = int(os.environ.get("RANK", 0)) == 0  # of several processes the first one writes
    adapter = out / "adapter"
    with file_lock(out / ".lock") if main and not adapter.exists() else nullcontext(True) as free:
        if not free:
            raise ValueError(
                f"another process trains in {out}; let it end, or choose another folder"
            )
        if main:
            check_or_write_config(out, asdict(config))
        if not adapter.exists():
            _train(config, out, main)
    return out


def _train(config: RunConfig, out: Path, main: bool) -> None:
    """The training of `train`, in a folder that is this run's."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = build_trainer(config, out)
    snapshots = scenes(asdict(config)), trainer.processing_class, config.reward not in WITHOUT_TOOL
    trainer.add_callback(Snapshots(*snapshots, out / "snapshots", config.max_new_tokens))
    checkpoint = last_checkpoint(out)
    path = trainer.history.path
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    rows = [r for r in read_history(path) if r["step"] <= done] if path.exists() else []
    trainer.history.rows = rows
    trainer.accelerator.wait_for_everyone()
    if main:
        write_history(rows, path)
        name = "bf16" if trainer.args.bf16 else "fp32"
        print(f"training in {name} ({precision()[1]}), from step {done} to {config.steps}")
        if spec_of(trainer.processing_class).family != "tiny-eyes":
            _notes(config)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Saved aside and renamed: the adapter's folder stands for "this run is done".
    if trainer.sharded:
        trainer.save_model(str(out / "adapter.tmp"))  # every process has a part
    elif main:
        trainer.model.save_pretrained(out / "adapter.tmp")
    trainer.accelerator.wait_for_everyone()
    if main:
        os.replace(out / "adapter.tmp", out / "adapter")
    trainer.accelerator.wait_for_everyone()


def _notes(config: RunConfig) -> None:
    """What somebody who trains a large model should not learn from a day of waiting."""
    if device().type == "cpu":
        print("note: no GPU here; weights of Qwen-VL's size are out of a CPU's reach")
    if not config.data:
        print(
            "note: these are scenes of the tiny world, for which a large model needs no zoom; see --data"
        )


def check_or_write_config(out: Path, config: dict) -> None:
    """Write ``config.json`` into a folder, or see that the one there is the same.

    Raises:
        ValueError: if the folder holds a run with another configuration.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        # A record from before an option existed was made with its default.
        if isinstance(found, dict) and set(found) < set(config) == set(asdict(RunConfig())):
            found = {**asdict(RunConfig()), **found}
        if found != config:
            raise ValueError(
                f"{out} holds another run ({found}); choose another folder or delete it"
            )
        return
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(out: str | Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
        FileNotFoundError: if the folder holds no run.
    """
    path = Path(out) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"no config.json in {out}; start a run with `train --out {out}`")
    return RunConfig(**json.loads(path.read_text(encoding="utf-8")))


def base_of(config: RunConfig):
    """The model that a run starts from, and its processor."""
    return load(config.model, config.quantise, config.max_pixels, extra_tool=config.extra_tool)


def load_trained(out: str | Path):
    """Model with its adapter (merged, unless in 4 bits), and the processor, from a run folder.

    Raises:
        FileNotFoundError: if the run is not done.
    """
    out = Path(out)
    if not (out / "adapter").exists():
        raise FileNotFoundError(f"no adapter in {out}; finish the run with `train --out {out}`")
    config = read_config(out)
    model, processor = base_of(config)
    model = PeftModel.from_pretrained(model, out / "adapter")
    # Four bits cannot take the sum.
    return (model if config.quantise else model.merge_and_unload()), processor
