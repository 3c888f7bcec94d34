"""Two real processes train what one process trains, and a process that sees several GPUs takes one."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOConfig

from deepeyes_lite import training
from deepeyes_lite.tinyworld.dataset import tiny_world, training_questions
from deepeyes_lite.training import RunConfig, build_trainer, read_history

ROOT = Path(__file__).parents[2]
# ``accelerate launch`` starts one process where there is no GPU, however many are asked for.
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def short_run(out, micro_batch, launch=()):
    """The folder of a run of two steps, and how many processes made it."""
    config = {"model": str(ROOT / "data" / "tiny-eyes"), "steps": 2, "prompts_per_step": 4}
    config |= {"num_generations": 4, "save_steps": 1, "micro_batch": micro_batch}
    told = run(*launch, ROOT / "tests" / "two_processes.py", json.dumps(config), out)
    worlds = re.findall(r"process \d of (\d)", told)
    assert {int(world) for world in worlds} == {len(worlds)}
    return out, len(worlds)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    out, processes = short_run(tmp_path_factory.mktemp("one") / "run", 0)
    assert processes == 1
    return out


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [0, 1, 2])
def test_two_processes_train_what_one_trains(one_process, tmp_path, micro_batch):
    out, processes = short_run(tmp_path / "run", micro_batch, LAUNCH)
    assert processes == 2
    one, two = (read_history(folder / "history.csv") for folder in (one_process, out))
    assert [row["step"] for row in two] == [1, 2]
    for mine, other in zip(two, one):
        for name in ("loss", "grad_norm", "accuracy", "call_rate", "response_length"):
            assert mine[name] == pytest.approx(other[name], rel=1e-5, abs=1e-6), name
    assert one[0]["grad_norm"] > 0 and one[0]["call_rate"] == 0.25
    first, second = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one_process, out)
    )
    assert any(value.abs().max() > 1e-5 for name, value in first.items() if "lora_B" in name)
    for name, value in first.items():
        # Two steps of 1e-3 at most, of which the first are a fifth and two fifths.
        assert (second[name] - value).abs().max() < 1e-6, name
    assert (out / "checkpoints" / "checkpoint-2" / "complete").exists()


@pytest.mark.slow
def test_the_command_of_the_readme_trains_in_two_processes(tmp_path):
    (line,) = re.findall(
        r"^python (-m torch.distributed.run .*train .*)$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    tiny_world("train", 8).save_to_disk(tmp_path / "questions")
    out = tmp_path / "run"
    for word, small in [("24GB", "quick"), ("my-selection", str(tmp_path / "questions"))]:
        assert word in line
        line = line.replace(word, small)
    run(*shlex.split(line, comments=True), "--out", out)
    assert [row["step"] for row in read_history(out / "history.csv")] == [1, 2]
    assert (out / "adapter").exists()
    # The state of each process's random numbers.
    assert len([*(out / "checkpoints" / "checkpoint-2").glob("rng_state_*.pth")]) == 2


def test_a_process_that_sees_four_gpus_trains_on_one(random_eyes, tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("the GPUs are pretended")
    settings = training.machine_settings
    monkeypatch.setattr(training, "machine_settings", lambda *a: {**settings(*a), "use_cpu": False})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert GRPOConfig(str(tmp_path), bf16=False).n_gpu == 4  # TRL refuses to train on them
    config = RunConfig(steps=1, prompts_per_step=2, num_generations=2, model=str(random_eyes))
    trainer = build_trainer(config, tmp_path, training_questions(config))
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 4
    trainer.train()
    assert not isinstance(trainer.model_wrapped, torch.nn.DataParallel)
    assert trainer.state.global_step == 1
