"""training.py: presets, run folders, and a run that a kill does not change."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOTrainer

import killed_run
from deepeyes_lite import doctor, prompts, training
from deepeyes_lite.fast import ZoomTrainer
from deepeyes_lite.files import file_lock
from deepeyes_lite.models import load
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.training import (
    HISTORY_COLUMNS,
    PRESETS,
    History,
    RunConfig,
    build_trainer,
    last_checkpoint,
    load_trained,
    preset,
    read_config,
    read_history,
    train,
    training_set,
)


class Killed(BaseException):
    """Nothing that the code could catch."""


@pytest.fixture(scope="module")
def config(random_eyes):
    return RunConfig(
        model=str(random_eyes), steps=4, prompts_per_step=2, num_generations=4, save_steps=1
    )


@pytest.fixture(autouse=True, scope="module")
def varied_rewards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "reward", killed_run.varied_reward)
        patch.setattr(training, "precision", lambda: ("fp32", "a test"))
        yield


@pytest.fixture(scope="module")
def undisturbed(config, varied_rewards, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("runs") / "whole")


def adapter(out):
    return load_file(out / "adapter" / "adapter_model.safetensors")


def figures(out):
    """The history, without what a clock says."""
    rows = read_history(out / "history.csv")
    return [{name: v for name, v in row.items() if name != "step_time"} for row in rows]


def assert_same_end(out, undisturbed):
    ours, theirs = figures(out), figures(undisturbed)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs):
        assert mine == pytest.approx(other, rel=1e-4, nan_ok=True)
    ours, theirs = adapter(out), adapter(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[n], theirs[n], rtol=0, atol=1e-6) for n in ours)


# --- a run --------------------------------------------------------------------------------------


def test_a_run_leaves_config_history_and_adapter(undisturbed, config):
    assert json.loads((undisturbed / "config.json").read_text()) == asdict(config)
    assert read_config(undisturbed) == config
    rows = read_history(undisturbed / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == HISTORY_COLUMNS
    assert all(row["grad_norm"] > 0 and row["step_time"] > 0 for row in rows)
    assert not (undisturbed / "adapter.tmp").exists()


def test_a_run_changes_its_adapter_and_nothing_else(undisturbed, config):
    assert max(v.abs().max() for n, v in adapter(undisturbed).items() if "lora_B" in n) > 1e-4
    base, _ = load(config.model)
    merged, processor = load_trained(undisturbed)
    theirs = base.state_dict()
    for name, value in merged.state_dict().items():
        adapted = "language_model" in name and "_proj" in name
        assert torch.equal(value, theirs[name]) != adapted, name
    assert processor.tokenizer.padding_side == "left"
    wrapped = PeftModel.from_pretrained(base, undisturbed / "adapter")
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        assert torch.allclose(
            merged(input_ids=ids).logits, wrapped(input_ids=ids).logits, atol=1e-4
        )


class Blind(TrainerCallback):
    """In the place of `Watch`: records nothing."""

    def __init__(self, *_):
        pass


def test_a_run_records_its_scenes_and_does_not_notice(undisturbed, config, tmp_path, monkeypatch):
    names = [path.name for path in sorted((undisturbed / "snapshots").iterdir())]
    assert names == ["0000.jsonl", "0004.jsonl"]
    monkeypatch.setattr(training, "Watch", Blind)
    blind = train(config, tmp_path / "blind")
    assert not (blind / "snapshots").exists()
    assert str(figures(blind)) == str(figures(undisturbed))  # NaN is not equal to itself
    ours, theirs = adapter(blind), adapter(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_returns_at_once(undisturbed, config, monkeypatch):
    before = (undisturbed / "history.csv").read_bytes()
    monkeypatch.setattr(training, "build_trainer", lambda *a: pytest.fail("started again"))
    assert train(config, str(undisturbed)) == undisturbed
    assert (undisturbed / "history.csv").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 5}, {"reward": "none"}, {"model": "other"}]
)
def test_another_run_in_the_same_folder_is_refused(undisturbed, config, change):
    with pytest.raises(ValueError, match="holds another run .*choose another folder or delete it"):
        train(replace(config, **change), undisturbed)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path, config):
    with (
        file_lock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="another process trains in"),
    ):
        train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reward": "none"}'])
def test_a_folder_with_a_broken_config_is_refused(tmp_path, config, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="holds another run"):
        train(config, tmp_path)
    assert (tmp_path / "config.json").read_text() == text


# --- kills --------------------------------------------------------------------------------------


def test_a_run_killed_hard_at_any_moment_ends_where_the_undisturbed_run_ends(
    undisturbed, config, tmp_path
):
    out = tmp_path / "run"
    arguments = json.dumps({**asdict(config), "varied": True})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "killed_run.py"), arguments, str(out)],
            stdout=log,
            stderr=log,
            env={**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1"},
        )
        began = time.monotonic()
        while not (out / "history.csv").exists() or not read_history(out / "history.csv"):
            assert process.poll() is None and time.monotonic() - began < 600, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.02)
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(config, out)
    assert_same_end(out, undisturbed)


def kill_at(patch, owner, name, number, condition=lambda *args: True):
    """Let the ``number``-th call of a function that meets the condition be the last thing."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        if condition(*args):
            calls.append(args)
            if len(calls) == number:
                raise Killed
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)


MOMENTS = {
    "before the first checkpoint": (ZoomTrainer, "_compute_loss", 1),
    "after a checkpoint": (ZoomTrainer, "_compute_loss", 3),
    "while a checkpoint is written": (torch, "save", 4),
    "before a checkpoint is marked": (training.MarkComplete, "on_save", 2),
    "while a history line is written": (training.History, "on_log", 3),
    "before the adapter is saved": (PeftModel, "save_pretrained", 5),
    "before the adapter is renamed": (
        training.os,
        "replace",
        1,
        lambda source, target: Path(target).name == "adapter",
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_stopped_at_a_weak_moment_ends_where_the_undisturbed_run_ends(
    moment, undisturbed, config, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            train(config, tmp_path)
    assert not (tmp_path / "adapter").exists()
    train(config, tmp_path)
    assert_same_end(tmp_path, undisturbed)


def checkpoint(out, step, whole):
    folder = out / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if whole:
        (folder / "complete").touch()
    return folder


def test_the_newest_whole_checkpoint_counts(tmp_path):
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9, whole=False)
    assert last_checkpoint(tmp_path) is None
    nine = checkpoint(tmp_path, 90, whole=True)
    checkpoint(tmp_path, 8, whole=True)
    assert last_checkpoint(tmp_path) == nine
    hundred = checkpoint(tmp_path, 100, whole=True)
    checkpoint(tmp_path, 110, whole=False)
    assert last_checkpoint(tmp_path) == hundred


def test_history_beyond_the_checkpoint_is_cut_back(config, undisturbed, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, training.MarkComplete, "on_save", 3)
        with pytest.raises(Killed):
            train(config, tmp_path)
    assert len(figures(tmp_path)) == 3 and last_checkpoint(tmp_path).name == "checkpoint-2"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, ZoomTrainer, "_compute_loss", 1)
        with pytest.raises(Killed):
            train(config, tmp_path)
    assert repr(figures(tmp_path)) == repr(figures(undisturbed)[:2])


def test_a_loss_that_is_no_number_stops_the_run_before_its_checkpoint(
    config, undisturbed, tmp_path
):
    real, calls = ZoomTrainer._compute_loss, []

    def loss(self, model, inputs):
        calls.append(1)
        return real(self, model, inputs) * (math.inf if len(calls) == 2 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZoomTrainer, "_compute_loss", loss)
        with pytest.raises(FloatingPointError, match="step 2: loss -?(nan|inf)"):
            train(config, tmp_path)
    assert [row["step"] for row in figures(tmp_path)] == [1]
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    train(config, tmp_path)
    assert_same_end(tmp_path, undisturbed)


# --- settings -----------------------------------------------------------------------------------


def test_presets_can_be_changed():
    assert preset("demo") == RunConfig() == PRESETS["demo"]
    changed = preset("quick", seed=3, reward="none")
    assert (changed.seed, changed.reward, changed.steps) == (3, "none", 2)
    assert PRESETS["quick"].seed == 0


def test_unknown_presets_and_arms_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown preset 'fast'; there are demo, quick"):
        preset("fast")
    with pytest.raises(ValueError, match="unknown arm 'bonus'; there are conditional"):
        preset("demo", reward="bonus")


def test_folders_without_a_run_say_what_to_do(tmp_path, config):
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*; start a run with `train"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*; finish the run with `train"):
        load_trained(tmp_path)


def test_a_run_without_its_model_says_what_to_do(tmp_path, config):
    with pytest.raises(ValueError, match="is neither a folder with a model nor"):
        train(replace(config, model=str(tmp_path / "nowhere")), tmp_path / "run")


def test_every_seed_has_scenes_of_its_own():
    config = RunConfig(steps=3, prompts_per_step=2)
    rows = [training_set(replace(config, seed=seed)) for seed in (0, 1)]
    assert [len(r) for r in rows] == [6, 6]
    assert rows[0]["id"][0] == "train-0" and rows[1]["id"][0] == "train-1000"
    for row in rows[0]:
        assert row["prompt"] == [{"role": "user", "content": row["question"]}]


def test_a_long_run_goes_round_its_thousand_scenes(monkeypatch):
    wanted = []

    def few(split, n, world, start):
        wanted.append((split, n, start))
        return tiny_world(split, 2, world, start)

    monkeypatch.setattr(training, "tiny_world", few)
    training_set(RunConfig(steps=2000, prompts_per_step=8, seed=2))
    assert wanted == [("train", 1000, 2000)]


def test_a_run_may_have_a_dataset_of_its_own(tmp_path):
    rows = tiny_world("train", 5, start=70).add_column("pass_rate", [0.5] * 5)
    rows.save_to_disk(tmp_path / "selected")
    config = RunConfig(steps=3, prompts_per_step=2, data=str(tmp_path / "selected"))
    found = training_set(config)
    assert list(found["id"]) == list(rows["id"])
    assert set(found.column_names) == {*rows.column_names, "prompt"} - {"pass_rate"}
    with pytest.raises(ValueError, match="has 5 questions .a step takes 6."):
        training_set(replace(config, prompts_per_step=6))
    rows.remove_columns("answer").save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="lacks the columns .'answer'."):
        training_set(replace(config, data=str(tmp_path / "other")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training_set(replace(config, data=str(tmp_path / "nowhere")))


def test_an_arm_without_a_tool_trains_without_one(config, tmp_path):
    config = replace(config, reward="text_only", steps=1)
    trainer = build_trainer(config, tmp_path)
    shown = []
    real = trainer._tokenize_prompts

    def snapshots(prompts):
        ids, images, fields = real(prompts)
        shown.extend(trainer.processing_class.tokenizer.batch_decode(ids))
        assert all(len(its) == 1 for its in images)
        return ids, images, fields

    trainer._tokenize_prompts = snapshots
    trainer.train()
    assert len(shown) == 8 and not any("Tools:" in text for text in shown)
    (row,) = trainer.history.rows
    assert row["grad_norm"] > 0


def test_the_share_of_legible_details_is_the_run_s():
    for share in (0.0, 1.0):
        rows = training_set(RunConfig(steps=2, prompts_per_step=4, legible_share=share))
        assert set(rows["legible"]) == {int(share)}


@pytest.mark.parametrize("stock", [False, True])
def test_the_trainer_is_set_up_as_the_configuration_says(config, tmp_path, stock):
    config = replace(config, learning_rate=3e-4, lora_rank=3, seed=5)
    trainer = build_trainer(config, tmp_path, stock=stock)
    assert type(trainer) is (GRPOTrainer if stock else ZoomTrainer)
    visual = trainer.model.get_base_model().model.visual
    assert ("forward" in vars(visual)) != stock
    plain = type(trainer.processing_class.image_processor) is Qwen2VLImageProcessorPil
    assert plain == stock
    args = trainer.args
    assert (args.max_steps, args.learning_rate, args.seed) == (4, 3e-4, 5)
    assert (args.num_generations, args.per_device_train_batch_size) == (4, 8)
    assert (args.beta, args.loss_type, args.scale_rewards) == (0.0, "dapo", "group")
    suppressed = trainer.generation_config.suppress_tokens
    tokens = trainer.processing_class.tokenizer.convert_ids_to_tokens(suppressed)
    assert tokens == list(prompts.RESERVED_TOKENS)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 28 and all(".language_model." in n and "lora" in n for n in trained)
    assert {p.shape[0] for n, p in trained.items() if "lora_A" in n} == {3}


def test_the_seed_makes_the_adapter(config, tmp_path):
    def fresh(seed):
        trainer = build_trainer(replace(config, seed=seed), tmp_path)
        return torch.cat(
            [p.flatten() for n, p in trainer.model.named_parameters() if "lora_A" in n]
        )

    assert torch.equal(fresh(0), fresh(0)) and not torch.equal(fresh(0), fresh(1))


def test_tiny_eyes_trains_in_its_own_precision_on_a_machine_with_bf16(
    config, monkeypatch, tmp_path
):
    monkeypatch.setattr(doctor, "precision", lambda: ("bf16", "a test"))
    trainer = build_trainer(config, tmp_path)
    assert trainer.model.get_base_model().dtype == torch.float32 and not trainer.args.bf16
