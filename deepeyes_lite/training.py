"""A training run: its configuration, TRL's trainer, the record of every step, resume.

TRL trains. How a run differs from the paper's: LoRA on the language model instead of full training, 8 x 8
rollouts a step instead of 256 x 16, a rate of 1e-3 (LoRA, small model) instead of 1e-6, rules instead of
a judge.
"""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils.notebook import NotebookProgressCallback
from trl import GRPOConfig, GRPOTrainer

from deepeyes_lite.config import RunConfig, reward_weights
from deepeyes_lite.data import load as load_data
from deepeyes_lite.doctor import precision
from deepeyes_lite.fast import FastSteps, cache_vision
from deepeyes_lite.files import atomic_write, check_or_write_config, file_lock, is_first_process
from deepeyes_lite.models import (
    PROMPT_TEXT,
    completion_length,
    device,
    environment_named,
    load,
    spec_of,
    token_ids,
    tool_of,
    view_of,
    visual_token,
)
from deepeyes_lite.policies import ForcedChoice
from deepeyes_lite.prompts import read_reply, split_turns
from deepeyes_lite.rewards import REWARDS, WITHOUT_TOOL, Outcome, for_trl, least_bonus
from deepeyes_lite.tools import NoTool, answer_call
from deepeyes_lite.trajectories import best_iou

# Keys and values grow token by token; in segments of fixed size they leave gaps. Read when CUDA starts.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

# --- TRL's trainer --------------------------------------------------------------------------------

# What is the same in all runs.
RECIPE = {
    "loss_type": "dapo",
    "scale_rewards": "group",  # advantages are divided by the group's deviation
    "beta": 0.0,  # no KL term, so no reference model
    "temperature": 1.0,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
}


def build_trainer(
    config: RunConfig,
    out: Path,
    dataset: Dataset | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    rewards: dict[Callable, float] | None = None,
    stock: bool = False,
) -> GRPOTrainer:
    """The trainer of a run, ready for ``train``.

    Args:
        config: the run.
        out: its folder.
        dataset: questions in our schema; None for those of ``config.data``.
        callbacks: of transformers, beside the run's own.
        rewards: further reward functions, as in `rewards.py`, with their weights; with weight 0.0 a
            function only watches.
        stock: TRL as it is, with nothing of `fast.py`: for comparison.

    Raises:
        ValueError: for too few questions, or an option that TRL does not have.
    """
    forced = strata(config, stock)  # looked over before the model is loaded
    model, processor = load(config.model, config.quantise, config.max_pixels, cache=not stock)
    if config.adapter:
        model = PeftModel.from_pretrained(model, config.adapter, is_trainable=True)
    spec, tokenizer = spec_of(processor), processor.tokenizer
    offers_tool = config.reward not in WITHOUT_TOOL
    tool = tool_of(processor, environment_named(config.environment))
    environment = partial(tool, max_calls=config.max_calls)
    weighted = {REWARDS[name]: weight for name, weight in reward_weights(config).items()}
    weighted |= {log_episodes: 0.0, **(rewards or {})}
    settings = RECIPE | {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "max_steps": config.steps,
        "learning_rate": config.learning_rate,
        "num_generations": config.num_generations,  # G, the group
        "reward_weights": list(weighted.values()),
        "max_completion_length": completion_length(
            processor, config.max_calls, config.max_new_tokens
        ),
        "max_tool_calling_iterations": config.max_calls,
        "generation_kwargs": sampling(config, processor),
    }
    settings |= batches(config) | machine_settings(config, model)
    settings |= vllm_settings(config, model, processor, settings["max_completion_length"])
    settings |= trl_options(config.trl)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=spec.lora_targets,
        task_type="CAUSAL_LM",
    )
    args = GRPOConfig(**settings)
    keep, args.save_total_limit = args.save_total_limit, None  # see `Checkpoints`
    args._n_gpu = min(args.n_gpu, 1)  # a process trains on one GPU, however many it sees
    trainer = (GRPOTrainer if stock else ZoomTrainer)(
        model=model,
        processing_class=processor,
        args=args,
        peft_config=None if config.adapter else lora,
        train_dataset=with_prompts(config, dataset, spec.suffix[offers_tool]),
        environment_factory=environment if offers_tool else NoTool,
        reward_funcs=[for_trl(function, tokenizer) for function in weighted],  # each gives (B,)
        callbacks=[History(out / "history.csv", config), Checkpoints(keep), *callbacks],
    )
    for noisy in (PrinterCallback, ProgressCallback, NotebookProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(Progress())
    if config.quantise:
        # TRL casts adapters to bf16, in which a step of Adam at a rate of 1e-5 is rounded away.
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    if not stock and not trainer.sharded:
        cache_vision(trainer.model)
    trainer.forced = forced
    return trainer


def with_prompts(config: RunConfig, dataset: Dataset | None, suffix: str) -> Dataset:
    """The questions of a run with TRL's column ``prompt``.

    Args:
        config: the run.
        dataset: questions in our schema; None for those of ``config.data``.
        suffix: what the model's family asks for after every question.

    Raises:
        ValueError: if there are none, or fewer than a step has prompts.
    """
    if dataset is None and not config.data:
        raise ValueError("no questions to train on: hand in a data set, or name one as `data`")
    dataset = load_data(config.data) if dataset is None else dataset
    if len(dataset) < config.prompts_per_step:
        raise ValueError(
            f"{len(dataset)} questions are too few: a step takes {config.prompts_per_step}"
        )
    prompt = [[{"role": "user", "content": text + suffix}] for text in dataset["question"]]
    return dataset.add_column("prompt", prompt)


def machine_settings(config: RunConfig, model) -> dict:
    """How this machine trains, saves and logs, in TRL's terms."""
    cuda = device().type == "cuda"
    return {
        "use_cpu": not cuda,
        # Adapters are trained in the precision of their model: tiny-eyes is in fp32 on a GPU, too.
        "bf16": model.dtype == torch.bfloat16,
        "gradient_checkpointing": config.gradient_checkpointing,
        # No buffer changes in training, so none is sent round.
        "ddp_broadcast_buffers": False,
        "dataloader_pin_memory": cuda,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "report_to": [],
    }


def batches(config: RunConfig) -> dict:
    """How a step's rollouts are dealt out to processes and forward passes, in TRL's terms.

    Raises:
        ValueError: if they cannot be dealt out evenly.
    """
    world, prompts = int(os.environ.get("WORLD_SIZE", 1)), config.prompts_per_step
    if prompts % world:
        raise ValueError(f"{prompts} prompts a step cannot be dealt out to {world} processes")
    rollouts = prompts // world * config.num_generations
    micro = config.micro_batch or rollouts
    if rollouts % micro:
        raise ValueError(
            f"micro_batch must divide a process's {rollouts} rollouts "
            f"({prompts // world} prompts x {config.num_generations}), got {micro}"
        )
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rollouts // micro,
    }


def strata(config: RunConfig, stock: bool) -> tuple[int, int]:
    """The direct answers and the calls of a group that are forced, see `ZoomTrainer`.

    Raises:
        ValueError: if they cannot be forced in this run.
    """
    forced = (config.forced_direct, config.forced_calls)
    free_of_tools = config.reward in WITHOUT_TOOL
    if any(forced) and (free_of_tools or stock or config.trl.get("use_vllm")):
        raise ValueError(
            "forced answers and calls need a reward variant with the tool, and generation by transformers; "
            "with vLLM, ask each question twice, once in a prompt without the tool"
        )
    if min(forced) < 0 or sum(forced) > config.num_generations:
        raise ValueError(
            f"{forced[0]} answers and {forced[1]} calls cannot be forced in a group of "
            f"{config.num_generations} rollouts"
        )
    return forced


def sampling(config: RunConfig, processor) -> dict:
    """What bounds a turn and keeps the reserved tokens out of it; vLLM has other names for both."""
    spec = spec_of(processor)
    length = config.max_new_tokens or spec.max_new_tokens
    reserved = token_ids(processor.tokenizer, spec.reserved_tokens)
    if not config.trl.get("use_vllm"):
        bounds = {"max_new_tokens": length, "suppress_tokens": reserved}
        return bounds | {"prefill_chunk_size": config.prefill_chunk or None}
    return {"max_tokens": length, "logit_bias": dict.fromkeys(reserved, -100.0)}


def vllm_settings(config: RunConfig, model, processor, completion: int) -> dict:
    """The context of a vLLM in this process, and its share of the memory, in TRL's terms.

    The share has room for the weights, a second time, and for the keys and values of one group of rollouts;
    vLLM lets the others wait.

    Args:
        config: the run.
        model: as it was loaded.
        processor: of the model.
        completion: greatest number of tokens after a prompt.
    """
    if not config.trl.get("use_vllm") or config.trl.get("vllm_mode") == "server":
        return {}
    text, size = model.config.get_text_config(), model.dtype.itemsize
    view = processor.image_processor.size["longest_edge"] // visual_token(processor) ** 2
    tokens = min(PROMPT_TEXT + view + completion, text.max_position_embeddings)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head * size  # bytes a token
    weights = sum(weight.numel() for weight in model.parameters()) * size
    memory = psutil.virtual_memory().total
    if device().type == "cuda":
        memory = torch.cuda.get_device_properties(device()).total_memory
    share = (weights + cached * tokens * config.num_generations) / memory
    # A tenth of the card is for its activations and graphs.
    return {
        "vllm_max_model_length": tokens,
        "vllm_gpu_memory_utilization": round(min(share + 0.1, 0.9), 3),
    }


def trl_options(options: dict) -> dict:
    """Options for ``GRPOConfig``, looked over.

    Raises:
        ValueError: for an option that TRL does not have, or one that a field of `RunConfig` decides.
    """
    ours = {name: name for name in ("num_generations", "learning_rate", "seed", "save_steps")}
    ours |= {"output_dir": "out", "max_steps": "steps", "reward_weights": "reward"}
    ours |= {
        "per_device_train_batch_size": "micro_batch",
        "gradient_accumulation_steps": "micro_batch",
    }
    for name in options:
        if name in ours:
            flag = "--" + ours[name].replace("_", "-")
            raise ValueError(f"TRL's {name} follows from the run: set {flag} instead")
        if name not in {known.name for known in fields(GRPOConfig)}:
            raise ValueError(f"TRL's GRPOConfig has no option {name!r}")
    if options.get("use_vllm") and options.get("vllm_importance_sampling_correction") is False:
        raise ValueError(
            "vllm_importance_sampling_correction=false leaves vLLM's rollouts unchecked (TRL #6294): "
            "leave it on"
        )
    return options


# Mean difference of a token's log-probability, vLLM against transformers. Engines that see the same differ by
# about 0.01 (TRL #4772); with placeholders doubled, or a grey image, by far more (tests/core/test_vllm.py).
MOST_LOGP_DIFFERENCE = 0.15


def one_placeholder(ids: list[int], image: int) -> list[int]:
    """A prompt with one placeholder for each image, between whose markers they stand.

    >>> one_placeholder([1, 9, 9, 9, 2, 1, 9, 2], image=9)
    [1, 9, 2, 1, 9, 2]
    """
    return [i for i, before in zip(ids, [None, *ids]) if not i == before == image]


class ImagesDropped(RuntimeError):
    """Image tokens and image features are unequal; TRL would train on without images."""


class RolloutsDisagree(RuntimeError):
    """vLLM wrote what transformers finds unlikely: the two do not see the same prompt, or weights."""


def reply_as_message(tokenizer, ids: list[int], **_) -> dict:
    """A reply, read with `read_reply`, as a message of TRL's; in the place of ``parse_response``."""
    text = split_turns(tokenizer.decode(ids, skip_special_tokens=False))[0]
    calls = [
        {
            "type": "function",
            "function": {"name": answer_call.__name__, "arguments": {"call": call}},
        }
        for call in read_reply(text).calls
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


class ZoomTrainer(FastSteps, GRPOTrainer):
    """TRL's GRPOTrainer with our reading of a reply, made to stop where it would go on blind, and faster.

    **Stratified groups.** GRPO compares the rollouts of a group. Where all of them call, or none does, there
    is nothing to compare a call with. So the first ``forced[0]`` rollouts of each group have to answer at
    once, and the next ``forced[1]`` have to call (`policies.ForcedChoice`). What was forced counts as the
    model's own where it paid. Where it did not, its tag is left out of the loss: a punishment for what the
    policy did not choose spoils the format (measured: 4 to 7 % of episodes).
    """

    forced = (0, 0)  # direct answers and calls of a group that are forced

    def __init__(self, *args, processing_class, **kwargs):
        super().__init__(*args, processing_class=processing_class, **kwargs)
        # What TRL reads replies with, and how it answers calls below, is what the rollout loop does.
        tokenizer = processing_class.tokenizer
        tokenizer.parse_response = partial(reply_as_message, tokenizer)

    def _tool_call_loop(self, *args):
        self._sync_tool_dicts = [
            {answer_call.__name__: partial(answer_call, zoom)} for zoom in self.environments
        ]
        return super()._tool_call_loop(*args)

    def _generate_single_turn(self, prompt_ids, images, fields, num_generations, *args, **kwargs):
        if self.use_vllm:
            prompt_ids, images = self._as_vllm_wants(prompt_ids, images)
        generate = super()._generate_single_turn
        if not any(self.forced) or num_generations == 1:  # a turn after a crop is free
            return generate(prompt_ids, images, fields, num_generations, *args, **kwargs)
        tags = ["<answer>"] * self.forced[0] + ["<tool_call>"] * self.forced[1]
        rows = {
            i: tags[i % num_generations]
            for i in range(len(prompt_ids))
            if i % num_generations < len(tags)
        }
        longest = max(map(len, prompt_ids))
        self._choice = ForcedChoice(self.processing_class.tokenizer, rows, longest)
        for row, tag in rows.items():
            self.environments[row].forced = tag
        plain = self.model.generate
        self.model.generate = partial(plain, logits_processor=[self._choice])
        try:
            return generate(prompt_ids, images, fields, num_generations, *args, **kwargs)
        finally:
            del self.model.generate

    def _generate_and_score_completions(self, inputs):
        if self.model.training:
            self._buffered_inputs = None  # the step before, whose images still lie on the GPU
        output = super()._generate_and_score_completions(inputs)
        if any(self.forced):
            for row, places in self._choice.forced_at.items():
                if output["advantages"][row] < 0:
                    output["tool_mask"][row, places.start : places.stop] = 0
        # TRL looks for the mismatch only where a crop came back, and then drops the images.
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)  # (B, P + C)
        tokens = int((ids == self.processing_class.image_token_id).sum())
        patches = int(output["image_grid_thw"].prod(-1).sum()) if "image_grid_thw" in output else 0
        if tokens != patches // self.processing_class.image_processor.merge_size**2:
            raise ImagesDropped(
                f"step {self.state.global_step}: image tokens and image features disagree, where TRL drops "
                "every image of the batch. Either the policy wrote an image placeholder (keep "
                "prompts.RESERVED_TOKENS in generation_kwargs['suppress_tokens']) or a crop was cut off "
                "(raise max_completion_length)."
            )
        if self.use_vllm:
            self._hold_against_transformers()
        return output

    def _as_vllm_wants(self, prompt_ids, images):
        if images is not None:
            # vLLM's own processor has the checkpoint's pixel budget: an image as large as our view stays so.
            view = view_of(self.processing_class)
            images = [row and [i.resize(view(i.size)) for i in row] for row in images]
        if self.vllm_mode == "colocate":
            # vLLM expands the placeholder of an image itself, and TRL hands it all of them (TRL #6294).
            image_token = self.processing_class.image_token_id
            prompt_ids = [one_placeholder(ids, image_token) for ids in prompt_ids]
        return prompt_ids, images

    def _hold_against_transformers(self) -> None:
        """Stop where the engines disagree. TRL measures it, and would only leave such episodes out."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        difference = metrics["sampling/sampling_logp_difference/mean"][-1]
        if not difference <= MOST_LOGP_DIFFERENCE:
            raise RolloutsDisagree(
                f"step {self.state.global_step}: log-probabilities of vLLM's tokens differ from "
                f"transformers' by {difference:.2f} on average, more than {MOST_LOGP_DIFFERENCE}. vLLM "
                "sees another prompt (TRL #6294: placeholders of images expanded twice) or other weights. "
                "Train without use_vllm, or with the versions of docs/engines.md."
            )


# --- the record of every step -----------------------------------------------------------------------

COUNTS = ("step", "n_zoom", "n_direct")
HISTORY_COLUMNS = (  # noqa: SIM905
    "step accuracy accuracy_legible accuracy_illegible accuracy_need_0 accuracy_need_1 accuracy_need_2 "
    "call_rate calls_per_episode calls_need_0 calls_need_1 calls_need_2 p_forced valid_call_rate "
    "format_errors best_iou response_length reward p_zoom n_zoom p_direct n_direct least_bonus "
    "loss grad_norm step_time"
).split()


def log_episodes(
    outcomes: list[Outcome], completion_ids, environments, boxes_px, legible, need, log_metric, **_
) -> list[float]:
    """A reward function that only watches: TRL then logs, for each step, what TRL itself lacks.

    TRL takes the mean of all values of a name, over the processes, too. What was forced is left out, but
    for the answers that were forced: ``p_forced`` says what the policy could answer at once.

    Args:
        outcomes: of the step's rollouts.
        completion_ids, environments: of the rollouts, as TRL gives them.
        boxes_px, legible, need: columns of the data set.
        log_metric: TRL's.

    Returns:
        Zeros, for a weight of 0.
    """
    for outcome, ids, zoom, targets, seen, crops in zip(
        outcomes, completion_ids, environments, boxes_px, legible, need, strict=True
    ):
        log_metric("format_errors", not outcome.well_formed)
        if outcome.forced == "<answer>":
            log_metric("p_forced", outcome.correct)
        if outcome.forced:
            continue
        log_metric("accuracy", outcome.correct)
        if seen in (0, 1):
            log_metric("accuracy_legible" if seen else "accuracy_illegible", outcome.correct)
        log_metric("call_rate", outcome.calls > 0)
        log_metric("p_zoom" if outcome.calls else "p_direct", outcome.correct)
        log_metric("calls_per_episode", outcome.calls)
        if crops in (0, 1, 2):
            log_metric(f"calls_need_{crops}", outcome.calls)
            log_metric(f"accuracy_need_{crops}", outcome.correct)
        log_metric("response_length", len(ids))
        if (overlap := best_iou(zoom.boxes_px, targets)) is not None:
            log_metric("best_iou", overlap)
    if attempts := sum(outcome.attempts for outcome in outcomes):
        log_metric("valid_call_rate", sum(outcome.calls for outcome in outcomes) / attempts)
    free = [o for o in outcomes if not o.forced]
    zoomed = [o.correct for o in free if o.calls]
    direct = [o.correct for o in free if not o.calls]
    needed = least_bonus(_mean(zoomed), _mean(direct))
    if math.isfinite(needed):
        log_metric("least_bonus", needed)
    return [0.0] * len(outcomes)


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else math.nan


def history_row(logs: dict, episodes: int) -> dict:
    """What TRL logged for a step as a row of ``HISTORY_COLUMNS``; NaN where there was nothing to average.

    Args:
        logs: an entry of ``trainer.state.log_history``.
        episodes: rollouts a step, without those that were forced.
    """
    row = {name: logs.get(name, math.nan) for name in HISTORY_COLUMNS}
    n_zoom = round(logs.get("call_rate", 0.0) * episodes)
    needed = least_bonus(row["p_zoom"], row["p_direct"])
    return row | {"n_zoom": n_zoom, "n_direct": episodes - n_zoom, "least_bonus": needed}


class History(TrainerCallback):
    """Writes ``history.csv``, stops at a loss that is no number, and says when calls are dying out.

    The steps are TRL's own log, which a checkpoint keeps and a resume restores.
    """

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        free = config.num_generations - config.forced_direct - config.forced_calls
        self.episodes = config.prompts_per_step * free
        self.bonus = reward_weights(config).get("tool_bonus", 0.0)
        self.warned_at = -math.inf

    def rows(self, state) -> list[dict]:
        """The steps so far, as rows of ``HISTORY_COLUMNS``."""
        return [history_row(logs, self.episodes) for logs in state.log_history if "loss" in logs]

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:  # after a kill, steps since the checkpoint are done again
            write_history(self.rows(state), self.path)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise FloatingPointError(
                f"step {state.global_step}: loss {logs['loss']}, gradient norm {logs.get('grad_norm')}. "
                "The last checkpoint is from before; lower learning_rate or raise precision to fp32."
            )
        if not state.is_world_process_zero:
            return
        rows = self.rows(state)
        write_history(rows, self.path)
        warning = collapse_warning(rows, self.bonus)
        if warning and state.global_step - self.warned_at >= ALARM_STEPS:
            self.warned_at = state.global_step
            print(f"step {state.global_step}: {warning}", flush=True)


def write_history(rows: list[dict], path: Path) -> None:
    """Write rows of ``HISTORY_COLUMNS``, all or nothing."""
    with atomic_write(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def read_history(path: str | Path) -> list[dict]:
    """Rows of a ``history.csv``, as numbers."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [
            {name: int(v) if name in COUNTS else float(v) for name, v in row.items()}
            for row in csv.DictReader(file)
        ]


ALARM_STEPS = 10  # steps that are averaged, and steps between two warnings
DEAD = 0.05  # call rate


def collapse_warning(rows: list[dict], bonus: float, window: int = ALARM_STEPS) -> str | None:
    """What to tell somebody whose policy stops calling, from the last ``2 * window`` steps; or None.

    Args:
        rows: of a history.
        bonus: weight of ``tool_bonus``.
        window: steps that are averaged.
    """
    if len(rows) < 2 * window:
        return None
    recent = rows[-window:]
    before = _mean([row["call_rate"] for row in rows[-2 * window : -window]])
    now = _mean([row["call_rate"] for row in recent])
    if now > DEAD and now > 0.5 * before:
        return None

    def pooled(p: str, n: str) -> float:
        total = sum(row[n] for row in recent)
        return sum(row[p] * row[n] for row in recent if row[n]) / total if total else math.nan

    p_zoom, p_direct = pooled("p_zoom", "n_zoom"), pooled("p_direct", "n_direct")
    needed = least_bonus(p_zoom, p_direct)
    state = "has died out" if now <= DEAD else "is falling toward zero"
    why = (
        "there are no calls left to learn from"
        if math.isnan(needed)
        else f"a call pays only with a bonus above b* = {needed:.2f}, and this run's is {bonus:.2f}"
    )
    return (
        f"tool use {state}: call rate {before:.2f} -> {now:.2f} over {window} steps; {why} "
        f"(p_zoom {p_zoom:.2f}, p_direct {p_direct:.2f})."
    )


class Progress(ProgressCallback):
    """A bar over the steps that shows what matters, instead of TRL's forty figures a line."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in (logs or {}):
            names = ("accuracy", "call_rate", "best_iou", "reward")
            self.training_bar.set_postfix({n: f"{logs.get(n, math.nan):.2f}" for n in names})


# --- a run folder -----------------------------------------------------------------------------------


class Checkpoints(TrainerCallback):
    """Marks a checkpoint as complete once everything in it is written, and deletes the ones before.

    A checkpoint is its mark. transformers deletes one file by file, the mark at any time, and goes by the
    time of change, so that a kill while it does may leave half a checkpoint for the newest whole one.
    """

    NAME = "complete"

    def __init__(self, keep: int | None):
        """Say how many checkpoints are kept; None for all."""
        self.keep = keep

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process has written its part
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        new = folder / f"checkpoint-{state.global_step}"
        sizes = {
            str(path.relative_to(new)): path.stat().st_size
            for path in new.rglob("*")
            if path.is_file()
        }
        with atomic_write(new / self.NAME) as tmp:
            tmp.write_text(json.dumps(sizes), encoding="utf-8")
        kept = self.complete(folder)[-self.keep :] if self.keep else folder.glob("checkpoint-*")
        for old in set(folder.glob("checkpoint-*")) - set(kept):
            (old / self.NAME).unlink(missing_ok=True)
            shutil.rmtree(old)

    @classmethod
    def complete(cls, folder: Path) -> list[Path]:
        """The complete checkpoints in a folder, by step."""
        marks = folder.glob(f"checkpoint-*/{cls.NAME}")
        return sorted((mark.parent for mark in marks), key=lambda p: int(p.name.split("-")[1]))


def last_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint; one that a kill left half written is passed over.

    Raises:
        ValueError: if something of it is gone, without which the run would go on as another run.
    """
    newest = next(reversed(Checkpoints.complete(out / "checkpoints")), None)
    if newest is None:
        return None
    sizes = json.loads((newest / Checkpoints.NAME).read_text(encoding="utf-8") or "{}")
    gone = [n for n, size in sizes.items() if not _has_size(newest / n, size)]
    # DeepSpeed keeps the optimizer's state in a folder of the step.
    if not [*newest.glob("optimizer*"), *newest.glob("global_step*")]:
        gone.append("the optimizer's state")
    if gone:
        raise ValueError(
            f"{newest} is damaged: {', '.join(sorted(gone)[:5])} is missing or cut short. Delete that "
            "folder: the run then goes on from the checkpoint before it, or starts anew"
        )
    return newest


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def train(
    config: RunConfig,
    out: str | Path,
    dataset: Dataset | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    rewards: dict[Callable, float] | None = None,
) -> Path:
    """Train in a run folder, or go on where a killed run stopped, or return at once if it is done.

    Leaves ``config.json``, ``history.csv`` and ``adapter/``. Killed at any moment and started again, a
    run ends where the undisturbed run ends.

    Args:
        config: the run.
        out: its folder.
        dataset: questions in our schema; None for those of ``config.data``.
        callbacks: of transformers, beside the run's own.
        rewards: further reward functions with their weights, see `build_trainer`.

    Raises:
        ValueError: if the folder holds a run with another configuration or a damaged checkpoint, or another
            process trains in it.
        ImagesDropped, FloatingPointError: see `ZoomTrainer` and `History`.
    """
    out = Path(out)
    main = is_first_process()
    adapter = out / "adapter"
    with file_lock(out / ".lock") if main and not adapter.exists() else nullcontext(True) as free:
        if not free:
            raise ValueError(
                f"another process trains in {out}; let it end, or choose another folder"
            )
        if main:
            check_or_write_config(out, asdict(config), asdict(RunConfig()))
        if adapter.exists():
            return out
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        trainer = build_trainer(config, out, dataset, callbacks, rewards)
        checkpoint = last_checkpoint(out)
        trainer.accelerator.wait_for_everyone()
        if main:
            name, start = "bf16" if trainer.args.bf16 else "fp32", checkpoint or "the start"
            print(f"training in {name} ({precision()[1]}) from {start} to step {config.steps}")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # Saved aside and renamed: the adapter's folder stands for "this run is done".
        tmp = out / "adapter.tmp"
        if trainer.sharded:
            trainer.save_model(str(tmp))  # every process has a part
        elif main:
            trainer.model.save_pretrained(tmp)
        trainer.accelerator.wait_for_everyone()
        if main:
            os.replace(tmp, adapter)
        trainer.accelerator.wait_for_everyone()
    return out


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
    """The model that a run starts from, without adapters, and its processor."""
    return load(config.model, config.quantise, config.max_pixels)


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
