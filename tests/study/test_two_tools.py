"""faint.py and two_tools.py: faint scenes, new words, clumsy episodes, and what a record holds."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from deepeyes_lite.study.extra_tools import stretched
from PIL import Image

from deepeyes_lite.__main__ import main
from deepeyes_lite.models import load
from deepeyes_lite.policies import Policy
from deepeyes_lite.study import low_contrast, tool_use, two_tools
from deepeyes_lite.study.low_contrast import CONTRAST, KINDS, WORDS
from deepeyes_lite.tools import ZOOM
from deepeyes_lite.training import read_history

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "data/runs").glob("two-tools*/*-*"))
SHIPPED = ROOT / "data/tiny-eyes"


@pytest.fixture(scope="module")
def asked():
    return low_contrast.questions("validation", 8, KINDS)


def test_each_kind_differs_in_what_it_says(asked):
    assert list(asked["kind"]) == list(KINDS) * 8
    assert len(set(asked["id"])) == len(asked)
    for row in asked:
        low, high = (band for band in zip(*row["image"].getextrema()))
        squeezed = max(high) - min(low) < low_contrast.LEVELS
        assert squeezed == ("faint" in row["kind"])
        assert row["legible"] == (row["kind"] == "plain")


def test_stretching_brings_back_what_is_left_of_a_faint_scene(asked):
    scene = next(row["image"] for row in asked if row["kind"] == "plain")
    back = np.asarray(stretched(low_contrast.faint(scene)), float)
    wanted = np.asarray(scene, float)
    assert np.corrcoef(back.ravel(), wanted.ravel())[0, 1] > 0.95
    assert len(np.unique(back)) <= low_contrast.LEVELS


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_a_new_word_is_one_token_that_starts_beside_a_known_one(apart):
    model, processor = load(SHIPPED, extra_tool="contrast")
    tokenizer, before = processor.tokenizer, len(processor.tokenizer)
    low_contrast.learn_words(model, tokenizer, WORDS, apart)
    assert len(tokenizer) == before + len(WORDS) == model.get_input_embeddings().num_embeddings
    rows = model.get_input_embeddings().weight
    for word, like in WORDS.items():
        (new,), (old,) = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, like)
        )
        assert tokenizer.decode([new]) == word and torch.allclose(
            (rows[new] - rows[old]).norm(), apart * rows[old].norm(), atol=1e-4
        )
    assert model.lm_head.weight is rows
    low_contrast.learn_words(model, tokenizer, WORDS)  # known by now
    assert len(tokenizer) == before + len(WORDS)
    with pytest.raises(ValueError, match="is 2 tokens of this tokenizer, not one"):
        low_contrast.learn_words(model, tokenizer, {"anything": "red square"})


def test_the_old_prompts_are_as_they_were(samples):
    """New words do not change how anything else is cut into tokens."""
    model, processor = load(SHIPPED)
    row = samples[0]
    before = Policy(processor).prompt_ids(row["question"], row["image"])
    low_contrast.learn_words(model, processor.tokenizer, WORDS)
    assert Policy(processor).prompt_ids(row["question"], row["image"]) == before


def test_the_tool_of_a_trace_does_not_depend_on_the_scene_and_answers_are_only_what_is_shown():
    model, processor = load(SHIPPED, extra_tool="contrast")
    low_contrast.learn_words(model, processor.tokenizer, WORDS)
    rows = list(low_contrast.questions("validation", 60))
    found = low_contrast.traces(rows, processor)
    assert [t.sample["id"] for t in found] == [row["id"] for row in rows]
    calls = {kind: Counter() for kind in KINDS[:3]}
    for t in found:
        tool = tool_use.chosen([turn.text for turn in t.turns])
        calls[t.sample["kind"]][tool] += 1
        assert t.correct and t.well_formed and len(t.turns) == 1 + (tool != "none")
        answers = t.loss_mask[-1] == 1
        if t.sample["kind"] == "faint":
            assert answers == (tool == CONTRAST)
        if t.sample["kind"] == "small" and tool != ZOOM:
            assert not answers
        if t.sample["kind"] == "plain" and tool != ZOOM:
            assert answers
        if tool == CONTRAST:
            own = [i for i, mine in zip(t.completion_ids, t.loss_mask) if mine]
            assert len(own) in (7, 12) or answers
    for kind, counted in calls.items():
        assert min(counted.values()) >= 9 and len(counted) == 3, (kind, counted)


def test_figures_by_kind_and_the_table():
    class Fake:
        def __init__(self, kind, correct, *turns):
            self.sample, self.correct = {"kind": kind}, correct
            self.turns = [type("T", (), {"text": text})() for text in turns]

    zooms = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {}}</tool_call>'
    episodes = [
        Fake("small", True, zooms, "K"),
        Fake("small", False, "K"),
        Fake("plain", True, "K"),
    ]
    found = two_tools.by_kind(episodes)
    assert found["small"]["chosen"] == {ZOOM: 1, "none": 1}
    assert found["small"]["accuracy"]["mean"] == 0.5 and found["plain"]["accuracy"]["n"] == 1
    assert two_tools.called(found, "small", ZOOM)["mean"] == 0.5
    text = two_tools.table({"samples": 2, "conditions": {"trained": found}})
    assert re.search(r"trained +small +50 % .* 50% +50% +0% +0%", text)


def test_a_tool_that_is_called_on_everything_is_not_chosen_for_anything():
    def report(small, faint_):
        kinds = {"small": {"chosen": small}, "faint": {"chosen": faint_}}
        for found in kinds.values():
            found["accuracy"] = {"n": 30}
        return {"conditions": {"trained": kinds}}

    everywhere = report({CONTRAST: 30}, {CONTRAST: 30})
    text = two_tools.verdict([report({ZOOM: 28, CONTRAST: 2}, {CONTRAST: 30}), everywhere])
    assert f"{ZOOM}: chosen for small questions in 1 of 2 runs" in text
    assert f"{CONTRAST}: chosen for faint questions in 1 of 2 runs" in text
    assert "0 of 1" in two_tools.verdict([everywhere])


@pytest.mark.parametrize("folder", RECORDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_record_is_whole(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (
        config["extra_tool"] == "contrast" and folder.name == f"{config['reward']}-{config['seed']}"
    )
    steps = [*range(1, config["steps"] + 1)]
    assert [row["step"] for row in read_history(folder / "history.csv")] == steps
    counted = tool_use.read(folder / tool_use.FILE)
    assert sorted({row["step"] for row in counted}) == steps
    per_step = config["prompts_per_step"] * config["num_generations"]
    assert all(sum(r["episodes"] for r in counted if r["step"] == s) == per_step for s in steps)
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report["conditions"]["trained"]) == set(KINDS) and two_tools.table(report)


def test_photos_are_what_their_readme_says():
    folder = ROOT / "data/photos"
    text = (folder / "README.md").read_text(encoding="utf-8")
    photos = sorted(folder.glob("*.jpg"))
    assert len(photos) == 4
    for path in photos:
        data = path.read_bytes()
        (line,) = re.findall(rf"\| `{path.name}` \| (\d+) × (\d+) \| `(\w+)`", text)
        assert len(data) <= 100_000 and hashlib.sha256(data).hexdigest() == line[2]
        with Image.open(path) as image:
            assert image.size == (int(line[0]), int(line[1]))


def test_the_command_passes_on_what_is_given(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(two_tools, "run", lambda *a, **given: asked.append((a, given)))
    monkeypatch.setattr(two_tools, "table", lambda report: "a table")
    assert main(["two-tools"]) == main(["two-tools", "--apart", "0", "--seed", "2"]) == 0
    assert [given for _, given in asked] == [{}, {"apart": 0.0, "seed": 2}]
    assert asked[0][0] == (Path("runs/two-tools"), None) and "a table" in capsys.readouterr().out
