"""Shared pieces: a tiny model with random weights, and rows of the tiny world."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# The same examples on every run, and no deadline: a test that fails on a busy machine says nothing.
settings.register_profile("repository", deadline=None, derandomize=True, database=None)
settings.load_profile("repository")
# Made at once: urllib keeps the proxies that the environment has at its first request.
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="session")
def random_eyes(tmp_path_factory):
    """Folder of a tiny-eyes with random weights and a real tokenizer."""
    from deepeyes_lite.tinyworld.model import build_model, build_processor, train_tokenizer
    from deepeyes_lite.tinyworld.pretraining.lessons import corpus

    folder = tmp_path_factory.mktemp("eyes")
    tokenizer = train_tokenizer(corpus(200, seed=0))
    build_model(tokenizer).to(torch.bfloat16).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processor(random_eyes):
    from deepeyes_lite.models import load

    return load(random_eyes)[1]


@pytest.fixture(scope="session")
def samples():
    from deepeyes_lite.tinyworld.dataset import tiny_world

    return tiny_world("test", 8)


@pytest.fixture(scope="session")
def finished_run(random_eyes, tmp_path_factory):
    """A run folder as `train` leaves it, from random weights; copy it before changing it."""
    import json
    from dataclasses import asdict

    from deepeyes_lite.tinyworld.dataset import training_questions
    from deepeyes_lite.training import HISTORY_COLUMNS, RunConfig, build_trainer, write_history

    out = tmp_path_factory.mktemp("runs") / "finished"
    out.mkdir()
    config = RunConfig(model=str(random_eyes), steps=2, prompts_per_step=1, num_generations=2)
    (out / "config.json").write_text(json.dumps(asdict(config)))
    row = {name: 0.5 for name in HISTORY_COLUMNS} | {"n_zoom": 1, "n_direct": 1}
    write_history([{**row, "step": step} for step in (1, 2)], out / "history.csv")
    build_trainer(config, out, training_questions(config)).model.save_pretrained(out / "adapter")
    return out


@pytest.fixture(scope="session")
def faulty():
    """Address of a server process that fails in the way its path names (`faulty_server.py`)."""
    script = Path(__file__).with_name("faulty_server.py")
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


@pytest.fixture
def asked(faulty):
    """What that server was asked in a mode: for each request the key and the body."""
    import json

    def read(mode):
        with NO_PROXY.open(f"{faulty}/{mode}/log", timeout=10) as response:
            return json.load(response)

    return read
