"""training.py: configuration, TRL's terms, the record, run folders, and a run that a kill does not change."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOTrainer

import bench_step
from deepeyes_lite import doctor, prompts, training
from deepeyes_lite.config import PRESETS, preset
from deepeyes_lite.files import file_lock
from deepeyes_lite.models import load
from deepeyes_lite.tinyworld.dataset import tiny_world, training_questions
from deepeyes_lite.training import (
    HISTORY_COLUMNS,
    Checkpoints,
    History,
    RunConfig,
    ZoomTrainer,
    build_trainer,
    collapse_warning,
    last_checkpoint,
    load_trained,
    read_config,
    read_history,
    train,
    with_prompts,
    write_history,
)
from killed_run import varied

NAN = math.nan


class Killed(BaseException):
    """Nothing that the code could catch."""


@pytest.fixture(scope="module")
def config(random_eyes):
    shape = {"steps": 4, "prompts_per_step": 2, "num_generations": 4, "save_steps": 1}
    return RunConfig(model=str(random_eyes), **shape)


def run(config, out, *callbacks):
    return train(config, out, training_questions(config), callbacks, rewards={varied: 1.0})


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    return run(config, tmp_path_factory.mktemp("runs") / "whole")


def adapter(out):
    return load_file(out / "adapter" / "adapter_model.safetensors")


def figures(out):
    """The history, without what a clock says."""
    rows = read_history(out / "history.csv")
    return [{name: v for name, v in row.items() if name != "step_time"} for row in rows]


def assert_same_end(out, undisturbed):
    for mine, other in zip(figures(out), figures(undisturbed), strict=True):
        assert mine == pytest.approx(other, rel=1e-4, nan_ok=True)
    ours, theirs = adapter(out), adapter(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[n], theirs[n], rtol=0, atol=1e-6) for n in ours)


# --- a run --------------------------------------------------------------------------------------


@pytest.mark.train
def test_a_run_leaves_config_history_and_adapter_and_changes_nothing_else(undisturbed, config):
    assert json.loads((undisturbed / "config.json").read_text()) == asdict(config)
    assert read_config(undisturbed) == config
    rows = read_history(undisturbed / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == HISTORY_COLUMNS
    assert all(row["grad_norm"] > 0 and row["step_time"] > 0 for row in rows)
    assert all(row["n_zoom"] + row["n_direct"] == 8 for row in rows)
    assert not (undisturbed / "adapter.tmp").exists()
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
        ours, theirs = merged(input_ids=ids).logits, wrapped(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.train
def test_a_run_may_start_from_an_adapter_and_a_finished_one_returns_at_once(
    undisturbed, config, tmp_path, monkeypatch
):
    warm = replace(config, adapter=str(undisturbed / "adapter"))
    trainer = build_trainer(warm, tmp_path, training_questions(config))
    start = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(start) == 2 * 28 and any(p.abs().max() > 1e-4 for n, p in start.items() if "_B" in n)
    before = (undisturbed / "history.csv").read_bytes()
    monkeypatch.setattr(training, "build_trainer", lambda *a: pytest.fail("started again"))
    assert train(config, str(undisturbed)) == undisturbed
    assert (undisturbed / "history.csv").read_bytes() == before


def test_a_folder_with_another_run_or_with_none_is_refused(config, finished_run, tmp_path):
    held = read_config(finished_run)
    for name, value in {"seed": 1, "steps": 5, "reward": "none", "model": "other"}.items():
        with pytest.raises(ValueError, match=f"holds another run .{name}: .*; choose another fold"):
            train(replace(held, **{name: value}), finished_run)
    locked = pytest.raises(ValueError, match="another process trains in")
    with file_lock(tmp_path / ".lock"), locked:
        train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
    for text in ["", "{", "[]", '{"reward": "none"}']:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="choose another folder or delete it"):
            train(config, tmp_path)
        assert (tmp_path / "config.json").read_text() == text
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*; start a run with `train"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*; finish the run with `train"):
        load_trained(tmp_path)
    with pytest.raises(ValueError, match="is neither a folder with a model nor"):
        train(replace(config, model=str(tmp_path / "nowhere")), tmp_path / "run")
    with pytest.raises(ValueError, match="no questions to train on"):
        build_trainer(config, tmp_path)


# --- kills --------------------------------------------------------------------------------------


@pytest.mark.train
def test_a_run_killed_hard_at_any_moment_ends_where_the_undisturbed_run_ends(
    undisturbed, config, tmp_path
):
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = json.dumps({**asdict(config), "varied": True})
    script = str(Path(__file__).parents[1] / "killed_run.py")
    with log.open("w") as file:
        command = [sys.executable, script, arguments, str(out)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
        began = time.monotonic()
        while not (out / "history.csv").exists() or not read_history(out / "history.csv"):
            assert process.poll() is None and time.monotonic() - began < 600, log.read_text()
            time.sleep(0.02)
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(config, out)
    assert_same_end(out, undisturbed)


def is_adapter(source, target):
    return Path(target).name == "adapter"


# The call of this number that meets the condition is the last thing the process does.
MOMENTS = {
    "while a checkpoint is written": (torch, "save", 4, lambda *args: True),
    "before the adapter is renamed": (training.os, "replace", 1, is_adapter),
}


@pytest.mark.train
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_stopped_at_a_weak_moment_ends_where_the_undisturbed_run_ends(
    moment, undisturbed, config, tmp_path
):
    owner, name, number, condition = MOMENTS[moment]
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.extend([args] if condition(*args) else [])
        if len(calls) == number:
            raise Killed
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        with pytest.raises(Killed):
            run(config, tmp_path)
    assert not (tmp_path / "adapter").exists()
    run(config, tmp_path)
    assert_same_end(tmp_path, undisturbed)


def checkpoint(out, step, complete=True):
    folder = out / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("optimizer.pt", "adapter_model.safetensors", "rng_state.pth"):
        (folder / name).write_text("state")
    if complete:
        save(out, step, keep=None)
    return folder


def save(out, step, keep):
    args = SimpleNamespace(output_dir=out / "checkpoints")
    state = SimpleNamespace(is_world_process_zero=True, global_step=step)
    Checkpoints(keep).on_save(args, state, None)


def test_the_newest_complete_checkpoint_counts(tmp_path):
    newest = []
    for step, complete in [(9, False), (90, True), (8, True), (110, False)]:
        checkpoint(tmp_path, step, complete)
        last = last_checkpoint(tmp_path)
        newest.append(last and last.name)
    assert newest == [None] + ["checkpoint-90"] * 3


def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_half_one(tmp_path, monkeypatch, config):
    trainer = build_trainer(config, tmp_path / "run", training_questions(config))
    assert trainer.args.save_total_limit is None  # transformers deletes nothing
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 3, complete=False)

    def killed(folder):
        (folder / "optimizer.pt").unlink()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.shutil, "rmtree", killed)
        save(tmp_path, 3, keep=2)
    assert last_checkpoint(tmp_path).name == "checkpoint-3"
    assert first.exists() and not (first / "complete").exists() and (second / "complete").exists()
    checkpoint(tmp_path, 4, complete=False)
    save(tmp_path, 4, keep=2)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_a_checkpoint_that_lost_something_stops_the_run(tmp_path, name):
    folder = checkpoint(tmp_path, 4)
    (folder / name).write_text("st")
    with pytest.raises(ValueError, match=f"checkpoint-4 is damaged: {name} is missing or cut sho"):
        last_checkpoint(tmp_path)
    (folder / "complete").write_text("")  # of a run from before the mark said what is there
    (folder / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="is damaged: the optimizer's state is missing"):
        last_checkpoint(tmp_path)


@pytest.mark.train
def test_a_loss_that_is_no_number_stops_the_run_before_its_checkpoint(
    config, undisturbed, tmp_path
):
    real, calls = ZoomTrainer._compute_loss, []

    def loss(self, model, inputs):
        calls.append(1)
        return real(self, model, inputs) * (math.inf if len(calls) == 2 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZoomTrainer, "_compute_loss", loss)
        with pytest.raises(FloatingPointError, match="step 2: loss -?(nan|inf).*lower learning_ra"):
            run(config, tmp_path)
    assert [row["step"] for row in figures(tmp_path)] == [1]
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    run(config, tmp_path)
    assert_same_end(tmp_path, undisturbed)


# --- the record -----------------------------------------------------------------------------------


def row(step=1, **changes):
    known = {name: 0.5 for name in HISTORY_COLUMNS} | {"n_zoom": 8, "n_direct": 8}
    return {**known, "step": step, **changes}


def test_history_comes_back(tmp_path):
    path = tmp_path / "history.csv"
    rows = [row(1), row(2, p_zoom=NAN, n_zoom=0, least_bonus=math.inf), row(3, loss=-1.25e-7)]
    write_history(rows, path)
    for read, wrote in zip(read_history(path), rows, strict=True):
        assert read == pytest.approx(wrote, nan_ok=True)
        assert all(type(read[name]) is int for name in ("step", "n_zoom", "n_direct"))
    before = path.read_bytes()
    write_history(read_history(path), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["history.csv"]
    write_history([], path)
    assert read_history(path) == []


def warned(call_rates, bonus=0.0, **changes):
    rows = [row(i, call_rate=rate, **changes) for i, rate in enumerate(call_rates, 1)]
    return collapse_warning(rows, bonus, window=5)


def test_a_falling_call_rate_is_told_in_words_and_nothing_else_is():
    assert warned([0.4] * 5 + [0.1] * 5, bonus=0.1, p_zoom=0.3, p_direct=0.6) == (
        "tool use is falling toward zero: call rate 0.40 -> 0.10 over 5 steps; a call pays only with "
        "a bonus above b* = 0.80, and this run's is 0.10 (p_zoom 0.30, p_direct 0.60)."
    )
    dead = warned([0.3] * 5 + [0.0] * 5, p_zoom=NAN, n_zoom=0)
    assert dead.startswith("tool use has died out: call rate 0.30 -> 0.00 over 5 steps; ")
    assert "there are no calls left to learn from" in dead
    quiet = [[], [0.4] * 9, [0.4] * 30, [0.1] * 5 + [0.4] * 5, [0.0] * 10 + [0.9] * 5]
    quiet += [[0.4] * 5 + [0.25] * 5]  # less, but not yet half
    quiet += [[0.4, 0.0] * 10]  # one step says nothing
    assert [call_rates for call_rates in quiet if warned(call_rates)] == []


def test_the_warning_is_given_once_in_a_window(tmp_path, capsys):
    logs = [{"loss": 0.0, "step": i, "call_rate": 0.4 if i <= 10 else 0.0} for i in range(1, 33)]
    history = History(tmp_path / "history.csv", RunConfig())
    state = SimpleNamespace(is_world_process_zero=True)
    for step in range(20, 33):
        state.global_step, state.log_history = step, logs[:step]
        history.on_log(None, state, None, logs=logs[step - 1])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 20", "step 30"]
    with pytest.raises(FloatingPointError, match="step 32: loss 0.0.* gradient norm nan"):
        history.on_log(None, state, None, logs={"loss": 0.0, "grad_norm": NAN})
    assert len(read_history(history.path)) == 32  # a number that is none is not recorded


# --- configuration, questions, TRL's terms -----------------------------------------------------------


def test_presets_hold_together_and_rollouts_are_dealt_out_to_processes(monkeypatch):
    assert preset("demo") == RunConfig() == PRESETS["demo"]
    changed = preset("quick", seed=3, reward="none")
    assert (changed.seed, changed.reward, changed.steps) == (3, "none", 2)
    with pytest.raises(ValueError, match="unknown preset 'fast'; there are demo, quick"):
        preset("fast")
    with pytest.raises(ValueError, match="unknown reward variant 'bonus'; there are conditional"):
        preset("demo", reward="bonus")
    for config in PRESETS.values():
        assert json.loads(json.dumps(asdict(config))) == asdict(config)
        dealt = training.batches(config)
        rollouts = dealt["per_device_train_batch_size"] * dealt["gradient_accumulation_steps"]
        assert rollouts == config.prompts_per_step * config.num_generations
    config = RunConfig(prompts_per_step=4, num_generations=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training.batches(config)["per_device_train_batch_size"] == 6
    shares = training.batches(replace(config, micro_batch=2))
    assert shares == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="4 prompts a step cannot be dealt out to 3 processes"):
        training.batches(config)


def test_a_run_may_have_a_dataset_of_its_own(tmp_path):
    rows = tiny_world("train", 5, start=70)
    rows.save_to_disk(tmp_path / "selected")
    config = RunConfig(steps=3, prompts_per_step=2, data=str(tmp_path / "selected"))
    for dataset in (None, training_questions(config)):
        asked = with_prompts(config, dataset, " Think.")
        assert list(asked["id"]) == list(rows["id"])
        text = rows[0]["question"] + " Think."
        assert asked[0]["prompt"] == [{"role": "user", "content": text}]
    with pytest.raises(ValueError, match="5 questions are too few: a step takes 6"):
        with_prompts(replace(config, prompts_per_step=6), None, "")
    rows.remove_columns("answer").save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="lacks the columns .'answer'."):
        with_prompts(replace(config, data=str(tmp_path / "other")), None, "")


@pytest.mark.train
def test_a_variant_without_a_tool_trains_without_one(config, tmp_path):
    config = replace(config, reward="text_only", steps=1)
    trainer = build_trainer(config, tmp_path, training_questions(config), rewards={varied: 1.0})
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert row["grad_norm"] > 0 and row["calls_per_episode"] == 0
    assert not trainer.tools


def test_adapters_of_a_model_in_four_bits_stay_in_fp32(config, tmp_path, monkeypatch):
    """TRL casts them to bf16, where a weight of 0.02 does not feel a step of 1e-5."""

    def four_bits(name, quantise, *args, **kwargs):
        model, processor = load(name, False, *args, **kwargs)
        model.is_loaded_in_4bit = quantise
        return model, processor

    load = training.load
    monkeypatch.setattr(training, "load", four_bits)
    for quantise in (True, False):
        changed = replace(config, quantise=quantise)
        trainer = build_trainer(changed, tmp_path, training_questions(config))
        kinds = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
        assert kinds == {torch.float32}


@pytest.mark.parametrize("stock", [False, True])
def test_the_trainer_is_set_up_as_the_configuration_says(config, tmp_path, stock):
    config = replace(config, learning_rate=3e-4, lora_rank=3, seed=5, trl={"max_grad_norm": 0.25})
    trainer = build_trainer(config, tmp_path, training_questions(config), stock=stock)
    assert type(trainer) is (GRPOTrainer if stock else ZoomTrainer)
    visual = trainer.model.get_base_model().model.visual
    assert ("forward" in vars(visual)) != stock
    plain = type(trainer.processing_class.image_processor) is Qwen2VLImageProcessorPil
    assert plain == stock
    args = trainer.args
    assert (args.max_steps, args.learning_rate, args.seed) == (4, 3e-4, 5)
    assert (args.num_generations, args.per_device_train_batch_size) == (4, 8)
    assert (args.beta, args.loss_type, args.scale_rewards) == (0.0, "dapo", "group")
    assert args.max_grad_norm == 0.25
    names = ["accuracy_reward", "format_reward", "tool_bonus", "log_episodes"]
    assert trainer.reward_func_names == names and args.reward_weights == [0.8, 0.2, 1.2, 0.0]
    suppressed = trainer.generation_config.suppress_tokens
    tokens = trainer.processing_class.tokenizer.convert_ids_to_tokens(suppressed)
    assert tokens == list(prompts.RESERVED_TOKENS)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 28 and all(".language_model." in n and "lora" in n for n in trained)
    assert {p.shape[0] for n, p in trained.items() if "lora_A" in n} == {3}


@pytest.mark.parametrize("stock", [False, True])
def test_the_bench_times_a_step(config, stock):
    steps, losses = bench_step.measure(replace(config, steps=1), stock)
    assert len(steps) == len(losses) == 1
    assert 0 < steps[0]["generation"] < steps[0]["total"] and steps[0]["rest"] > 0


def test_the_seed_makes_the_adapter_and_tiny_eyes_keeps_its_precision(
    config, monkeypatch, tmp_path
):
    monkeypatch.setattr(doctor, "precision", lambda: ("bf16", "a test"))

    def fresh(seed):
        trainer = build_trainer(replace(config, seed=seed), tmp_path, training_questions(config))
        assert trainer.model.get_base_model().dtype == torch.float32 and not trainer.args.bf16
        weights = trainer.model.named_parameters()
        return torch.cat([p.flatten() for n, p in weights if "lora_A" in n])

    assert torch.equal(fresh(0), fresh(0)) and not torch.equal(fresh(0), fresh(1))


def test_vllm_has_its_own_words(processor):
    config = RunConfig(trl={"use_vllm": True}, max_new_tokens=9)
    words = training.sampling(config, processor)
    assert words["max_tokens"] == 9
    assert set(words["logit_bias"].values()) == {-100.0}
    plain = training.sampling(RunConfig(), processor)
    assert plain["max_new_tokens"] == 40
    assert list(words["logit_bias"]) == plain["suppress_tokens"]
    unchecked = {"use_vllm": True, "vllm_importance_sampling_correction": False}
    with pytest.raises(ValueError, match="leaves vLLM's rollouts unchecked"):
        training.trl_options(unchecked)
    with pytest.raises(ValueError, match="TRL's num_generations follows .*set --num-generations"):
        training.trl_options({"num_generations": 4})
