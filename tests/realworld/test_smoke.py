"""smoke.py: the whole of ``doctor --gpu``, cut down, on a machine without a GPU."""

import weakref

import pytest
import torch

from deepeyes_lite import doctor, training
from deepeyes_lite.__main__ import main
from deepeyes_lite.realworld import smoke
from deepeyes_lite.realworld.shapes import tokenizer_of


@pytest.mark.parametrize("name", ["8GB", "24GB"])
def test_a_preset_runs_from_weights_to_resume(name, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this is the run of a machine without a GPU")
    assert main(["doctor", "--gpu", "--preset", name]) == 0
    text = capsys.readouterr().out
    block = text[text.index("deepeyes-lite doctor") :]
    lines = block.splitlines()
    assert lines[0] == f"deepeyes-lite doctor --gpu --preset {name}"
    assert "CUT DOWN to 2 narrow layers, for there is no GPU" in lines[2]
    assert "1 crops an episode" in block and "a step, save, resume, a step: all done" in lines[-1]
    rows = {line.split()[0]: line.split()[1:] for line in lines if len(line.split()) == 3}
    assert set(rows) >= {"prompts", "generation", "forward", "backward", "rest", "total"}
    assert rows["total"][1] == "-"  # no GPU, no figure


def test_it_holds_one_model_at_a_time(monkeypatch):
    built, alive = [], []

    def build(*args):
        alive.append(sum(model() is not None for model in built))
        trainer = training.build_trainer(*args)
        built.append(weakref.ref(trainer.model))
        return trainer

    monkeypatch.setattr(smoke, "build_trainer", build)
    found = smoke.smoke("16GB", small=True)
    assert found["crops"] == 1 and found["step"]["total"] > 0
    assert alive == [0, 0]


@pytest.mark.slow
@pytest.mark.timeout(3000)  # a CPU that does not multiply bf16 in hardware takes its time
def test_it_runs_in_bf16(monkeypatch):
    for module in (doctor, training, smoke):
        monkeypatch.setattr(module, "precision", lambda: ("bf16", "a test"))
    assert smoke.smoke("16GB", small=True)["crops"] == 1


def test_a_preset_without_a_shape_is_refused(capsys):
    assert main(["doctor", "--gpu", "--preset", "demo"]) == 1
    assert "preset 'demo' is not one for a GPU; there are 8GB, 12GB" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_turn_ends_with_a_call_that_can_be_read(kind):
    tokenizer = tokenizer_of(kind)
    thought = "<think>" if kind == "qwen3_vl" else ""  # to the other it is plain text
    stray = tokenizer(f"a <tool_call> b {thought} c<|im_end|>", add_special_tokens=False)[
        "input_ids"
    ]
    for ids in ([], stray, list(range(50, 900)), [10**6] * 30):
        turn = smoke.with_call(tokenizer, ids, length=64)
        text = tokenizer.decode(turn)
        assert len(turn) <= 64 and text.count("<tool_call>") == 1 and "<think>" not in text
        assert text.endswith("</tool_call><|im_end|>")
