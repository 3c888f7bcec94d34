"""Does a preset fit a GPU? By arithmetic (`table`), and by real steps on this machine (`check`).

Arithmetic takes the worst case: every episode has all its calls, each crop is as large as a view, each turn
as long as it may be. `check` plays such episodes, whatever the model would say, in a process that gets as
much memory as the preset's name says:
``python -m deepeyes_lite doctor --gpu --preset 24GB --record data/runs/gpu``.
"""

import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import TrainerCallback

from deepeyes_lite.config import PRESETS, RunConfig, preset
from deepeyes_lite.doctor import check_disk, machine, precision
from deepeyes_lite.fast import VISION_BYTES, VISION_PATCHES
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import (
    OBSERVATION_TOKENS,
    PROMPT_TEXT,
    QWEN2_5_VL,
    QWEN3_VL,
    ModelSpec,
    encode_box,
    find,
)
from deepeyes_lite.prompts import tool_call
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.training import build_trainer

BYTES, BYTES_4_BIT = 2.0, 0.6  # of a parameter, in bf16 and in NF4 with its scales
LIBRARIES_GB = 1.0  # CUDA's context, the workspaces of cuBLAS, a tile of logits (TRL's fused head)
GPUS = {name: config for name, config in PRESETS.items() if name.endswith("GB")}


class Shape(NamedTuple):
    """A model, from the checkpoint's config.json on the hub."""

    spec: ModelSpec
    parameters: int
    linear: int  # parameters in the language model's linear layers, which QLoRA keeps in 4 bits
    layers: int
    hidden: int
    inner: int  # of an MLP
    heads: int
    kv_heads: int  # those with keys and values
    patch: int  # values of a patch; four make a visual token


HEAD_DIM = 128  # of all of them
SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(
        QWEN2_5_VL, 3_754_622_976, 2_774_532_096, 36, 2048, 11008, 16, 2, 1176
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(
        QWEN2_5_VL, 8_292_166_656, 6_525_288_448, 28, 3584, 18944, 28, 4, 1176
    ),
    "Qwen/Qwen3-VL-2B-Instruct": Shape(
        QWEN3_VL, 2_127_532_032, 1_409_286_144, 28, 2048, 6144, 16, 8, 1536
    ),
}


def rollouts(config: RunConfig) -> int:
    """Rollouts of a step."""
    return config.prompts_per_step * config.num_generations


def view_tokens(config: RunConfig) -> int:
    """Tokens of the largest view, and of the largest crop."""
    return config.max_pixels // SHAPES[config.model].spec.factor ** 2


def episode_tokens(config: RunConfig) -> int:
    """Tokens of the longest episode, with its prompt."""
    turns = (config.max_calls + 1) * config.max_new_tokens
    crops = config.max_calls * (view_tokens(config) + OBSERVATION_TOKENS)
    return PROMPT_TEXT + view_tokens(config) + turns + crops


def weights_gb(config: RunConfig) -> float:
    """GB (1e9 bytes) of the weights of a preset's model.

    >>> f"{weights_gb(GPUS['80GB']):.1f}", f"{weights_gb(GPUS['8GB']):.1f}"
    ('16.6', '2.3')
    """
    shape = SHAPES[config.model]
    packed = shape.linear if config.quantise else 0
    return (BYTES * (shape.parameters - packed) + BYTES_4_BIT * packed) / 1e9


def cache_gb(config: RunConfig) -> float:
    """GB of keys and values of all rollouts of a step, each of full length, in bf16."""
    shape = SHAPES[config.model]
    token = 2 * BYTES * shape.layers * shape.kv_heads * HEAD_DIM
    return rollouts(config) * episode_tokens(config) * token / 1e9


def adapters_gb(config: RunConfig) -> float:
    """GB of the adapters in fp32, with gradients and Adam's two moments."""
    shape = SHAPES[config.model]
    query, keys = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    sides = (
        2 * (shape.hidden + query) + 2 * (shape.hidden + keys) + 3 * (shape.hidden + shape.inner)
    )
    return 16 * config.lora_rank * sides * shape.layers / 1e9


def images_gb(config: RunConfig) -> float:
    """GB of all views and crops of a step: patches in fp32, and features, one image's and all as a batch.

    A third copy is made where a chunk takes its features out of the batch. Qwen3-VL has features of three
    layers more (DeepStack). Added are the features kept from step to step, and the tower at work.
    """
    shape = SHAPES[config.model]
    tokens = rollouts(config) * (1 + config.max_calls) * view_tokens(config)
    levels = 4 if shape.spec is QWEN3_VL else 1
    patches, features = 4 * 4 * shape.patch, 3 * levels * BYTES * shape.hidden
    tower = VISION_PATCHES * BYTES * 22_000  # values of a patch that live at a time: residual, MLP
    return (tokens * (patches + features) + VISION_BYTES + tower) / 1e9


def prefill_gb(config: RunConfig) -> float:
    """GB of the activations while a chunk of every conversation is read.

    The most is needed in an MLP: two of its inner values in bf16, and twice the adapter's output in fp32.
    """
    shape = SHAPES[config.model]
    tokens = rollouts(config) * (config.prefill_chunk or episode_tokens(config))
    return tokens * (12 * shape.inner + 8 * shape.hidden) / 1e9


def update_gb(config: RunConfig) -> float:
    """GB of the activations of one forward and backward pass over ``micro_batch`` episodes.

    What every layer was given is kept, and one layer at a time is computed again with all that its gradient
    needs: about eight inner values of the MLP and fifteen hidden ones a token.
    """
    shape = SHAPES[config.model]
    layer = 8 * shape.inner + 15 * shape.hidden
    return (
        config.micro_batch
        * episode_tokens(config)
        * BYTES
        * (shape.layers * shape.hidden + layer)
        / 1e9
    )


def parts(config: RunConfig) -> dict[str, float]:
    """GB of a preset by what takes them; the ``total`` has the larger one of generation and update."""
    gb = {
        "weights": weights_gb(config),
        "adapters": adapters_gb(config),
        "images": images_gb(config),
        "generation": cache_gb(config) + prefill_gb(config),
        "update": update_gb(config),
    }
    work = min(gb["generation"], gb["update"])
    return gb | {"total": sum(gb.values()) - work + LIBRARIES_GB}


class Clock(TrainerCallback):
    """Seconds of every step in ``steps``: those of the phases, and of the whole step as ``total``."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []
        self._seconds: Counter = Counter()
        self._began = 0.0

    def watch(self, phase: str, owner, method: str) -> None:
        """Let the seconds in ``owner.method`` count as a phase; it replaces the method on its owner."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            began = _now()
            try:
                return original(*args, **kwargs)
            finally:
                self._seconds[phase] += _now() - began

        setattr(owner, method, timed)

    def on_step_begin(self, args, state, control, **kwargs):
        self._seconds.clear()
        self._began = _now()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append({**self._seconds, "total": _now() - self._began})


def _now() -> float:
    if torch.cuda.is_available():  # it works on while Python goes on
        torch.cuda.synchronize()
    return time.perf_counter()


def check(name: str = "24GB", model: str = "", quick: bool = False, **changes) -> dict:
    """Train two steps of a preset on episodes as long as they can be; the first step warms up.

    Args:
        name: a preset for a GPU.
        model: folder to take instead of the preset's model, which comes from the hub.
        quick: memory alone, in a fraction of the time: one step, in which the model generates 32 tokens of
            the last turn.
        changes: fields of `RunConfig` that are set otherwise, such as ``num_generations``.

    Returns:
        ``preset``, ``machine``, ``config``, ``peak_gb`` and ``reserved_gb`` (0 on a CPU), ``seconds`` of the
        last step by phase, ``calls`` an episode, tokens of the ``longest`` episode after its prompt,
        ``quick``, and whether it is the preset ``as_it_is``, on a GPU.

    Raises:
        ValueError: for a preset that is not for a GPU, a model of the hub where there is no GPU, or too
            little room for it on the disk.
        torch.OutOfMemoryError: if it does not fit into as much memory as its name says.
    """
    cuda = torch.cuda.is_available()
    if name not in GPUS:
        raise ValueError(f"preset {name!r} is not one for a GPU; there are {', '.join(GPUS)}")
    if not cuda and not model:
        raise ValueError(
            f"no GPU is here, and {GPUS[name].model} is too large for a CPU; name a small --model"
        )
    steps = 1 if quick else 2
    with tempfile.TemporaryDirectory(prefix="deepeyes-lite-") as folder:
        config = preset(name, steps=steps, save_steps=9, data=f"{folder}/data", **changes)
        config = replace(config, model=model or config.model)
        _look_for_room(config.model)
        # Scenes larger than any view, so that views and crops have the full budget.
        scenes = tiny_world("test", 2 * config.prompts_per_step, World(canvas=1536))
        scenes.save_to_disk(config.data)
        if cuda:
            bound = 1e9 * int(name.removesuffix("GB")) / torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, bound))
            torch.cuda.reset_peak_memory_stats()
        trainer = build_trainer(config, Path(folder) / "run", rewards={_by_turns: 1.0})
        _play_in_full(trainer, config, quick)
        clock = Clock()
        clock.watch("generation", trainer, "_generate_single_turn")
        clock.watch("forward", trainer, "compute_loss")
        clock.watch("backward", trainer.accelerator, "backward")
        trainer.add_callback(clock)
        trainer.train()
    logs = [row for row in trainer.state.log_history if "step_time" in row][-1]
    seconds = clock.steps[-1]
    phases = (seconds[name] for name in ("generation", "forward", "backward"))
    seconds["rest"] = seconds["total"] - sum(phases)
    return {
        "preset": name,
        "machine": f"{machine()}, {precision()[0]}",
        "config": asdict(replace(config, data="")),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "seconds": seconds,
        "calls": logs["tools/call_frequency"],
        "longest": int(logs["response_length"]),
        "quick": quick,
        "as_it_is": cuda and not changes,
    }


def _look_for_room(model: str) -> None:
    """Stop before a model of the hub fills the disk.

    Raises:
        ValueError: if the disk has less room than its weights take.
    """
    if Path(find(model)).is_dir() or try_to_load_from_cache(model, "config.json"):
        return
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    room = check_disk(there, BYTES * SHAPES[model].parameters / 1e9)
    if not room.ok:
        raise ValueError(f"{room.text}: {room.remedy}, or name weights at hand as --model")


def _by_turns(outcomes, **_) -> list[float]:
    """A reward that leaves no episode without a gradient."""
    return [float(i % 2) for i in range(len(outcomes))]


def _play_in_full(trainer, config: RunConfig, quick: bool) -> None:
    """Let every episode have all its calls and full turns, while the model generates as many tokens."""
    processor, settings = trainer.processing_class, trainer.generation_config
    tokenizer, generate = processor.tokenizer, trainer._generate_single_turn
    settings.max_new_tokens = settings.min_new_tokens = 32 if quick else settings.max_new_tokens
    filler, dice = tokenizer.encode("a")[:1], random.Random(0)

    def reply(image) -> list[int]:
        width, height = image.size
        x, y = dice.uniform(0, 0.3 * width), dice.uniform(0, 0.3 * height)
        box = encode_box(processor, (x, y, x + 0.7 * width, y + 0.7 * height), image.size)
        call = tool_call({"bbox_2d": box}) + tokenizer.eos_token
        ids = tokenizer.encode(call, add_special_tokens=False)
        return filler * (config.max_new_tokens - len(ids)) + ids

    def turn(prompt_ids, images, *args, **kwargs):
        if not quick or len(images[0]) > config.max_calls:
            generate(prompt_ids, images, *args, **kwargs)
        return [reply(shown[0]) for shown in images], None

    trainer._generate_single_turn = turn


def report(measured: dict) -> str:
    """The block for a bug report or for the README's table, out of what `check` returns."""
    config, seconds = measured["config"], measured["seconds"]
    memory = "peak memory -"
    if measured["peak_gb"]:
        memory = (
            f"peak memory {measured['peak_gb']:.1f} GB, {measured['reserved_gb']:.1f} GB reserved"
        )
    lines = [
        f"deepeyes-lite doctor --gpu --preset {measured['preset']}",
        f"{config['model']}, {'QLoRA' if config['quantise'] else 'LoRA'} r = {config['lora_rank']}",
        measured["machine"],
        f"{config['prompts_per_step']} prompts x {config['num_generations']} generations, "
        f"{config['micro_batch']} at a time; views up to {config['max_pixels']} px; "
        f"{measured['calls']:.1f} calls an episode, of {measured['longest']} tokens",
        *(f"{phase:12}{seconds[phase]:>8.1f} s" for phase in sorted(seconds, key=seconds.get)),
        memory,
    ]
    if measured["quick"]:
        lines.append(
            "quick: only 32 tokens of an episode were generated, so the seconds say little"
        )
    if not measured["as_it_is"]:
        lines.append(
            "no GPU, or not the preset's settings: it runs, and that is all these figures say"
        )
    return "\n".join(lines)


def write_record(measured: dict, folder: str | Path) -> Path:
    """Keep what `check` measured as ``PRESET.json``, for `table`.

    Raises:
        ValueError: for figures that are not those of the preset on a GPU.
    """
    if not measured["as_it_is"]:
        raise ValueError("a run without a GPU, or with other settings, has nothing to record")
    path = Path(folder) / f"{measured['preset']}.json"
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return path


def table(folder: str | Path) -> str:
    """All presets for GPUs in Markdown; what no record in the folder has measured stays empty."""
    lines = [
        "| preset | model | method | tokens of a view | prompts × generations | calls | tokens of a turn "
        "| weights, GB | images | generation | update | total "
        "| peak GB, measured | s a step, measured | on |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, config in GPUS.items():
        cells = [name, config.model.split("/")[1].removesuffix("-Instruct")]
        cells += ["QLoRA" if config.quantise else "LoRA", view_tokens(config)]
        cells += [f"{config.prompts_per_step} × {config.num_generations}", config.max_calls]
        cells += [config.max_new_tokens]
        cells += [f"{gb:.1f}" for part, gb in parts(config).items() if part != "adapters"]
        path, measured = Path(folder) / f"{name}.json", ["", "", ""]
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            seconds = "" if record["quick"] else f"{record['seconds']['total']:.0f}"
            measured = [f"{record['peak_gb']:.1f}", seconds, record["machine"].split(",")[0]]
        lines.append("| " + " | ".join(map(str, cells + measured)) + " |")
    return "\n".join(lines)
