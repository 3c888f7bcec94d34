"""data/tiny-eyes: what is shipped keeps the promises of its card."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepeyes_lite import prompts
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world, training_questions
from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN
from deepeyes_lite.training import RunConfig, read_history, train

EYES = Path(__file__).parents[2] / "data" / "tiny-eyes"
pytestmark = pytest.mark.skipif(
    not (EYES / "model.safetensors").exists(), reason="no data/tiny-eyes here"
)


@pytest.fixture(scope="module")
def card():
    return json.loads((EYES / "card.json").read_text())


@pytest.fixture(scope="module")
def eyes():
    return load(EYES)


def test_the_folder_is_small_and_its_weights_are_safe():
    files = [path for path in EYES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md", ".csv"}
    dtypes = {weight.dtype for weight in load_file(EYES / "model.safetensors").values()}
    assert dtypes == {torch.bfloat16}


PROMISES = {
    "crop_reading": (0.95, 1),
    "grounding_iou": (0.6, 1),
    "view_reading_legible": (0.8, 1),
    "view_reading_illegible": (0, 0.15),
    "format": (0.98, 1),
    "call_rate": (0.2, 0.5),
    "call_iou": (0, 0.3),
    "accuracy": (0, 0.55),
    "accuracy_illegible": (0, 0.2),
}


def test_the_card_keeps_the_promises(card):
    assert card["scenes"] >= 500 and card["split"] == "validation"
    mean = {n: f["mean"] for n, f in {**card, **card["rollout"]}.items() if n in PROMISES}
    for name, (low, high) in PROMISES.items():
        assert low <= mean[name] <= high, name
    assert 0.4 < card["rollout"]["accuracy_legible"]["n"] / card["scenes"] < 0.6


def test_a_measurement_here_agrees_with_the_card(card, eyes):
    """Fresh scenes, within four standard deviations of the card."""
    rows = list(tiny_world("validation", 100, start=1000))
    episodes = rollout(rows, LocalPolicy(*eyes), progress=False)
    called, correct = sum(t.called for t in episodes), sum(t.correct for t in episodes)
    for key, count in (("call_rate", called), ("accuracy", correct)):
        p = card["rollout"][key]["mean"]
        assert abs(count - 100 * p) <= 4 * (100 * p * (1 - p)) ** 0.5, key
    assert sum(t.well_formed for t in episodes) >= 94
    greedy = LocalPolicy(*eyes, tools=False, temperature=0.0)
    legible = [row for row in rows if row["legible"] == 1]
    read = sum(t.correct for t in rollout(legible, greedy, progress=False))
    p = card["view_reading_legible"]["mean"]
    assert abs(read - len(legible) * p) <= 4 * (len(legible) * p * (1 - p)) ** 0.5


def test_with_the_tool_off_it_answers_at_once(eyes):
    rows = list(tiny_world("validation", 16, start=2000))
    for t in rollout(rows, LocalPolicy(*eyes), tool="off", progress=False):
        assert len(t.turns) == 1 and not t.called and "<tool_call>" not in t.turns[0].text


def test_the_log_of_pretraining_has_the_stages_of_the_plan():
    with (EYES / "pretrain.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    last = {row["stage"]: int(row["step"]) for row in rows}
    assert list(last) == [stage.name for stage in PLAN]
    for stage in PLAN:
        assert stage.steps - 20 <= last[stage.name] < stage.steps  # a line every 20 steps


def test_its_chat_template_is_the_package_s(eyes):
    assert (EYES / "chat_template.jinja").read_text() == prompts.CHAT_TEMPLATE
    call = prompts.tool_call({"bbox_2d": [100, 200, 300, 400], "label": "red circle"})
    ids = eyes[1].tokenizer("<think>I need to zoom in.</think>" + call)["input_ids"]
    assert len(ids) <= 18


@pytest.mark.slow
def test_a_run_with_crops_killed_hard_ends_where_the_undisturbed_run_ends(tmp_path):
    """As in test_training.py, with a model that zooms and answers, so with the variant's own rewards."""
    config = RunConfig(
        model=str(EYES), steps=3, prompts_per_step=4, num_generations=4, save_steps=1
    )
    questions = training_questions(config)
    whole, out = train(config, tmp_path / "whole", questions), tmp_path / "run"
    arguments = json.dumps({**asdict(config), "varied": False})
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "killed_run.py"), arguments, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1"},
    )
    began = time.monotonic()
    while not (out / "history.csv").exists() or not read_history(out / "history.csv"):
        assert process.poll() is None and time.monotonic() - began < 600
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(config, out, questions)
    rows, expected = (read_history(run / "history.csv") for run in (out, whole))
    assert any(row["call_rate"] > 0 for row in expected) and any(
        row["grad_norm"] > 0 for row in expected
    )
    for row, other in zip(rows, expected, strict=True):
        row["step_time"] = other["step_time"] = 0.0
        assert row == pytest.approx(other, rel=1e-4, nan_ok=True)
    name = "adapter/adapter_model.safetensors"
    ours, theirs = load_file(out / name), load_file(whole / name)
    assert all(torch.allclose(ours[n], theirs[n], rtol=0, atol=1e-6) for n in theirs)


def test_a_blind_guess_is_no_skill():
    """The bar that illegible details are measured against: 1 of 12 letters."""
    answers = tiny_world("test", 300)["answer"][:]
    assert max(answers.count(letter) for letter in "ABCDEFHKLMNP") < 0.15 * len(answers)
