"""A training run: presets, the trainer's settings, checkpoints, resume.

TRL trains. How the settings differ from the paper: LoRA on the language model instead of full training,
8 x 8 rollouts a step instead of 256 x 16, a rate of 1e-3 (LoRA, small model) instead of 1e-6, rules
instead of a judge.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from datasets import load_from_disk
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.notebook import NotebookProgressCallback
from trl import GRPOConfig, GRPOTrainer

from deepeyes_lite import prompts
from deepeyes_lite.data import FEATURES, tiny_world
from deepeyes_lite.doctor import precision
from deepeyes_lite.environment import NoTool, ZoomEnvironment
from deepeyes_lite.files import whole
from deepeyes_lite.history import CollapseAlarm, History, Progress, read_history, write_history
from deepeyes_lite.policies import MAX_NEW_TOKENS
from deepeyes_lite.rewards import Arm, arm
from deepeyes_lite.rollout import MAX_COMPLETION_LENGTH
from deepeyes_lite.tinyworld.model import load
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.tools import MAX_CALLS
from deepeyes_lite.trainer import ZoomTrainer
from deepeyes_lite.vision_cache import cache_vision

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; written to ``config.json``.

    Attributes:
        arm: reward variant, a key of ``rewards.ARMS``.
        bonus: for a correct answer with a zoom, instead of the arm's; None for the arm's own.
        steps: optimizer steps.
        prompts: different questions a step.
        generations: rollouts of each question, the group of GRPO.
        learning_rate: constant after five steps of warm-up.
        lora_rank: rank of the adapters; alpha is twice the rank.
        legible_share: share of details that the view shows.
        seed: of scenes, adapters and sampling.
        model: folder of tiny-eyes.
        data: folder of a dataset in our schema, as `select` writes it; empty for the tiny world.
        save_every: steps between checkpoints.
    """

    arm: str = "conditional"
    bonus: float | None = None
    steps: int = 100
    prompts: int = 8
    generations: int = 8
    learning_rate: float = 1e-3
    lora_rank: int = 16
    legible_share: float = 0.5
    seed: int = 0
    model: str = "data/tiny-eyes"
    data: str = ""
    save_every: int = 10


PRESETS = {
    "demo": RunConfig(),
    "quick": RunConfig(steps=2, prompts=2, generations=4, save_every=1),  # does it run at all?
}


def reward_arm(config: RunConfig) -> Arm:
    """The arm of a run, with the run's own bonus where it has one."""
    named = arm(config.arm)
    return named if config.bonus is None else replace(named, bonus_if_correct=config.bonus)


def training_set(config: RunConfig):
    """The questions of a run, in TRL's columns: those of ``config.data``, or fresh scenes for every seed.

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
    prompt = [[{"role": "user", "content": question}] for question in dataset["question"]]
    return dataset.add_column("prompt", prompt)


def build_trainer(config: RunConfig, out: Path, stock: bool = False) -> GRPOTrainer:
    """The trainer of a run, ready for ``train``; its record is ``trainer.history``.

    Args:
        config: the run.
        out: its folder.
        stock: TRL as it is, with nothing of ours but environment and reward: for comparison.
    """
    model, processor = load(config.model, remember=not stock)
    weights = reward_arm(config)
    history = History(weights, processor.tokenizer, out / "history.csv")
    cuda = torch.cuda.is_available()
    rollouts = config.prompts * config.generations
    tokens = [*prompts.RESERVED_TOKENS]
    settings = GRPOConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=rollouts,
        num_generations=config.generations,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        max_completion_length=MAX_COMPLETION_LENGTH,
        max_tool_calling_iterations=MAX_CALLS,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        generation_kwargs={
            "max_new_tokens": MAX_NEW_TOKENS,
            "suppress_tokens": processor.tokenizer.convert_tokens_to_ids(tokens),
        },
        use_cpu=not cuda,
        bf16=precision()[0] == "bf16",
        gradient_checkpointing=False,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=config.save_every,
        save_total_limit=2,
        report_to=[],
        dataloader_pin_memory=cuda,
    )
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    trainer = (GRPOTrainer if stock else ZoomTrainer)(
        model=model,
        args=settings,
        reward_funcs=history.reward,
        train_dataset=training_set(config),
        processing_class=processor,
        environment_factory=ZoomEnvironment if weights.tool else NoTool,
        peft_config=lora,
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
    if not stock:
        cache_vision(trainer.model)
    return trainer


class MarkComplete(TrainerCallback):
    """Marks a checkpoint as whole once everything in it is written."""

    NAME = "complete"

    def on_save(self, args, state, control, **kwargs):
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.NAME).touch()


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill left half written is passed over."""
    whole = [
        path.parent for path in (out / "checkpoints").glob(f"checkpoint-*/{MarkComplete.NAME}")
    ]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def train(config: RunConfig, out: str | Path) -> Path:
    """Train in a run folder, or go on where a killed run stopped, or return at once if it is done.

    Leaves ``config.json``, ``history.csv`` and ``adapter/``. Killed at any moment and started again, a
    run ends where the undisturbed run ends.

    Raises:
        ValueError: if the folder holds a run with another configuration.
        ImagesDropped, FloatingPointError: see `ZoomTrainer` and `History`.
    """
    out = Path(out)
    claim(out, asdict(config))
    adapter = out / "adapter"
    if adapter.exists():
        return out
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = build_trainer(config, out)
    checkpoint = last_checkpoint(out)
    path = trainer.history.path
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    rows = [r for r in read_history(path) if r["step"] <= done] if path.exists() else []
    trainer.history.rows = rows
    write_history(rows, path)
    print("training in {} ({}), from step {} to {}".format(*precision(), done, config.steps))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with whole(adapter) as aside:  # the adapter's folder stands for "this run is done"
        trainer.model.save_pretrained(aside)
    return out


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


def load_trained(out: str | Path):
    """Model with its adapter merged, and the processor, from a run folder.

    Raises:
        FileNotFoundError: if the run is not done.
    """
    out = Path(out)
    if not (out / "adapter").exists():
        raise FileNotFoundError(f"no adapter in {out}; finish the run with `train --out {out}`")
    model, processor = load(read_config(out).model)
    return PeftModel.from_pretrained(model, out / "adapter").merge_and_unload(), processor


def preset(name: str, **changes) -> RunConfig:
    """A preset with some of its values changed.

    Raises:
        ValueError: naming the presets there are.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    config = replace(PRESETS[name], **changes)
    arm(config.arm)
    return config
