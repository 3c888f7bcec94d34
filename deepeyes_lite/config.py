"""What decides a run: its configuration, and the presets.

Nothing heavy is imported here, so that a command whose options are mistyped says so at once.

**The presets for GPUs are starting points.** They follow from arithmetic (`realworld/gpu.py`): weights, keys
and values of all rollouts of a step, images, and what reading, generating and the update need. ``doctor
--gpu --preset NAME`` measures one on your machine in a few minutes. If there is memory left, raise
``max_pixels`` first, then ``num_generations``.
"""

from dataclasses import dataclass, field, replace

from deepeyes_lite.rewards import variant
from deepeyes_lite.tools import MAX_CALLS


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; written to ``config.json``, and a flag of ``train`` each.

    Attributes:
        reward: reward variant, a key of ``rewards.VARIANTS``.
        bonus: weight of ``tool_bonus`` instead of the variant's; None for the variant's own.
        call_cost: weight of ``call_cost``, a price on every call; None for no price.
        steps: optimizer steps.
        prompts_per_step: different questions a step.
        num_generations: rollouts of each question, the group of GRPO.
        learning_rate: constant after five steps of warm-up.
        lora_rank: rank of the adapters; alpha is twice the rank.
        legible_share: share of details that the view shows, where scenes are drawn for the run.
        seed: of scenes, adapters and sampling.
        model: a folder, a folder of ``DATA``, or a name of the hub; its configuration tells the family.
        data: folder of a data set in our schema; empty where the caller hands one in.
        save_steps: steps between checkpoints.
        max_calls: of an episode.
        max_new_tokens: of a turn; 0 for the family's.
        max_pixels: greatest area of a view; 0 for the family's.
        micro_batch: rollouts in one forward pass, the rest is accumulated; 0 for all at once.
        prefill_chunk: tokens of each conversation that are read at a time before a turn; 0 for all at once.
        gradient_checkpointing: compute activations a second time instead of keeping them.
        quantise: the language model in 4 bits (QLoRA); needs bitsandbytes.
        adapter: folder of a LoRA adapter to start from, such as a cold start's; empty for a fresh one.
        environment: dotted path of a class with tools beside the zoom; empty for the zoom alone.
        forced_direct: rollouts of each group that have to answer at once; see `ZoomTrainer`.
        forced_calls: rollouts of each group that have to call first.
        trl: options of TRL's ``GRPOConfig``, passed on as they are.
    """

    reward: str = "conditional"
    bonus: float | None = None
    call_cost: float | None = None
    steps: int = 100
    prompts_per_step: int = 8
    num_generations: int = 8
    learning_rate: float = 1e-3
    lora_rank: int = 16
    legible_share: float = 0.5
    seed: int = 0
    model: str = "tiny-eyes"
    data: str = ""
    save_steps: int = 10
    max_calls: int = MAX_CALLS
    max_new_tokens: int = 0
    max_pixels: int = 0
    micro_batch: int = 0
    prefill_chunk: int = 0
    gradient_checkpointing: bool = False
    quantise: bool = False
    adapter: str = ""
    environment: str = ""
    forced_direct: int = 0
    forced_calls: int = 0
    trl: dict = field(default_factory=dict)


def _gpu(model: str, tokens: int, factor: int, **changes) -> RunConfig:
    """A run on a GPU; ``tokens`` is the budget of a view, ``factor`` the px that one covers."""
    shared = {
        "learning_rate": 1e-5,
        "prompts_per_step": 2,
        "micro_batch": 1,
        "prefill_chunk": 512,
        "max_calls": 3,
        "max_new_tokens": 256,
        "gradient_checkpointing": True,
        "max_pixels": tokens * factor * factor,
    }
    return RunConfig(model=model, **{**shared, **changes})


QWEN3_2B, QWEN2_5_3B = "Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"
QWEN2_5_7B = "Qwen/Qwen2.5-VL-7B-Instruct"  # the paper's base model
PRESETS = {
    "demo": RunConfig(),
    "quick": RunConfig(steps=2, prompts_per_step=2, num_generations=4, save_steps=1),
    "8GB": _gpu(
        QWEN3_2B, 192, 32, num_generations=4, max_calls=2, max_new_tokens=160, quantise=True
    ),
    "12GB": _gpu(QWEN3_2B, 256, 32, num_generations=4, max_calls=2, max_new_tokens=192),
    "16GB": _gpu(QWEN2_5_3B, 320, 28, num_generations=6, max_calls=2),
    "24GB": _gpu(QWEN2_5_3B, 576, 28, prompts_per_step=4),
    "40GB": _gpu(QWEN2_5_7B, 576, 28, prompts_per_step=4),
    "80GB": _gpu(
        QWEN2_5_7B, 1024, 28, prompts_per_step=4, micro_batch=2, max_calls=6, max_new_tokens=384
    ),
}


def preset(name: str, **changes) -> RunConfig:
    """A preset with some of its values changed.

    Raises:
        ValueError: naming the presets there are, or the reward variants.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    config = replace(PRESETS[name], **changes)
    variant(config.reward)
    return config


def reward_weights(config: RunConfig) -> dict[str, float]:
    """The weights of a run's reward functions, with the run's own bonus and cost where it has them."""
    own = {"tool_bonus": config.bonus, "call_cost": config.call_cost}
    own = {name: weight for name, weight in own.items() if weight is not None}
    return variant(config.reward) | own
