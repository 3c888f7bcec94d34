"""cold_start.py: traces that zoom to the target, and a run that goes on from what they taught."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import killed_run
from deepeyes_lite import training
from deepeyes_lite.realworld.cold_start import collator, traces
from deepeyes_lite.training import History, RunConfig, train


def test_traces_zoom_to_the_target_and_answer(processor, samples):
    for row, trace in zip(samples, traces(list(samples), processor)):
        assert trace.correct and trace.well_formed and trace.best_iou > 0.5
        assert len(trace.images) == 1 + len(row["boxes_px"])


def test_only_the_model_s_own_turns_are_learned(processor, samples):
    rows = list(samples)[:3]
    batch = collator(processor)(rows)
    for ids, labels, trace in zip(batch["input_ids"], batch["labels"], traces(rows, processor)):
        whole = trace.prompt_ids + trace.completion_ids
        assert ids[: len(whole)].tolist() == whole
        own = [i for i, m in zip(trace.completion_ids, trace.loss_mask) if m]
        assert labels[labels != -100].tolist() == own
        assert processor.image_token_id not in own
    assert len(batch["image_grid_thw"]) == 6
    assert int((batch["mm_token_type_ids"]).sum()) == 6 * 36


def test_a_run_goes_on_from_its_cold_start(random_eyes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "precision", lambda: ("fp32", "a test"))
    monkeypatch.setattr(History, "reward", killed_run.varied_reward)
    config = RunConfig(
        model=str(random_eyes), steps=2, prompts_per_step=1, num_generations=2, cold_start=2
    )
    out = train(config, tmp_path / "run")
    start = load_file(out / "cold_start" / "adapter_model.safetensors")
    end = load_file(out / "adapter" / "adapter_model.safetensors")
    assert start.keys() == end.keys()
    moved = max(float(v.abs().max()) for n, v in start.items() if "lora_B" in n)
    assert moved > 1e-5
    gone = max(float((end[n] - start[n]).abs().max()) for n in start)
    assert 0 < gone < 1e-2
    kept = (out / "cold_start" / "adapter_model.safetensors").stat().st_mtime_ns
    (out / "adapter").rename(tmp_path / "aside")
    train(config, out)
    assert (out / "cold_start" / "adapter_model.safetensors").stat().st_mtime_ns == kept


def test_without_boxes_there_is_no_cold_start(random_eyes, tmp_path, samples):
    rows = samples.map(lambda row: {"boxes_px": []})
    rows.save_to_disk(tmp_path / "rows")
    config = RunConfig(
        model=str(random_eyes), steps=1, prompts_per_step=1, num_generations=2, cold_start=1
    )
    with pytest.raises(ValueError, match="a cold start needs samples with target boxes"):
        train(replace(config, data=str(tmp_path / "rows")), tmp_path / "run")
    assert torch.is_grad_enabled()
