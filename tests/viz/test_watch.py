"""watch.py: the same scenes every few steps, and a run that does not notice."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deepeyes_lite.models import load
from deepeyes_lite.viz import snapshots
from deepeyes_lite.viz.snapshots import EVERY, SCENES, Snapshots, read_snapshots, scenes


@pytest.fixture(scope="module")
def samples():
    return scenes({"data": "", "legible_share": 0.5})


@pytest.fixture(scope="module")
def policy(random_eyes):
    model, processor = load(random_eyes)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(model, lora), processor


def state(step, last=12, main=True):
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=main)


def test_steps_that_are_recorded(samples, policy, tmp_path):
    model, processor = policy
    callback = Snapshots(samples, processor, True, tmp_path / "snapshots")
    callback.on_train_begin(None, state(0), None, model=model)
    for step in range(1, 13):
        callback.on_step_end(None, state(step), None, model=model)
    images = {row["id"]: row["image"] for row in samples}
    found = read_snapshots(tmp_path / "snapshots", images)
    assert list(found) == [0, EVERY, 2 * EVERY, 12]
    for episodes in found.values():
        assert [t.sample["id"] for t in episodes] == list(samples["id"])
        assert all(t.images and t.completion_ids for t in episodes)
    # The policy did not change and the draws are the same, so neither did what it did.
    assert [t.turns for t in found[0]] == [t.turns for t in found[12]]
    assert not list((tmp_path / "snapshots").glob("*.tmp"))


def test_a_turn_is_as_long_as_the_run_allows(samples, policy, tmp_path):
    model, processor = policy
    callback = Snapshots(samples, processor, False, tmp_path / "snapshots", 3)
    callback.on_train_begin(None, state(0), None, model=model)
    (found,) = read_snapshots(tmp_path / "snapshots").values()
    assert max(len(t.completion_ids) for t in found) <= 3


def test_a_run_that_goes_on_does_not_record_its_start_again(samples, policy, tmp_path):
    model, processor = policy
    callback = Snapshots(samples, processor, True, tmp_path / "snapshots")
    callback.on_train_begin(None, state(7), None, model=model)
    callback.on_step_end(None, state(10, main=False), None, model=model)
    assert read_snapshots(tmp_path / "snapshots") == {}


@pytest.mark.parametrize("training", [True, False])
def test_the_run_does_not_notice(samples, policy, tmp_path, training):
    model, processor = policy
    model.train(training)
    torch.manual_seed(5)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.requires_grad for p in model.parameters()]
    random = torch.random.get_rng_state()
    Snapshots(samples, processor, False, tmp_path / "snapshots").on_train_begin(
        None, state(0), None, model=model
    )
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.training == training and gradients == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_run_on_its_own_data_watches_its_first_rows(samples, tmp_path):
    samples.select(range(3)).save_to_disk(tmp_path / "few")
    found = scenes({"data": str(tmp_path / "few"), "legible_share": 0.5})
    assert list(found["id"]) == list(samples["id"])[:3] and len(samples) == SCENES


def test_an_arm_without_a_tool_answers_from_the_view(samples, policy, tmp_path, monkeypatch):
    model, processor = policy
    asked = []
    monkeypatch.setattr(
        snapshots, "rollout", lambda *a, tool, **_: asked.append((a[1].tools, tool)) or []
    )
    Snapshots(samples, processor, False, tmp_path / "snapshots").on_train_begin(
        None, state(0), None, model=model
    )
    assert asked == [(None, "off")]
