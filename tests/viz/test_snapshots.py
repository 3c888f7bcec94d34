"""snapshots.py: the same scenes every few steps, and a run that does not notice."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deepeyes_lite.models import load
from deepeyes_lite.training import RunConfig
from deepeyes_lite.viz.snapshots import (
    EVERY,
    SCENES,
    Snapshots,
    read_snapshots,
    scenes,
    snapshots_of,
)


@pytest.fixture(scope="module")
def samples():
    return scenes({"data": "", "legible_share": 0.5})


@pytest.fixture(scope="module")
def trainer(random_eyes):
    """What TRL's trainer hands to its callbacks."""
    model, processor = load(random_eyes)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return {"model": get_peft_model(model, lora), "processing_class": processor}


def state(step, last=12, main=True):
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=main)


def test_steps_that_are_recorded(samples, trainer, tmp_path):
    callback = Snapshots(samples, tmp_path / "snapshots")
    callback.on_train_begin(None, state(0), None, **trainer)
    for step in range(1, 13):
        callback.on_step_end(None, state(step), None, **trainer)
    images = {row["id"]: row["image"] for row in samples}
    recorded = read_snapshots(tmp_path / "snapshots", images)
    assert list(recorded) == [0, EVERY, 2 * EVERY, 12]
    for episodes in recorded.values():
        assert [t.sample["id"] for t in episodes] == list(samples["id"])
        assert all(t.images and t.completion_ids for t in episodes)
    # The policy did not change and the draws are the same, so neither did what it did.
    assert [t.turns for t in recorded[0]] == [t.turns for t in recorded[12]]
    assert not list((tmp_path / "snapshots").glob("*.tmp"))


def test_a_run_that_goes_on_does_not_record_its_start_again(samples, trainer, tmp_path):
    callback = Snapshots(samples, tmp_path / "snapshots")
    callback.on_train_begin(None, state(7), None, **trainer)
    callback.on_step_end(None, state(10, main=False), None, **trainer)
    assert read_snapshots(tmp_path / "snapshots") == {}


def test_the_run_does_not_notice(samples, trainer, tmp_path):
    for training in (True, False):
        model = trainer["model"].train(training)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        gradients = [p.requires_grad for p in model.parameters()]
        random = torch.random.get_rng_state()
        callback = Snapshots(samples, tmp_path / "snapshots", tools=False)
        callback.on_train_begin(None, state(0), None, **trainer)
        assert torch.equal(torch.random.get_rng_state(), random)
        assert model.training == training
        assert gradients == [p.requires_grad for p in model.parameters()]
        assert all(torch.equal(v, weights[name]) for name, v in model.state_dict().items())


def test_a_run_hands_on_its_scenes_its_prompts_and_its_turns(samples, trainer, tmp_path):
    samples.select(range(3)).save_to_disk(tmp_path / "few")
    config = RunConfig(reward="text_only", data=str(tmp_path / "few"), max_new_tokens=3)
    callback = snapshots_of(config, tmp_path / "run")
    assert list(callback.samples["id"]) == list(samples["id"])[:3] and len(samples) == SCENES
    callback.on_train_begin(None, state(0), None, **trainer)
    (episodes,) = read_snapshots(tmp_path / "run" / "snapshots").values()
    assert max(len(t.completion_ids) for t in episodes) <= 3
    assert not any(t.called for t in episodes)
    decode = trainer["processing_class"].tokenizer.decode
    assert "Tools" not in decode(episodes[0].prompt_ids)
    callback = snapshots_of(RunConfig(max_new_tokens=3), tmp_path / "zoom")
    callback.on_train_begin(None, state(0), None, **trainer)
    (episodes,) = read_snapshots(tmp_path / "zoom" / "snapshots").values()
    assert "Tools" in decode(episodes[0].prompt_ids)
