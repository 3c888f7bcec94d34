"""pretrain.py: batches are functions of their step, and a killed run ends where it would have."""

import csv
import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from deepeyes_lite.__main__ import main
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.model import build_model
from deepeyes_lite.tinyworld.pretraining import lessons, pretrain
from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN, QUICK, DenseHeads, Stage, Steps

TINY = (
    Stage("tower", 5, 1, 2e-3),
    Stage("joint", 2, 1, 1e-3),
    Stage("joint, again", 4, 1, 1e-3, captions=0.9),
)


def flat(batch):
    """All tensors of a batch, as bytes by name."""
    found = {f"dense {name}": value for name, value in batch["dense"].items()}
    found |= {name: batch[name] for name in ("pixel_values", "grid")}
    for i, text in enumerate(batch.get("texts", [])):
        found |= {f"text {i} {name}": value for name, value in text.items()}
    return {name: value.numpy().tobytes() for name, value in found.items()}


def test_a_batch_is_a_function_of_seed_stage_and_step(processor):
    for stage in (TINY[0], TINY[2]):
        steps = Steps(stage, 1, 0, processor.tokenizer)
        batch = flat(steps[3])
        steps[0]
        torch.manual_seed(99), np.random.seed(99)
        assert flat(steps[3]) == flat(Steps(stage, 1, 0, processor.tokenizer)[3]) == batch
        for place, seed, step in ((1, 0, 2), (1, 1, 3), (2, 0, 3)):
            assert flat(Steps(stage, place, seed, processor.tokenizer)[step]) != batch
    assert [s.name for s in QUICK] == [s.name for s in PLAN] and len({s.name for s in PLAN}) == len(
        PLAN
    )


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    """The tokenizer needs a few scenes only; a checkpoint comes every second step."""
    with pytest.MonkeyPatch.context() as patch:
        short = lambda _, seed: islice(lessons.corpus(30, seed), 2000)  # noqa: E731
        patch.setattr(pretrain, "corpus", short)
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


def kill_at(patch, owner, name, number, leave=None):
    """Let the ``number``-th call of a function be the last thing that happens."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) < number:
            return real(*args, **kwargs)
        if leave:
            leave(*args)
        raise Killed

    patch.setattr(owner, name, call)


def half_written(state, path):
    path.write_bytes(b"PK half a checkpoint")


KILLS = {
    "while the first checkpoint is written": (torch, "save", 1, half_written),
    "between the log and its checkpoint": (os, "replace", 4, None),
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
    steps = [(stage.name, step) for stage in TINY for step in (0, stage.steps - 1)]
    assert [(r["stage"], int(r["step"])) for r in rows] == steps
    assert all(float(r["loss"]) > 0 for r in rows)
    assert all(bool(r["short"]) == bool(r["long"]) == ("joint" in r["stage"]) for r in rows)
    model, processor = load(undisturbed)
    fresh = dict(build_model(processor.tokenizer).named_parameters())
    changed = [(p - fresh[n]).abs().max() > 1e-4 for n, p in model.named_parameters()]
    assert np.mean(changed) > 0.8


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
    real, factors = DenseHeads.forward, iter([1, 1, 1, float("nan")])

    def broken(self, *args):
        loss, figures = real(self, *args)
        return loss * next(factors), figures

    monkeypatch.setattr(DenseHeads, "forward", broken)
    with pytest.raises(FloatingPointError, match="nan at tower step 3; lower learning_rate"):
        pretrain.pretrain(tmp_path, TINY)


@pytest.mark.slow
def test_the_quick_form_makes_a_model_that_rolls_out(tmp_path, capsys, samples):
    assert main(["pretrain", "--quick", "--out", str(tmp_path / "eyes")]) == 0
    assert "tiny-eyes: " in capsys.readouterr().out
    model, processor = load(tmp_path / "eyes")
    episodes = rollout(samples, LocalPolicy(model, processor), progress=False)
    assert len(episodes) == len(samples)
