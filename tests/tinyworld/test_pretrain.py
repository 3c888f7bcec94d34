"""pretrain.py: batches are functions of their step, and a killed run ends where it would have."""

import csv
import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepeyes_lite.__main__ import main
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.model import build_model
from deepeyes_lite.tinyworld.pretraining import lessons, pretrain
from deepeyes_lite.tinyworld.pretraining.lessons import CELLS
from deepeyes_lite.tinyworld.pretraining.pretrain import (
    PLAN,
    QUICK,
    DenseHeads,
    Stage,
    Steps,
    coordinate_targets,
    schedule,
    text_loss,
)

TINY = (
    Stage("tower", 5, 1, 2e-3),
    Stage("joint", 2, 1, 1e-3),
    Stage("joint, again", 4, 1, 1e-3, captions=0.9),
)


# --- batches ------------------------------------------------------------------------------------


def flat(batch):
    """All tensors of a batch, by name."""
    found = {f"dense {name}": value for name, value in batch["dense"].items()}
    found |= {name: batch[name] for name in ("pixel_values", "grid")}
    for i, text in enumerate(batch.get("texts", [])):
        found |= {f"text {i} {name}": value for name, value in text.items()}
    return found


def same(a, b):
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_is_a_function_of_seed_stage_and_step(processor):
    for stage in (TINY[0], TINY[2]):
        steps = Steps(stage, 1, 0, processor.tokenizer)
        batch = steps[3]
        steps[0]
        torch.manual_seed(99), np.random.seed(99)
        assert same(steps[3], batch)
        assert same(Steps(stage, 1, 0, processor.tokenizer)[3], batch)
        assert not same(steps[2], batch)
        assert not same(Steps(stage, 1, 1, processor.tokenizer)[3], batch)
        assert not same(Steps(stage, 2, 0, processor.tokenizer)[3], batch)


def test_a_batch_has_what_its_stage_asks_for(processor):
    batch = Steps(replace(TINY[0], scenes=2), 0, 0, processor.tokenizer)[0]
    assert "texts" not in batch and len(batch["grid"]) == 2 * 4  # a scene and three crops
    assert batch["pixel_values"].shape == (8 * 144, 384)
    assert batch["dense"]["box"].shape == (8 * CELLS * CELLS, 4)
    for share in (1.0, 0.0):
        stage = replace(TINY[1], scenes=4, captions=share, grounding=share)
        batch = Steps(stage, 1, 0, processor.tokenizer)[0]
        assert [len(text["input_ids"]) for text in batch["texts"]] == [3 * 4, 4]
        for text in batch["texts"]:
            images = (text["input_ids"] == processor.image_token_id).sum() // (CELLS * CELLS)
            assert images == len(text["images"]) and text["images"].max() < len(batch["grid"])
        decode = processor.tokenizer.batch_decode
        short, long = (decode(text["input_ids"]) for text in batch["texts"])
        assert all(("Where is" in text) == bool(share) for text in short)
        assert all(("List the objects" if share else "<tool_call>") in text for text in long)


def test_the_quick_plan_has_the_stages_of_the_real_one():
    assert [s.name for s in QUICK] == [s.name for s in PLAN]
    assert sum(s.steps for s in QUICK) <= 100
    assert len({s.name for s in PLAN}) == len(PLAN)  # a batch is drawn from its stage's name


# --- losses -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(processor):
    return build_model(processor.tokenizer)


def test_text_loss_is_the_model_s_own(model, processor):
    batch = Steps(replace(TINY[1], scenes=2), 1, 0, processor.tokenizer)[1]
    with torch.no_grad():
        vision = model.model.visual(batch["pixel_values"], batch["grid"])
        patches = batch["pixel_values"].unflatten(0, (-1, 144))
        for text in batch["texts"]:
            itself = torch.eye(len(processor.tokenizer))
            ours, weight = text_loss(model, text, vision, processor.image_token_id, itself)
            ids = text["input_ids"]
            logits = model(
                input_ids=ids,
                attention_mask=text["attention_mask"],
                mm_token_type_ids=(ids == processor.image_token_id).long(),
                pixel_values=patches[text["images"]].flatten(0, 1),
                image_grid_thw=batch["grid"][text["images"]],
            ).logits
            losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
            theirs = (losses * text["weights"][:, 1:]).sum()
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
            assert weight == text["weights"].sum()
    assert "forward" not in vars(model.model.visual)


def test_dense_heads_read_what_the_labels_say():
    heads = DenseHeads(4)
    labels = {
        "color": torch.tensor([0, 1]),
        "shape": torch.tensor([0, 2]),
        "letter": torch.tensor([-100, 3]),
        "box": torch.tensor([[0.0] * 4, [1.5, 1.5, 3.0, 3.0]]),
    }
    with torch.no_grad():
        for p in heads.parameters():
            p.zero_()
        # Where the second number is 1, everything is right.
        heads.color.weight[1, 1] = heads.shape.weight[2, 1] = heads.letter.weight[3, 1] = 99.0
        heads.color.weight[0, 0] = heads.shape.weight[0, 0] = 99.0
        heads.box.weight[:, 1] = torch.tensor([-1.0, -1.0, 0.0, 0.0])
    tokens = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    loss, figures = heads(tokens, labels)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert figures == {"color": 1.0, "letter": 1.0, "box_error": 0.0}
    loss, figures = heads(tokens.flip(0), labels)
    assert loss.item() > 10 and figures["color"] == figures["letter"] == 0


def test_a_soft_coordinate_spreads_over_its_neighbours_only(processor):
    tokenizer = processor.tokenizer
    targets = coordinate_targets(tokenizer, width=15.0)

    def token(text):
        (i,) = tokenizer(text)["input_ids"]
        return i

    assert torch.allclose(targets.sum(1), torch.ones(len(tokenizer)))
    for prefix in ("", ", "):
        row = targets[token(f"{prefix}500")]
        assert row.argmax() == token(f"{prefix}500")
        assert row[token(f"{prefix}490")] == row[token(f"{prefix}510")] > 0.1
        assert row[token(f"{prefix}700")] < 1e-6
    assert targets[token("500")][token(", 500")] == 0
    for text in ("red", "<answer>", "K"):
        assert targets[token(text)][token(text)] == 1


def test_the_learning_rate_rises_then_falls():
    for stage in PLAN:
        rates = [schedule(stage, step) for step in range(stage.steps)]
        top = rates.index(max(rates))
        assert rates[0] < 0.05 and 0.9 < rates[top] <= 1 and top <= 100
        assert all(a >= b for a, b in zip(rates[top:], rates[top + 1 :]))
        assert 0.029 < rates[-1] < 0.04


# --- a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    """The tokenizer needs a few scenes only; a checkpoint comes every second step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pretrain, "corpus", lambda scenes, seed: islice(lessons.corpus(30, seed), 2000)
        )
        patch.setattr(pretrain, "CHECKPOINT_EVERY", 2)
        yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def undisturbed(small_corpus, tmp_path_factory):
    return pretrain.pretrain(tmp_path_factory.mktemp("whole"), TINY)


def result(out):
    """Weights, tokenizer and log of a finished run, the seconds left out."""
    with (out / "pretrain.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return [(out / name).read_bytes() for name in ("model.safetensors", "tokenizer.json")], rows


class Killed(BaseException):
    """Nothing that the code could catch."""


def kill_at(monkeypatch, owner, name, number, leave=None):
    """Let the ``number``-th call of a function be the last thing that happens."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            if leave:
                leave(*args)
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def half_written(state, path):
    path.write_bytes(b"PK half a checkpoint")


KILLS = {
    "while the first checkpoint is written": (torch, "save", 1, half_written),
    "between the log and its checkpoint": (os, "replace", 4, None),
    "at the end of a stage": (torch, "save", 3, half_written),
    "in the last stage": (torch.nn.utils, "clip_grad_norm_", 10, None),
    "before the weights are saved": (pretrain, "build_model", 2, None),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_ends_where_the_undisturbed_run_ends(moment, undisturbed, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, *KILLS[moment])
        with pytest.raises(Killed):
            pretrain.pretrain(tmp_path, TINY)
    assert not (tmp_path / "model.safetensors").exists()
    pretrain.pretrain(tmp_path, TINY)
    assert result(tmp_path) == result(undisturbed)


def test_a_run_learns_and_logs_every_stage(undisturbed):
    _, rows = result(undisturbed)
    assert [(r["stage"], int(r["step"])) for r in rows] == [
        (stage.name, step) for stage in TINY for step in (0, stage.steps - 1)
    ]
    assert all(float(r["loss"]) > 0 for r in rows)
    assert all(bool(r["short"]) == bool(r["long"]) == ("joint" in r["stage"]) for r in rows)
    model, processor = load(undisturbed)
    fresh = dict(build_model(processor.tokenizer).named_parameters())
    changed = [(p - fresh[n]).abs().max() > 1e-4 for n, p in model.named_parameters()]
    assert np.mean(changed) > 0.8


def test_another_seed_ends_elsewhere(undisturbed, tmp_path):
    pretrain.pretrain(tmp_path, TINY[:1], seed=1)
    assert result(tmp_path)[0] != result(undisturbed)[0]


def test_a_finished_run_is_not_run_again_and_one_of_another_plan_is_refused(undisturbed):
    before = result(undisturbed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "run_stage", lambda *a: pytest.fail("ran again"))
        pretrain.pretrain(undisturbed, TINY)
        for change in ({"seed": 1}, {"plan": TINY[:2]}, {"plan": (replace(TINY[0], steps=4),)}):
            with pytest.raises(ValueError, match="checkpoint.pt belongs to another plan"):
                pretrain.pretrain(undisturbed, **{"plan": TINY, **change})
    assert result(undisturbed) == before


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(monkeypatch, tmp_path):
    real, calls = DenseHeads.forward, []

    def broken(self, *args):
        calls.append(1)
        loss, figures = real(self, *args)
        return loss * (float("nan") if len(calls) == 4 else 1), figures

    monkeypatch.setattr(DenseHeads, "forward", broken)
    with pytest.raises(
        FloatingPointError, match="loss is nan at tower step 3; lower learning_rate"
    ):
        pretrain.pretrain(tmp_path, TINY)


@pytest.mark.slow
def test_the_quick_form_makes_a_model_that_rolls_out(tmp_path, capsys, samples):
    assert main(["pretrain", "--quick", "--out", str(tmp_path / "eyes")]) == 0
    assert "tiny-eyes: " in capsys.readouterr().out
    model, processor = load(tmp_path / "eyes")
    episodes = rollout(samples, LocalPolicy(model, processor), progress=False)
    assert len(episodes) == len(samples)
