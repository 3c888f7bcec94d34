"""A cold start for a model that cannot find the format: SFT on traces made of target boxes.

The paper and the tiny world both show that it is not needed. Published small models (3B and less) often
have one, and without it some never write a call that can be read.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig, SFTTrainer

from deepeyes_lite import prompts
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import device, encode_box, load, spec_of
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory


def box_traces(rows: list[dict], processor) -> list[Trajectory]:
    """Episodes that zoom to every target box of a sample and then give the answer."""
    scripts = {}
    for row in rows:
        boxes = [encode_box(processor, tuple(box), row["image"].size) for box in row["boxes_px"]]
        calls = [prompts.tool_call({"bbox_2d": box, "label": "target"}) for box in boxes]
        turns = [f"<think>{prompts.ZOOM_THOUGHT}</think>{call}" for call in calls]
        scripts[row["id"]] = [*turns, prompts.answer("I can read it.", row["answer"])]
    return rollout(rows, ScriptedPolicy(processor, scripts), progress=False)


def collate(rows: list[dict], processor, traces: Callable) -> dict:
    """The batch of some samples' episodes, with the label -100 where the model did not write."""
    episodes = traces(rows, processor)

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:  # (B, T), right-padded
        return pad_sequence([torch.tensor(row) for row in rows], True, fill)

    ids = [t.prompt_ids + t.completion_ids for t in episodes]
    own = padded([[0] * len(t.prompt_ids) + t.loss_mask for t in episodes], 0)
    input_ids = padded(ids, processor.tokenizer.pad_token_id)
    images = [image for t in episodes for image in t.images]
    return {
        "input_ids": input_ids,
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": input_ids.masked_fill(own == 0, -100),
        "mm_token_type_ids": (input_ids == processor.image_token_id).long(),
        **processor.image_processor(images=images, return_tensors="pt"),
    }


def sft_on_traces(model, processor, dataset, traces: Callable, steps: int, lora=None, **settings):
    """Fine-tune a model, in place, on the model's own turns in the episodes made of samples.

    Args:
        model: a transformers model.
        processor: of the model.
        dataset: samples in our schema.
        traces: makes the episodes of some samples: (rows, processor) -> trajectories.
        steps: optimizer steps, of 8 samples each unless ``settings`` says otherwise.
        lora: a ``LoraConfig``; None trains all weights that require a gradient.
        settings: options of TRL's ``SFTConfig``, such as ``learning_rate``.

    Returns:
        The ``SFTTrainer``, done; its ``model`` has the adapter.
    """
    cuda = device().type == "cuda"
    defaults = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "learning_rate": 1e-4,
        "gradient_checkpointing": False,
        "bf16": model.dtype == torch.bfloat16,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "max_steps": steps,
        "max_length": None,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_strategy": "no",
        "report_to": [],
    }
    with TemporaryDirectory(prefix="deepeyes-lite-") as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**{"output_dir": folder, **defaults, **settings}),
            train_dataset=dataset,
            data_collator=lambda rows: collate(rows, processor, traces),
            processing_class=processor,
            peft_config=lora,
        )
        trainer.train()
    return trainer


def cold_start(
    model_name: str,
    dataset,
    steps: int,
    out: str | Path,
    lora_rank: int = 16,
    quantise: bool = False,
    max_pixels: int = 0,
    **settings,
) -> Path:
    """Train an adapter on `box_traces`, from which a run goes on: ``RunConfig(adapter=str(out))``.

    Args:
        model_name: of the run's model, see `models.load`.
        dataset: samples in our schema; those without target boxes are left out.
        steps: of SFT.
        out: folder of the adapter; if it exists, nothing is trained.
        lora_rank: of the run; alpha is twice the rank.
        quantise: the language model in 4 bits (QLoRA).
        max_pixels: greatest area of a view; 0 for the family's.
        settings: options of TRL's ``SFTConfig``, such as ``seed`` and ``gradient_checkpointing``.

    Raises:
        ValueError: if no sample has target boxes.
    """
    out = Path(out)
    if out.exists():
        return out
    known = [i for i, boxes in enumerate(dataset["boxes_px"]) if boxes]
    if not known:
        raise ValueError("a cold start needs samples with target boxes, and there are none")
    model, processor = load(model_name, quantise, max_pixels)
    targets = spec_of(processor).lora_targets
    lora = LoraConfig(
        r=lora_rank, lora_alpha=2 * lora_rank, target_modules=targets, task_type="CAUSAL_LM"
    )
    rows = dataset.select(known)
    trainer = sft_on_traces(model, processor, rows, box_traces, steps, lora, **settings)
    if trainer.accelerator.is_main_process:
        with atomic_write(out) as tmp:
            trainer.model.save_pretrained(tmp)
    trainer.accelerator.wait_for_everyone()
    return out
