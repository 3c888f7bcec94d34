"""A cold start for a model that cannot find the format: SFT on traces made of target boxes.

Off by default: what the paper shows, and what the tiny world shows, is that it is not needed. Published
small models (3B and less) often have one, and without it some never write a call that can be read. A
trace zooms to every target box and then gives the answer; nothing but the model's own turns is learned.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from deepeyes_lite import prompts
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import encode_box
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory

LEARNING_RATE = 1e-4
BATCH = 8  # traces a step


def traces(rows: list[dict], processor) -> list[Trajectory]:
    """Episodes that zoom to every target box and then give the answer.

    Args:
        rows: samples with target boxes.
        processor: of the model; its family says how a box is written.
    """
    scripts = {}
    for row in rows:
        turns = []
        for box_px in row["boxes_px"]:
            box = encode_box(processor, tuple(box_px), row["image"].size)
            call = prompts.tool_call({"bbox_2d": box, "label": "target"})
            turns.append(f"<think>I need to zoom in.</think>{call}")
        scripts[row["id"]] = [*turns, prompts.answer("I can read it.", row["answer"])]
    return rollout(rows, ScriptedPolicy(processor, scripts), progress=False)


def collator(processor, traces: Callable = traces) -> Callable[[list[dict]], dict]:
    """What makes a batch of samples into tensors, with -100 where the model did not write.

    Args:
        processor: of the model.
        traces: makes the episodes of some samples.
    """

    def collate(rows: list[dict]) -> dict:
        episodes = traces(rows, processor)
        ids = [t.prompt_ids + t.completion_ids for t in episodes]
        own = [[0] * len(t.prompt_ids) + t.loss_mask for t in episodes]
        longest, pad = max(map(len, ids)), processor.tokenizer.pad_token_id

        def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])

        input_ids = padded(ids, pad)
        images = [image for t in episodes for image in t.images]
        return {
            "input_ids": input_ids,
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
            "labels": input_ids.masked_fill(padded(own, 0) == 0, -100),
            "mm_token_type_ids": (input_ids == processor.image_token_id).long(),
            **processor.image_processor(images=images, return_tensors="pt"),
        }

    return collate


def cold_start(
    model, processor, dataset, steps: int, lora: LoraConfig, out: Path, **settings
) -> PeftModel:
    """The model with an adapter that has seen traces; it is kept in ``out / "cold_start"``.

    Args:
        model, processor: the base.
        dataset: a run's training set.
        steps: of SFT.
        lora: what GRPO will go on with.
        out: run folder.
        settings: for TRL's ``SFTConfig``.

    Raises:
        ValueError: if no sample has target boxes.
    """
    folder = out / "cold_start"
    if not folder.exists():
        known = [i for i, boxes in enumerate(dataset["boxes_px"]) if boxes]
        if not known:
            raise ValueError("a cold start needs samples with target boxes, and there are none")
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(out / "cold_start.checkpoints"),
                max_steps=steps,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=BATCH,
                learning_rate=LEARNING_RATE,
                max_length=None,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                save_strategy="no",
                report_to=[],
                **settings,
            ),
            train_dataset=dataset.select(known),
            data_collator=collator(processor),
            processing_class=processor,
            peft_config=lora,
        )
        trainer.train()
        if trainer.accelerator.is_main_process:
            with atomic_write(folder) as tmp:
                trainer.model.save_pretrained(tmp)
        trainer.accelerator.wait_for_everyone()
        model = trainer.model.unload()
    return PeftModel.from_pretrained(model, folder, is_trainable=True)
