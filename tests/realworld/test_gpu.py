"""gpu.py: two steps of a small shape on the CPU, arithmetic that holds, and a table of what was measured."""

import re
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, DynamicCache

from deepeyes_lite.__main__ import main
from deepeyes_lite.models import LORA_TARGETS, OBSERVATION_TOKENS, completion_length, ready
from deepeyes_lite.realworld import gpu
from shapes import config_of, processor_of, write_random

SMALL = {"prompts_per_step": 1, "num_generations": 2, "max_calls": 2, "max_new_tokens": 96}


def test_two_steps_from_the_command_line(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this is the run of a machine without a GPU")
    small = replace(gpu.PRESETS["24GB"], **SMALL, lora_rank=4, max_pixels=64 * 28 * 28)
    monkeypatch.setitem(gpu.PRESETS, "24GB", small)
    folder = write_random(small.model, tmp_path / "model", layers=2, narrow=True)
    command = ["doctor", "--gpu", "--preset", "24GB", "--model", str(folder)]
    assert main([*command, "--record", str(tmp_path / "gpu")]) == 1
    told = capsys.readouterr()
    block = told.out[told.out.index("deepeyes-lite doctor") :]
    assert block.startswith(f"deepeyes-lite doctor --gpu --preset 24GB\n{folder}, LoRA r = 4\nCPU")
    assert "1 prompts x 2 generations, 1 at a time" in block
    # Every episode had all its calls, full turns and crops of the full budget, whatever the model said.
    calls, tokens = re.search(r"(\S+) calls an episode, of (\d+) tokens", block).groups()
    assert calls == "2.0" and 3 * 96 + 2 * 64 < int(tokens) <= 3 * 96 + 2 * (
        64 + OBSERVATION_TOKENS
    )
    rows = {line.split()[0]: float(line.split()[1]) for line in block.splitlines()[4:9]}
    assert rows.keys() == {"generation", "forward", "backward", "rest", "total"}
    assert rows["total"] >= max(rows.values()) > 0
    assert "peak memory -\n" in block and "it runs, and that is all" in block
    assert "has nothing to record" in told.err and not (tmp_path / "gpu").exists()


def test_what_cannot_be_tried_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--gpu", "--preset", "demo"])
    assert "invalid choice: 'demo' (choose from '8GB', '12GB'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="preset 'demo' is not one for a GPU; there are 8GB, 12GB"):
        gpu.check("demo")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU is here, and Qwen/Qwen2.5-VL-3B-Instruct is"):
            gpu.check("24GB")


@pytest.mark.parametrize("name", gpu.GPUS)
def test_the_arithmetic_is_that_of_the_published_shape(name):
    config = gpu.GPUS[name]
    shape = config_of(config.model)
    with torch.device("meta"):
        weights = list(AutoModelForImageTextToText.from_config(shape).named_parameters())
    linear = sum(w.numel() for n, w in weights if "language_model.layers" in n and w.ndim == 2)
    counts = [sum(w.numel() for _, w in weights), linear]
    assert list(gpu.SHAPES[config.model][1:3]) == counts
    # One token through the real cache, in bf16, times tokens and rollouts.
    text = shape.text_config
    cache = DynamicCache(config=text)
    keys = torch.zeros(1, text.num_key_value_heads, 1, gpu.HEAD_DIM, dtype=torch.bfloat16)
    for layer in range(text.num_hidden_layers):
        cache.update(keys, keys, layer)
    token = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    rollouts = config.prompts_per_step * config.num_generations
    expected = token * gpu.episode_tokens(config) * rollouts / 1e9
    assert gpu.cache_gb(config) == pytest.approx(expected)
    processor = ready(processor_of(config.model), config.max_pixels)
    completion = completion_length(processor, config.max_calls, config.max_new_tokens)
    assert gpu.episode_tokens(config) == 500 + gpu.view_tokens(config) + completion
    with torch.device("meta"):
        adapted = get_peft_model(
            AutoModelForImageTextToText.from_config(shape),
            LoraConfig(r=config.lora_rank, target_modules=LORA_TARGETS),
        )
    trained = sum(w.numel() for w in adapted.parameters() if w.requires_grad)
    assert gpu.adapters_gb(config) == pytest.approx(16 * trained / 1e9)
    view = processor.image_processor(images=[Image.new("RGB", (1500, 1500))])
    tokens = view["image_grid_thw"].prod() // 4
    assert 0.85 * gpu.view_tokens(config) < tokens <= gpu.view_tokens(config)
    levels = 1 + len(getattr(shape.vision_config, "deepstack_visual_indexes", []))
    features = 2 * levels * shape.text_config.hidden_size  # of a token, in bf16
    fixed = gpu.images_gb(replace(config, prompts_per_step=0))
    every = rollouts * (1 + config.max_calls) * gpu.view_tokens(config)
    expected = every * (view["pixel_values"].nbytes / tokens + 3 * features) / 1e9
    assert gpu.images_gb(config) - fixed == pytest.approx(expected) and 0.5 < fixed < 1.5
    # What could not fit is not offered.
    parts = gpu.parts(config)
    largest = max(parts["generation"], parts["update"])
    assert parts["total"] == pytest.approx(
        parts["weights"] + parts["adapters"] + parts["images"] + largest + gpu.LIBRARIES_GB
    )
    assert parts["total"] < 0.9 * int(name[:-2])


def test_what_nobody_has_measured_stays_empty(tmp_path):
    rows = gpu.table(tmp_path).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in gpu.GPUS]
    assert all(row.endswith("|  |  |  |") for row in rows)
    measured = {"preset": "24GB", "machine": "A GPU, torch 2.13.0", "peak_gb": 20.06}
    measured |= {"config": asdict(gpu.GPUS["24GB"]), "seconds": {"total": 93.4}, "as_it_is": True}
    measured["quick"] = False
    path = gpu.write_record(measured, tmp_path / "new")
    (filled,) = (row for row in gpu.table(path.parent).splitlines() if "A GPU" in row)
    assert filled.startswith("| 24GB | Qwen2.5-VL-3B | LoRA | 576 | 4 × 8 | 3 | 256 |")
    assert filled.endswith("| 20.1 | 93 | A GPU |")
    gpu.write_record(measured | {"quick": True}, path.parent)
    assert "| 20.1 |  | A GPU |" in gpu.table(path.parent)


def test_a_full_disk_is_seen_before_a_model_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.constants, "HF_HUB_CACHE", str(tmp_path / "none" / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=9e9))
    gpu._look_for_room(str(tmp_path))  # a folder: nothing is fetched
    gpu._look_for_room("Qwen/Qwen2.5-VL-3B-Instruct")
    wanted = f"free disk 9.0 GB: make room for 16.6 GB on the disk of {tmp_path}, or name weights"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        gpu._look_for_room("Qwen/Qwen2.5-VL-7B-Instruct")
