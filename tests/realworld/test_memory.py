"""memory.py: the arithmetic is that of the shapes, and an empty cell means that nobody has measured."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from deepeyes_lite.__main__ import main
from deepeyes_lite.realworld import memory, smoke
from deepeyes_lite.realworld.shapes import config_of
from deepeyes_lite.training import preset


def found(**changes):
    made = {
        "preset": "24GB",
        "small": False,
        "machine": "A GPU, torch 2.13.0",
        "config": preset("24GB"),
    }
    return {
        **made,
        "peak": {"generation": 11.04, "forward": 20.06},
        "step": {"total": 93.4},
        **changes,
    }


@pytest.mark.parametrize("name", ["8GB", "24GB", "40GB"])
def test_a_cache_is_as_large_as_transformers_makes_it(name):
    """One token through the real cache, in bf16, times tokens and rollouts."""
    config = preset(name)
    text = config_of(config.model).text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = DynamicCache(config=text)
    for layer in range(text.num_hidden_layers):
        one = torch.zeros(1, text.num_key_value_heads, 1, head, dtype=torch.bfloat16)
        cache.update(one, one, layer)
    token = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    rollouts = config.prompts_per_step * config.num_generations
    expected = token * memory.episode_tokens(config) * rollouts / 1e9
    assert memory.cache_gb(config) == pytest.approx(expected)


def test_four_bits_spare_the_layers_of_the_language_model_alone():
    config = preset("8GB")
    plain = memory.weights_gb(replace(config, quantise=False))
    text = config_of(config.model).text_config
    layers = 4 * 128 * text.hidden_size * (text.num_attention_heads + text.num_key_value_heads)
    layers = layers // 2 + 3 * text.hidden_size * text.intermediate_size
    spared = text.num_hidden_layers * layers * (2 - 0.6) / 1e9
    assert plain - memory.weights_gb(config) == pytest.approx(spared, rel=1e-3)


def test_what_nobody_has_measured_stays_empty(tmp_path):
    rows = memory.table(tmp_path).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in memory.GPUS]
    assert all(row.endswith("|  |  |  |") for row in rows)
    path = memory.write_record(found(), tmp_path)
    assert json.loads(path.read_text())["config"]["num_generations"] == 8
    (filled,) = (row for row in memory.table(tmp_path).splitlines() if "A GPU" in row)
    assert filled.startswith("| 24GB | Qwen2.5-VL-3B | LoRA | 576 | 4 × 8 | 3 | 256 |")
    assert filled.endswith("| 20.1 | 93 | A GPU |")


def test_a_run_that_is_cut_down_is_no_record(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match="nothing to record"):
        memory.write_record(found(small=True), tmp_path / "gpu")
    assert not (tmp_path / "gpu").exists()
    monkeypatch.setattr(smoke, "smoke", lambda name: found(preset=name))
    monkeypatch.setattr(smoke, "report", lambda found: "the block")
    assert main(["doctor", "--gpu", "--preset", "24GB", "--record", str(tmp_path)]) == 0
    assert re.fullmatch(r"the block\nrecord: \S+24GB.json\n", capsys.readouterr().out)
