"""``doctor --gpu``: does a preset run on this machine, and what do its steps take?

Nothing is downloaded: the model has the preset's shape and random weights (`shapes.py`). It is written,
loaded as any other, rolled out with a crop, trained for a step, saved, loaded again and trained for
another. Random weights never call the tool, so at the end of every turn a call is written for them, until
the bound on calls: turns, crops and with them time and memory are the greatest that the preset allows.
"""

import gc
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import TrainerCallback

from deepeyes_lite import prompts
from deepeyes_lite.doctor import machine, precision
from deepeyes_lite.models import device, load, spec_of, token_ids
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.realworld.clock import PHASES, Clock
from deepeyes_lite.realworld.memory import GPUS
from deepeyes_lite.realworld.shapes import SHAPES, write_random
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.training import RunConfig, build_trainer, last_checkpoint, preset

LAYERS = 2  # where there is no GPU
SMALL = {
    "prompts_per_step": 1,
    "num_generations": 2,
    "max_calls": 1,
    "max_new_tokens": 64,
    "lora_rank": 4,
}


def smoke(name: str = "24GB", small: bool | None = None) -> dict:
    """Try a preset.

    Args:
        name: a preset with a model of ``SHAPES``.
        small: whether the layers are cut down; None: if there is no GPU.

    Returns:
        What `report` prints.

    Raises:
        ValueError: for a preset without a published shape.
        RuntimeError: if a part does not do what it should; a GPU that is too small raises torch's own.
    """
    config = preset(name)
    if config.model not in SHAPES:
        raise ValueError(f"preset {name!r} is not one for a GPU; there are {', '.join(GPUS)}")
    small = device().type != "cuda" if small is None else small
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="deepeyes-lite-") as folder:
        folder = Path(folder)
        began = time.perf_counter()
        shape = {"layers": LAYERS, "narrow": True} if small else {"device": device()}
        write_random(config.model, folder / "model", **shape)
        seconds["write"] = time.perf_counter() - began
        run = replace(config, model=str(folder / "model"), steps=2, save_steps=1)
        _scenes(run.prompts_per_step).save_to_disk(folder / "data")
        run = replace(run, data=str(folder / "data"))
        if small:
            run = replace(run, **SMALL, quantise=False)
            run = replace(run, max_pixels=0 if run.max_pixels == 0 else 64 * 32 * 32)
        began = time.perf_counter()
        _roll_out(run)
        seconds["rollout"] = time.perf_counter() - began
        _forget()
        first = _step(run, folder / "run", stop_after=1)
        _forget()
        second = _step(run, folder / "run", stop_after=2)
    # The first step warms up, at a rate of zero.
    if first["adapter"] == second["adapter"]:
        raise RuntimeError("two steps changed no adapter")
    return {
        "preset": name,
        "model": config.model,
        "machine": machine(),
        "small": small,
        "config": run,
        "seconds": seconds,
        "step": second["step"],
        "peak": second["peak"],
        "completion": second["completion"],
        "crops": second["crops"],
    }


def _forget() -> None:
    """Free the memory of the part before: trainer and model hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _roll_out(config: RunConfig) -> None:
    """One episode with a crop, as `rollout` and `LocalPolicy` make it."""
    model, processor = load(config.model, config.quantise, config.max_pixels)
    policy = CallsFirst(model, processor, max_new_tokens=config.max_new_tokens)
    (episode,) = rollout(_scenes(1), policy, max_calls=config.max_calls, progress=False)
    if len(episode.images) < 2:
        raise RuntimeError(f"the rollout has no crop: {episode.turns}")


def _scenes(n: int):
    """Scenes larger than any view, so that views and crops have the full budget."""
    return tiny_world("test", n, World(canvas=1536))


class CallsFirst(LocalPolicy):
    """Its model replies, and what it would have to call is written for it."""

    def reply(self, trajectories, allow_calls=True):
        replies = super().reply(trajectories, allow_calls)
        return [
            ids if t.turns else with_call(self.tokenizer, ids, self.max_new_tokens)
            for ids, t in zip(replies, trajectories)
        ]


def with_call(tokenizer, ids: list[int], length: int, side: int = 900) -> list[int]:
    """A reply that ends with a call: as long as before, at most ``length``, without stray markup."""
    call = prompts.tool_call({"bbox_2d": [10, 10, side, side]}) + prompts.TURN_END
    end = tokenizer(call, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(
        token_ids(tokenizer, ("<think>", "</think>", "<tool_call>", "</tool_call>"))
    )
    # Beyond the small tokenizer's last id is nothing that could be read.
    plain = [i for i in ids if i not in special and i < len(tokenizer)]
    return plain[: max(0, length - len(end))] + end


def _step(config: RunConfig, out: Path, stop_after: int) -> dict:
    """Train up to a step, from the last checkpoint if there is one."""
    trainer = build_trainer(config, out)
    seen = _make_it_call(trainer, config)
    trainer.add_callback(StopAfter(stop_after))
    clock = Clock(trainer)
    trainer.add_callback(clock)
    checkpoint = last_checkpoint(out)
    if stop_after > 1 and checkpoint is None:
        raise RuntimeError("the checkpoint of the first step is not there")
    with clock.patches:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step != stop_after:
        raise RuntimeError(f"step {stop_after} was not reached, but {trainer.state.global_step}")
    weights = [p for n, p in trainer.model.named_parameters() if p.requires_grad and "lora_B" in n]
    adapter = [float(weight.detach().float().abs().sum()) for weight in weights]
    trainer.accelerator.free_memory()
    return {"step": clock.steps[-1], "peak": clock.peaks[-1], "adapter": adapter, **seen}


def _make_it_call(trainer, config: RunConfig) -> dict:
    """Let every rollout call as often as it may, and give the rollouts of a group different rewards."""
    tokenizer = trainer.processing_class.tokenizer
    length = config.max_new_tokens or spec_of(trainer.processing_class).max_new_tokens
    generate, turns, seen = trainer._generate_single_turn, [], {}

    def turn(*args, has_tool_images=False, **kwargs):
        ids, logprobs = generate(*args, has_tool_images=has_tool_images, **kwargs)
        if not has_tool_images:
            turns.clear()
        turns.append(1)
        if len(turns) <= config.max_calls:
            ids = [with_call(tokenizer, row, length, 600 + 10 * i) for i, row in enumerate(ids)]
        return ids, logprobs

    def reward(completion_ids, environments, **columns):
        trainer.history.reward(completion_ids, environments=environments, **columns)
        seen["completion"] = max(map(len, completion_ids))
        seen["crops"] = min(len(environment.boxes_px) for environment in environments)
        if not seen["crops"]:
            raise RuntimeError("a rollout of the step has no crop")
        return [float(i % 2) for i in range(len(completion_ids))]

    trainer._generate_single_turn = turn
    trainer.reward_funcs[0] = reward
    return seen


class StopAfter(TrainerCallback):
    """Ends a run early, as a kill after its checkpoint would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def report(found: dict) -> str:
    """The block for a bug report or for the README's table."""
    config: RunConfig = found["config"]
    method = "QLoRA" if config.quantise else "LoRA"
    lines = [
        f"deepeyes-lite doctor --gpu --preset {found['preset']}",
        f"{found['model']}, random weights, {method} r = {config.lora_rank}",
    ]
    if found["small"]:
        lines.append(
            f"CUT DOWN to {LAYERS} narrow layers, for there is no GPU: the figures say that it runs, "
            "and nothing about the preset"
        )
    lines += [
        f"{found['machine']}, {precision()[0]}",
        f"{config.prompts_per_step} prompts x {config.num_generations} generations, {config.micro_batch} at a time; "
        f"{found['crops']} crops an episode, views up to {config.max_pixels} px; "
        f"longest episode {found['completion']} tokens",
        f"{'phase':12}{'seconds':>9}{'peak GB':>9}",
    ]
    for phase in [*PHASES, "total"]:
        gb = (
            found["peak"].get(phase)
            if phase != "total"
            else max(found["peak"].values(), default=None)
        )
        memory = "-" if gb is None else f"{gb:.1f}"
        lines.append(f"{phase:12}{found['step'][phase]:>9.1f}{memory:>9}")
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in found["seconds"].items())
    lines.append(f"before the step: {seconds}; a step, save, resume, a step: all done")
    return "\n".join(lines)
