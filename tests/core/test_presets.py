"""presets.py: the GPU presets hold together; options for TRL are read and passed on."""

import json
import warnings
from dataclasses import asdict, replace

import pytest

from deepeyes_lite import training
from deepeyes_lite.__main__ import _parser
from deepeyes_lite.commands.runs import config_of
from deepeyes_lite.realworld.gpu import SHAPES
from deepeyes_lite.training import PRESETS, RunConfig, options, preset

GPUS = [name for name in PRESETS if name.endswith("GB")]


def test_there_is_one_for_every_size():
    assert GPUS == ["8GB", "12GB", "16GB", "24GB", "40GB", "80GB"]
    assert PRESETS["demo"] == RunConfig()


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_preset_can_be_dealt_out(name):
    config = preset(name)
    assert config.num_generations >= 4 and config.gradient_checkpointing
    dealt = training.batches(config)
    rollouts = dealt["per_device_train_batch_size"] * dealt["gradient_accumulation_steps"]
    assert rollouts == config.prompts_per_step * config.num_generations
    assert json.loads(json.dumps(asdict(config))) == asdict(config)
    assert config.max_pixels >= SHAPES[config.model][0].min_pixels


def test_rollouts_are_dealt_out_to_processes(monkeypatch):
    config = RunConfig(prompts_per_step=4, num_generations=3)
    assert training.batches(config)["per_device_train_batch_size"] == 12
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training.batches(config)["per_device_train_batch_size"] == 6
    shares = training.batches(replace(config, micro_batch=2))
    assert shares == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="4 prompts a step cannot be dealt out to 3 processes"):
        training.batches(config)


@pytest.mark.parametrize("text", ["", "beta", "=1"])
def test_an_option_without_name_or_value_is_refused(text):
    with pytest.raises(ValueError, match="given as NAME=VALUE"):
        options([text])


def test_options_for_trl_come_from_the_command_line():
    arguments = ["train", "--preset", "24GB", "--trl", "beta=0.01", "--trl", "loss_type=grpo"]
    config, out = config_of(_parser().parse_args([*arguments, "--model", "m"]))
    assert config == replace(PRESETS["24GB"], model="m", trl={"beta": 0.01, "loss_type": "grpo"})
    assert str(out) == "runs/24GB-conditional-0"
    assert PRESETS["24GB"].trl == {}


def test_options_reach_trl(random_eyes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "precision", lambda: ("fp32", "a test"))
    config = RunConfig(model=str(random_eyes), prompts_per_step=2, num_generations=2, micro_batch=2)
    config = replace(config, trl={"max_grad_norm": 0.25, "epsilon": 0.3})
    trainer = training.build_trainer(config, tmp_path)
    args = trainer.args
    assert (args.max_grad_norm, trainer.epsilon_low) == (0.25, 0.3)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 2)


def test_vllm_comes_with_a_warning_and_its_own_words(processor):
    config = RunConfig(trl={"use_vllm": True}, max_new_tokens=9)
    with pytest.warns(UserWarning, match="TRL #6294: vLLM may expand the placeholders"):
        words = training.sampling(config, processor)
    assert words["max_tokens"] == 9
    assert set(words["logit_bias"].values()) == {-100.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = training.sampling(RunConfig(), processor)
    assert plain["max_new_tokens"] == 40
    assert list(words["logit_bias"]) == plain["suppress_tokens"]


def test_vllm_is_not_let_loose_unchecked():
    off = {"use_vllm": True, "vllm_importance_sampling_correction": False}
    with pytest.raises(ValueError, match="leaves vLLM's rollouts unchecked"):
        training.trl_options(off)
    assert training.trl_options({"use_vllm": True}) == {"use_vllm": True}
