"""What a preset asks of a GPU's memory: by arithmetic, and where somebody has measured it, by measurement.

Arithmetic knows the weights, and keys and values of all rollouts of a step while they are generated side by
side. It leaves out activations, adapters with their optimizer, and what the libraries hold.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import completion_length, ready, spec_of
from deepeyes_lite.realworld.shapes import config_of, processor_of
from deepeyes_lite.training import PRESETS, RunConfig

BYTES, BYTES_4_BIT = 2.0, 0.6  # of a parameter, in bf16 and in NF4 with its scales
PROMPT_TEXT = 500  # tokens of system prompt, schema and question
GPUS = {name: config for name, config in PRESETS.items() if name.endswith("GB")}


def weights_gb(config: RunConfig) -> float:
    """GB (1e9 bytes) of the weights of a model of ``shapes.SHAPES``.

    >>> f"{weights_gb(GPUS['80GB']):.1f}", f"{weights_gb(GPUS['8GB']):.1f}"
    ('16.6', '2.3')
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config_of(config.model))

    def bytes_of(name: str, weight) -> float:
        linear = "language_model.layers" in name and weight.ndim == 2
        return weight.numel() * (BYTES_4_BIT if config.quantise and linear else BYTES)

    return sum(bytes_of(*named) for named in model.named_parameters()) / 1e9


def episode_tokens(config: RunConfig) -> int:
    """Tokens of the longest episode, with its prompt."""
    processor = ready(processor_of(config.model), config.max_pixels)
    view = config.max_pixels // spec_of(processor).factor ** 2
    completion = completion_length(processor, config.max_calls, config.max_new_tokens)
    return PROMPT_TEXT + view + completion


def cache_gb(config: RunConfig) -> float:
    """GB of keys and values of all rollouts of a step, each of full length, in bf16."""
    text = config_of(config.model).text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * BYTES * text.num_hidden_layers * text.num_key_value_heads * head
    return config.prompts_per_step * config.num_generations * episode_tokens(config) * token / 1e9


def write_record(found: dict, folder: str | Path) -> Path:
    """Keep what ``doctor --gpu`` measured as ``PRESET.json``.

    Raises:
        ValueError: for a run that was cut down, because it measured nothing about the preset.
    """
    if found["small"]:
        raise ValueError("a run that is cut down for want of a GPU has nothing to record")
    path = Path(folder) / f"{found['preset']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        kept = {**found, "config": asdict(found["config"])}
        tmp.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return path


def table(folder: str | Path) -> str:
    """All presets for GPUs in Markdown; what nobody has measured stays empty.

    Args:
        folder: of the records.
    """
    lines = [
        "| preset | model | method | tokens of a view | prompts × generations | calls | tokens of a turn "
        "| weights, GB | cache, GB | peak GB, measured | s a step, measured | on |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, config in GPUS.items():
        view = config.max_pixels // spec_of(processor_of(config.model)).factor ** 2
        cells = [name, config.model.split("/")[1].removesuffix("-Instruct")]
        cells += ["QLoRA" if config.quantise else "LoRA", view]
        cells += [f"{config.prompts_per_step} × {config.num_generations}", config.max_calls]
        cells += [config.max_new_tokens, f"{weights_gb(config):.1f}", f"{cache_gb(config):.1f}"]
        path = Path(folder) / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            peak = max(record["peak"].values())
            cells += [
                f"{peak:.1f}",
                f"{record['step']['total']:.0f}",
                record["machine"].split(",")[0],
            ]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
