"""publishing.py: a merged model is the trained one, and its card has the run's own figures."""

import shutil

import pytest
import torch

from deepeyes_lite.evaluation import evaluate_run
from deepeyes_lite.models import load
from deepeyes_lite.realworld.publishing import card, merge
from deepeyes_lite.training import load_trained


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_merged_model_is_the_trained_one(run, random_eyes, tmp_path):
    to = merge(run, tmp_path / "merged")
    ours, processor = load(to)
    theirs, base = load_trained(run)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name
    assert processor.chat_template == base.chat_template
    assert (to / "README.md").read_text() == card(run)
    assert not (tmp_path / "merged.tmp").exists()
    for name in ("processor_config.json", "tokenizer.json"):  # an ordinary checkpoint, as its base
        assert (to / name).read_bytes() == (random_eyes / name).read_bytes()


def test_nothing_is_written_over_and_an_unfinished_run_is_refused(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there is there already; choose another folder"):
        merge(run, tmp_path / "there")
    shutil.rmtree(run / "adapter")
    with pytest.raises(FileNotFoundError, match="no adapter in .*; finish the run with `train"):
        merge(run, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_the_card_says_what_was_measured_and_what_was_not(run, samples):
    text = card(run)
    assert "\nlibrary_name: transformers\n" in text
    assert "\nlibrary_name: peft\n" in card(run, "peft")
    assert text.startswith("---\nbase_model: ") and "Not evaluated." in text
    assert "after 2 steps of GRPO with LoRA (rank 16), reward variant `conditional`" in text
    evaluate_run(run, samples)
    assert "Not evaluated." not in card(run) and "8 held-out scenes" in card(run)
