"""A run's configuration in TRL's terms: one ``GRPOConfig``."""

import os
import warnings
from dataclasses import fields
from pathlib import Path

from trl import GRPOConfig

from deepeyes_lite.loading import device
from deepeyes_lite.models import completion_length, spec_of, token_ids
from deepeyes_lite.presets import RunConfig


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
            "num_generations": config.generations,
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
            "save_steps": config.save_every,
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
    if config.prompts % world:
        raise ValueError(
            f"{config.prompts} prompts a step cannot be dealt out to {world} processes"
        )
    rollouts = config.prompts // world * config.generations
    micro = config.micro_batch or rollouts
    if rollouts % micro:
        raise ValueError(
            f"micro_batch must divide a process's {rollouts} rollouts "
            f"({config.prompts // world} prompts x {config.generations}), got {micro}"
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
