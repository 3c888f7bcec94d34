"""cold_start.py: traces that zoom to the target, and an adapter that a run can go on from."""

import pytest
from peft import PeftModel
from safetensors.torch import load_file

from deepeyes_lite.models import load
from deepeyes_lite.realworld.cold_start import box_traces, cold_start, collate


def test_traces_zoom_to_the_target_and_answer(processor, samples):
    for row, trace in zip(samples, box_traces(list(samples), processor)):
        assert trace.correct and trace.well_formed and trace.best_iou > 0.5
        assert len(trace.images) == 1 + len(row["boxes_px"])


def test_only_the_model_s_own_turns_are_learned(processor, samples):
    rows = list(samples)[:3]
    batch = collate(rows, processor, box_traces)
    for ids, labels, trace in zip(batch["input_ids"], batch["labels"], box_traces(rows, processor)):
        whole = trace.prompt_ids + trace.completion_ids
        assert ids[: len(whole)].tolist() == whole
        own = [i for i, m in zip(trace.completion_ids, trace.loss_mask) if m]
        assert labels[labels != -100].tolist() == own
        assert processor.image_token_id not in own
    assert len(batch["image_grid_thw"]) == 6
    assert int((batch["mm_token_type_ids"]).sum()) == 6 * 36


def test_a_cold_start_is_an_adapter_made_once(random_eyes, samples, tmp_path):
    out, name = tmp_path / "cold_start", str(random_eyes)
    rows = samples.map(lambda row, i: {"boxes_px": row["boxes_px"] * (i > 0)}, with_indices=True)
    assert cold_start(name, rows, 2, out, lora_rank=4, seed=1, learning_rate=1e-3) == out
    weights = load_file(out / "adapter_model.safetensors")
    assert all(min(v.shape) == 4 for v in weights.values())
    assert max(float(v.abs().max()) for n, v in weights.items() if "lora_B" in n) > 1e-5
    model = PeftModel.from_pretrained(load(random_eyes)[0], out, is_trainable=True)
    assert all("language_model" in n for n, p in model.named_parameters() if p.requires_grad)
    assert cold_start("nowhere", rows, 2, out) == out  # nothing is loaded, nothing is trained
    assert not list(tmp_path.glob("*.tmp"))
    without = samples.map(lambda row: {"boxes_px": []})
    with pytest.raises(ValueError, match="a cold start needs samples with target boxes"):
        cold_start(name, without, 1, tmp_path / "none")
