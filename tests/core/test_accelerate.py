"""``accelerate launch`` with two processes trains what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from deepeyes_lite.training import read_history

SCRIPT = Path(__file__).parents[1] / "two_processes.py"
LAUNCH = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    root = Path(__file__).parents[2]
    config = {"model": str(root / "data" / "tiny-eyes"), "steps": 2, "prompts_per_step": 4}
    config |= {"num_generations": 4, "save_steps": 1}
    outs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launch = [*LAUNCH, "--num_processes", str(processes)] if processes > 1 else []
        command = [sys.executable, *launch, str(SCRIPT), json.dumps(config), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(root), "TRL_EXPERIMENTAL_SILENCE": "1"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
        assert ran.returncode == 0, ran.stderr[-3000:]
        outs.append(out)
    one, two = (read_history(out / "history.csv") for out in outs)
    assert [row["step"] for row in two] == [1, 2]
    for mine, other in zip(two, one):
        for name in ("loss", "grad_norm", "accuracy", "call_rate", "response_length"):
            assert mine[name] == pytest.approx(other[name], rel=2e-3, abs=1e-5), name
    assert one[0]["grad_norm"] > 0
    first, second = (load_file(out / "adapter" / "adapter_model.safetensors") for out in outs)
    for name, value in first.items():
        # Two steps of 1e-3 at most: what is compared is their direction, weight by weight.
        assert (second[name] - value).abs().mean() < 2e-5, name
    assert (outs[1] / "checkpoints" / "checkpoint-2" / "complete").exists()
