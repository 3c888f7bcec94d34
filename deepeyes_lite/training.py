"""A training run: the trainer, checkpoints, resume.

TRL trains. A run's configuration is in `presets.py`, and in TRL's terms in `settings.py`. How it differs
from the paper's: LoRA on the language model instead of full training, 8 x 8 rollouts a step instead of
256 x 16, a rate of 1e-3 (LoRA, small model) instead of 1e-6, rules instead of a judge.
"""

import json
import os
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from datasets import load_from_disk
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.notebook import NotebookProgressCallback
from trl import GRPOTrainer

from deepeyes_lite.data import FEATURES, tiny_world
from deepeyes_lite.doctor import precision
from deepeyes_lite.environment import NoTool, ViewZoomEnvironment, ZoomEnvironment
from deepeyes_lite.files import alone, whole
from deepeyes_lite.history import CollapseAlarm, History, Progress, read_history, write_history
from deepeyes_lite.loading import device, load
from deepeyes_lite.models import spec_of, tool_of
from deepeyes_lite.presets import PRESETS, RunConfig, preset  # noqa: F401
from deepeyes_lite.rewards import Arm, arm
from deepeyes_lite.settings import grpo_config
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.trainer import ZoomTrainer
from deepeyes_lite.vision_cache import cache_vision
from deepeyes_lite.watch import Watch, scenes


def reward_arm(config: RunConfig) -> Arm:
    """The arm of a run, with the run's own bonus where it has one."""
    named = arm(config.arm)
    return named if config.bonus is None else replace(named, bonus_if_correct=config.bonus)


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
        if missing or len(dataset) < config.prompts:
            raise ValueError(
                f"{config.data} has {len(dataset)} questions (a step takes {config.prompts}) "
                f"and lacks the columns {sorted(missing)}"
            )
        dataset = dataset.select_columns(list(FEATURES))
    else:
        n = min(config.steps * config.prompts, 1000)
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
        remember=not stock,
        extra_tool=config.extra_tool,
    )
    # Adapters are trained in the precision of their model: tiny-eyes is in fp32 on a GPU, too.
    name = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    spec, weights = spec_of(processor), reward_arm(config)
    history = History(weights, processor.tokenizer, out / "history.csv")
    settings = grpo_config(config, processor, name, out)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=spec.lora_targets,
        task_type="CAUSAL_LM",
    )
    dataset = training_set(config, spec.suffix[weights.tool])
    if config.cold_start:
        from deepeyes_lite.realworld.cold_start import (
            cold_start,  # seconds of imports, for few runs
        )

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
        environment_factory=partial(environment, max_calls=config.max_calls)
        if weights.tool
        else NoTool,
        peft_config=None if config.cold_start else lora,
        callbacks=[
            history,
            CollapseAlarm(history, weights.bonus_if_correct),
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

    Leaves ``config.json``, ``history.csv``, ``watched/`` (`watch.py`) and ``adapter/``. Killed at any
    moment and started again, a run ends where the undisturbed run ends.

    Raises:
        ValueError: if the folder holds a run with another configuration, or another process trains in it.
        ImagesDropped, FloatingPointError: see `ZoomTrainer` and `History`.
    """
    out = Path(out)
    main = int(os.environ.get("RANK", 0)) == 0  # of several processes the first one writes
    adapter = out / "adapter"
    with alone(out / ".lock") if main and not adapter.exists() else nullcontext(True) as free:
        if not free:
            raise ValueError(
                f"another process trains in {out}; let it end, or choose another folder"
            )
        if main:
            claim(out, asdict(config))
        if not adapter.exists():
            _train(config, out, main)
    return out


def _train(config: RunConfig, out: Path, main: bool) -> None:
    """The training of `train`, in a folder that is this run's."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = build_trainer(config, out)
    watched = scenes(asdict(config)), trainer.processing_class, reward_arm(config).tool
    trainer.add_callback(Watch(*watched, out / "watched", config.max_new_tokens))
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


def claim(out: Path, config: dict) -> None:
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
    with whole(path) as aside:
        aside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


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
