"""What decides a run, and named starting points: for the tiny world, and by the memory of a GPU.

**The presets for GPUs are starting points, and none of them was measured.** They follow from the size of
the weights (2 bytes a parameter, about 0.6 in 4 bits) and of the key-value cache while all rollouts of a
step are generated side by side; ``doctor --gpu --preset NAME`` measures one on your machine in a few
minutes. Whoever has memory left raises ``max_pixels`` first, then ``generations``.
"""

import json
from dataclasses import dataclass, field, replace

from deepeyes_lite.rewards import arm
from deepeyes_lite.tools import MAX_CALLS


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
        model: a folder, or a name of the hub; its family is found from its configuration.
        data: folder of a dataset in our schema, as `select` writes it; empty for the tiny world.
        save_every: steps between checkpoints.
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
        "prompts": 2,
        "micro_batch": 1,
        "max_calls": 3,
        "max_new_tokens": 256,
        "gradient_checkpointing": True,
    }
    pixels = tokens * factor * factor
    return RunConfig(model=model, max_pixels=pixels, **{**shared, **changes})


PRESETS = {
    "demo": RunConfig(),
    "quick": RunConfig(steps=2, prompts=2, generations=4, save_every=1),  # does it run at all?
    "8GB": _gpu(
        "Qwen/Qwen3-VL-2B-Instruct",
        192,
        32,
        generations=4,
        max_calls=2,
        max_new_tokens=160,
        quantise=True,
    ),
    "12GB": _gpu(
        "Qwen/Qwen3-VL-2B-Instruct", 256, 32, generations=4, max_calls=2, max_new_tokens=192
    ),
    "16GB": _gpu("Qwen/Qwen2.5-VL-3B-Instruct", 320, 28, generations=6, max_calls=2),
    "24GB": _gpu("Qwen/Qwen2.5-VL-3B-Instruct", 576, 28, generations=8, prompts=4),
    "40GB": _gpu("Qwen/Qwen2.5-VL-7B-Instruct", 576, 28, generations=8, prompts=4),
    "80GB": _gpu(  # the paper's base model
        "Qwen/Qwen2.5-VL-7B-Instruct",
        1024,
        28,
        generations=8,
        prompts=8,
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
    arm(config.arm)
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
