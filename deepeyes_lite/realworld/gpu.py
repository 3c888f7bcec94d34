"""Does a preset fit a GPU? By arithmetic (`table`), and by two real steps on this machine (`check`).

Arithmetic knows the weights, and the keys and values of all rollouts of a step while they are generated
side by side. It leaves out activations, adapters with their optimizer, and what the libraries hold. So a
preset has to be measured: ``python -m deepeyes_lite doctor --gpu --preset 24GB --record data/runs/gpu``.
"""

import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import TrainerCallback

from deepeyes_lite.doctor import machine, precision
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import OBSERVATION_TOKENS, PROMPT_TEXT, QWEN2_5_VL, QWEN3_VL
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.training import PRESETS, RunConfig, build_trainer, preset

BYTES, BYTES_4_BIT = 2.0, 0.6  # of a parameter, in bf16 and in NF4 with its scales
GPUS = {name: config for name, config in PRESETS.items() if name.endswith("GB")}


# Of the checkpoints' config.json on the hub: family; parameters; those in the language model's linear
# layers, which QLoRA keeps in 4 bits; layers; heads with keys and values.
SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": (QWEN2_5_VL, 3_754_622_976, 2_774_532_096, 36, 2),
    "Qwen/Qwen2.5-VL-7B-Instruct": (QWEN2_5_VL, 8_292_166_656, 6_525_288_448, 28, 4),
    "Qwen/Qwen3-VL-2B-Instruct": (QWEN3_VL, 2_127_532_032, 1_409_286_144, 28, 8),
}
HEAD_DIM = 128  # of all of them


def weights_gb(config: RunConfig) -> float:
    """GB (1e9 bytes) of the weights of a preset's model.

    >>> f"{weights_gb(GPUS['80GB']):.1f}", f"{weights_gb(GPUS['8GB']):.1f}"
    ('16.6', '2.3')
    """
    _, parameters, linear, *_ = SHAPES[config.model]
    packed = linear if config.quantise else 0
    return (BYTES * (parameters - packed) + BYTES_4_BIT * packed) / 1e9


def view_tokens(config: RunConfig) -> int:
    """Tokens of the largest view, and of the largest crop."""
    return config.max_pixels // SHAPES[config.model][0].factor ** 2


def episode_tokens(config: RunConfig) -> int:
    """Tokens of the longest episode, with its prompt."""
    turns = (config.max_calls + 1) * config.max_new_tokens
    crops = config.max_calls * (view_tokens(config) + OBSERVATION_TOKENS)
    return PROMPT_TEXT + view_tokens(config) + turns + crops


def cache_gb(config: RunConfig) -> float:
    """GB of keys and values of all rollouts of a step, each of full length, in bf16."""
    *_, layers, kv_heads = SHAPES[config.model]
    token = 2 * BYTES * layers * kv_heads * HEAD_DIM
    return config.prompts_per_step * config.num_generations * episode_tokens(config) * token / 1e9


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


def check(name: str = "24GB", model: str = "", **changes) -> dict:
    """Train two steps of a preset on scenes of the tiny world; the first step warms up.

    Args:
        name: a preset for a GPU.
        model: folder to take instead of the preset's model, which comes from the hub.
        changes: fields of `RunConfig` that are set otherwise, such as ``num_generations``.

    Returns:
        ``preset``, ``machine``, ``config``, ``peak_gb`` (0 on a CPU), ``seconds`` of the second step by
        phase, ``calls`` an episode, tokens of the ``longest`` episode after its prompt, and whether it is
        the preset ``as_it_is``, on a GPU.

    Raises:
        ValueError: for a preset that is not for a GPU, or a model of the hub where there is no GPU.
    """
    cuda = torch.cuda.is_available()
    if name not in GPUS:
        raise ValueError(f"preset {name!r} is not one for a GPU; there are {', '.join(GPUS)}")
    if not cuda and not model:
        raise ValueError(
            f"no GPU is here, and {GPUS[name].model} is too large for a CPU; name a small --model"
        )
    with tempfile.TemporaryDirectory(prefix="deepeyes-lite-") as folder:
        config = preset(name, steps=2, save_steps=2, data=f"{folder}/data", **changes)
        config = replace(config, model=model or config.model)
        # Scenes larger than any view, so that views and crops have the full budget.
        scenes = tiny_world("test", 2 * config.prompts_per_step, World(canvas=1536))
        scenes.save_to_disk(config.data)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer, clock = build_trainer(config, Path(folder) / "run"), Clock()
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
        "seconds": seconds,
        "calls": logs["tools/call_frequency"],
        "longest": int(logs["completions/max_length"]),
        "as_it_is": cuda and not changes,
    }


def report(measured: dict) -> str:
    """The block for a bug report or for the README's table, out of what `check` returns."""
    config, seconds = measured["config"], measured["seconds"]
    lines = [
        f"deepeyes-lite doctor --gpu --preset {measured['preset']}",
        f"{config['model']}, {'QLoRA' if config['quantise'] else 'LoRA'} r = {config['lora_rank']}",
        measured["machine"],
        f"{config['prompts_per_step']} prompts x {config['num_generations']} generations, "
        f"{config['micro_batch']} at a time; views up to {config['max_pixels']} px; "
        f"{measured['calls']:.1f} calls an episode, the longest {measured['longest']} tokens",
        *(f"{phase:12}{seconds[phase]:>8.1f} s" for phase in sorted(seconds, key=seconds.get)),
        f"peak memory {measured['peak_gb']:.1f} GB" if measured["peak_gb"] else "peak memory -",
    ]
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
        "| weights, GB | cache, GB | peak GB, measured | s a step, measured | on |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, config in GPUS.items():
        cells = [name, config.model.split("/")[1].removesuffix("-Instruct")]
        cells += ["QLoRA" if config.quantise else "LoRA", view_tokens(config)]
        cells += [f"{config.prompts_per_step} × {config.num_generations}", config.max_calls]
        cells += [config.max_new_tokens, f"{weights_gb(config):.1f}", f"{cache_gb(config):.1f}"]
        path, measured = Path(folder) / f"{name}.json", ["", "", ""]
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            measured = [f"{record['peak_gb']:.1f}", f"{record['seconds']['total']:.0f}"]
            measured.append(record["machine"].split(",")[0])
        lines.append("| " + " | ".join(map(str, cells + measured)) + " |")
    return "\n".join(lines)
