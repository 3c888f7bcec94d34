"""low_contrast.py, two_tools.py: the second tool, new words, clumsy episodes, and what a record holds."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepeyes_lite import DATA, prompts
from deepeyes_lite.__main__ import main
from deepeyes_lite.boxes import View
from deepeyes_lite.models import environment_named, load
from deepeyes_lite.policies import Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study import low_contrast, two_tools
from deepeyes_lite.study.low_contrast import CONTRAST, KINDS
from deepeyes_lite.study.two_tools import WORDS, ZoomAndContrast, chosen, learn_words, stretched
from deepeyes_lite.tools import MAX_CALLS, ZOOM, answer_call
from deepeyes_lite.training import RunConfig, build_trainer, read_history
from trl_episode import trl_episode

RECORDS = sorted((DATA / "runs").glob("two-tools*/*-*"))


def noise(width, height):
    return Image.effect_noise((width, height), 20).convert("RGB")


def contrast(**arguments):
    return {"name": CONTRAST, "arguments": arguments}


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6))
ANYTHING = st.one_of(VALUES, st.lists(VALUES, max_size=4), st.binary(max_size=4))


@given(arguments=st.dictionaries(st.sampled_from(["image", "self", "", "label"]), ANYTHING))
def test_no_call_raises_and_no_image_exceeds_its_bounds(arguments):
    tool = ZoomAndContrast(Image.new("RGB", (2500, 40)))
    (part,) = answer_call(tool, {"name": CONTRAST, "arguments": arguments})
    assert part["text"].startswith("Error: ") if part["type"] == "text" else part["image"].size


def test_a_number_of_no_image_is_refused_in_words():
    for number in (1, -1, 10**30, True, 0.0, float("nan"), "0", None, [0], {}):
        tool = ZoomAndContrast(noise(64, 64))
        (part,) = answer_call(tool, contrast(image=number))
        assert part["text"] == "Error: image must be a whole number from 0 to 0"
        assert (tool.boxes_px, tool.refused) == ([], 1)
    for name in ("_changed", "_cut", "reset", "__init__", "boxes_px", ""):
        (part,) = answer_call(tool, {"name": name, "arguments": {}})
        assert part["text"].startswith("Error: there is no such tool; there is image_contrast_tool")


def test_both_tools_share_the_bound_on_calls_and_the_grey_control():
    tool = ZoomAndContrast(noise(384, 384))
    for number in range(MAX_CALLS):
        answer_call(tool, contrast()) if number % 2 else tool.image_zoom_in_tool([0, 0, 500, 500])
    (part,) = answer_call(tool, contrast())
    assert part["text"] == "Error: no calls left, the limit is 6; answer now"
    assert (len(tool.boxes_px), tool.refused) == (MAX_CALLS, 1)
    tool.reset(noise(384, 384))
    tool.blank = True
    (part,) = answer_call(tool, contrast())
    assert part["image"].getcolors() == [(384 * 384, (128, 128, 128))]


def pixels(content):
    (part,) = content
    return part["image"].tobytes()


def test_an_image_comes_back_stretched_and_a_zoom_into_it_is_cut_from_it():
    image = noise(800, 800)
    tool = ZoomAndContrast(image)
    assert pixels(answer_call(tool, contrast())) == stretched(image).tobytes() != image.tobytes()
    assert tool.boxes_px == [(0, 0, 800, 800)]
    box, box_px = [500, 0, 1000, 500], (400, 0, 800, 400)
    assert pixels(tool.image_zoom_in_tool(box, image=1)) == stretched(image).crop(box_px).tobytes()
    assert pixels(tool.image_zoom_in_tool(box)) == image.crop(box_px).tobytes()
    # A crop is stretched by its own tones, and keeps its place.
    tool = ZoomAndContrast(image)
    tool.image_zoom_in_tool([250, 500, 500, 750])
    crop = stretched(image.crop((200, 400, 400, 600)))
    assert pixels(answer_call(tool, contrast(image=1))) == crop.tobytes()
    part = tool.image_zoom_in_tool([500, 0, 1000, 500], image=2)
    assert tool.boxes_px[1:] == [(200, 400, 400, 600), (300, 400, 400, 500)]
    assert pixels(part) == crop.crop((100, 0, 200, 100)).tobytes()
    image = noise(2500, 1500)  # a large one is changed first and reduced afterwards
    tool = ZoomAndContrast(image, view=View(3136, 1280 * 784))
    (part,) = answer_call(tool, contrast())
    assert part["image"].size == (1288, 756)
    part = tool.image_zoom_in_tool([0, 0, 200, 100], image=1)
    assert pixels(part) == stretched(image).crop((0, 0, 500, 150)).tobytes()


CALL = "<think>I need to zoom in.</think>" + prompts.tool_call({}, CONTRAST)
ZOOM_IN = prompts.tool_call({"bbox_2d": [100, 200, 300, 400], "image": 1})
ANSWER = prompts.answer("I can read it.", "K")
SCRIPTS = {
    "contrast, then a zoom into it": [CALL, ZOOM_IN, ANSWER],
    "both in one turn": [CALL + ZOOM_IN, ANSWER],
    "no such image": [prompts.tool_call({"image": 7}, CONTRAST), ANSWER],
    "an argument that it has not": [prompts.tool_call({"level": 7}, CONTRAST), ANSWER],
}
ENVIRONMENT = "deepeyes_lite.study.two_tools.ZoomAndContrast"


def test_same_episode_as_trl(random_eyes, processor, samples, monkeypatch, tmp_path):
    assert environment_named(ENVIRONMENT) is ZoomAndContrast
    small = {"steps": 1, "prompts_per_step": 1, "num_generations": 2}
    config = RunConfig(model=str(random_eyes), environment=ENVIRONMENT, **small)
    counter = two_tools.tool_counter(processor.tokenizer, tmp_path / "tools.csv")
    trainer = build_trainer(config, tmp_path, samples, rewards={counter: 0.0})
    for name, script in SCRIPTS.items():
        policy = ScriptedPolicy(processor, script, ZoomAndContrast)
        (ours,) = rollout(samples.select([0]), policy, progress=False)
        theirs = trl_episode(trainer, samples[0], script, monkeypatch)
        for part in ("prompt_ids", "completion_ids", "loss_mask"):
            assert getattr(ours, part) == theirs[part], (name, part)
        assert len(ours.images) == theirs["images"] and len(ours.turns) == len(script), name
    system = processor.tokenizer.decode(ours.prompt_ids).split("<|im_end|>")[0]
    assert system == f"<|im_start|>system\nTools: {ZOOM}. {CONTRAST}."  # the zoom first
    # TRL showed the last script's two episodes to the counter.
    row = {"step": 1, "kind": "read", "tool": CONTRAST, "episodes": 2}
    assert two_tools.read_tools(tmp_path / "tools.csv") == [{**row, "correct": 2 * ours.correct}]


def test_a_new_word_is_one_token_that_starts_beside_a_known_one(samples):
    for init_noise in (0.0, 1.0):
        model, processor = load("tiny-eyes")
        tokenizer, size = processor.tokenizer, len(processor.tokenizer)
        question = samples[0]["question"], samples[0]["image"]
        prompt = Policy(processor).prompt_ids(*question)
        learn_words(model, tokenizer, WORDS, init_noise)
        assert len(tokenizer) == size + len(WORDS) == model.get_input_embeddings().num_embeddings
        rows = model.get_input_embeddings().weight
        for word, known in WORDS.items():
            new, old = tokenizer([word, known], add_special_tokens=False)["input_ids"]
            assert len(new) == len(old) == 1 and tokenizer.decode(new) == word
            distance, length = (rows[new] - rows[old]).norm(), rows[old].norm()
            assert torch.allclose(distance, init_noise * length, atol=1e-4)
        assert model.lm_head.weight is rows
        assert Policy(processor).prompt_ids(*question) == prompt  # nothing else is cut otherwise
    learn_words(model, tokenizer, WORDS)  # known by now
    assert len(tokenizer) == size + len(WORDS)
    with pytest.raises(ValueError, match="is 2 tokens of this tokenizer, not one"):
        learn_words(model, tokenizer, {"anything": "red square"})


def test_the_tool_of_a_trace_does_not_depend_on_the_scene_and_answers_are_only_what_is_shown():
    model, processor = load("tiny-eyes")
    learn_words(model, processor.tokenizer, WORDS)
    rows = list(low_contrast.questions("validation", 60))
    episodes = two_tools.traces(rows, processor)
    assert [t.sample["id"] for t in episodes] == [row["id"] for row in rows]
    calls = {kind: Counter() for kind in KINDS[:3]}
    for t in episodes:
        kind, tool = t.sample["kind"], chosen([turn.text for turn in t.turns])
        calls[kind][tool] += 1
        assert t.correct and t.well_formed and len(t.turns) == 1 + (tool != "none")
        answers = t.loss_mask[-1] == 1
        if kind == "faint":
            assert answers == (tool == CONTRAST)
        elif tool != ZOOM:
            assert answers == (kind == "plain")
        own = [id for id, mine in zip(t.completion_ids, t.loss_mask) if mine]
        learned = processor.tokenizer.decode(own)
        assert chosen([learned]) == tool and ("<answer>" in learned) == answers
    for kind, counts in calls.items():
        assert min(counts.values()) >= 9 and len(counts) == 3, (kind, counts)


ZOOMS, CONTRASTS = prompts.tool_call({"bbox_2d": [0, 0, 9, 9]}), prompts.tool_call({}, CONTRAST)


def test_chosen_reads_untrusted_text():
    assert chosen([]) == "none"
    assert chosen(["image_zoom_in_tool", '{"name": "image_zoom_in_tool"}']) == "none"
    assert chosen([ZOOMS, ZOOMS]) == ZOOM
    both = [ZOOMS, CONTRASTS]
    assert chosen(both) == chosen(both[::-1]) == f"{CONTRAST} + {ZOOM}"
    assert chosen(['<tool_call>{"name": "' + "x" * 10**6 + '"']) == "none"
    assert chosen(['<tool_call>{"name": "<b>"']) == "none"


def test_a_step_is_counted_by_kind_and_tool_and_once_if_it_is_done_twice(processor, tmp_path):
    path = tmp_path / "tools.csv"
    count = two_tools.tool_counter(processor.tokenizer, path)
    ids = processor.tokenizer([ZOOMS, ZOOMS, "K", CONTRASTS])["input_ids"]
    step = {"completion_ids": ids, "kind": ["small", "small", "plain", "small"]}
    outcomes = [SimpleNamespace(correct=correct) for correct in (True, False, True, False)]
    for done in (0, 1, 1):  # a kill came between
        zeros = count(outcomes, **step, trainer_state=SimpleNamespace(global_step=done))
        assert zeros == [0.0] * 4
    counts = [("plain", "none", 1, 1), ("small", CONTRAST, 1, 0), ("small", ZOOM, 2, 1)]
    rows = [dict(zip(("kind", "tool", "episodes", "correct"), values)) for values in counts]
    assert two_tools.read_tools(path) == [{"step": n, **row} for n in (1, 2) for row in rows]
    steps, shares = two_tools.curve([two_tools.read_tools(path)] * 2, "small", ZOOM)
    assert steps == [1, 2] and shares == pytest.approx([2 / 3, 2 / 3])


def test_a_tool_that_is_called_on_everything_is_not_chosen_for_anything():
    def report(**chosen):
        kinds = {k: {"chosen": calls, "accuracy": {"n": 30}} for k, calls in chosen.items()}
        return {"conditions": {"trained": kinds}}

    everywhere = report(small={CONTRAST: 30}, faint={CONTRAST: 30})
    apart = report(small={ZOOM: 28, CONTRAST: 2}, faint={CONTRAST: 30})
    text = two_tools.verdict([apart, everywhere])
    assert f"{ZOOM}: chosen for small questions in 1 of 2 runs" in text
    assert f"{CONTRAST}: chosen for faint questions in 1 of 2 runs" in text
    assert "0 of 1" in two_tools.verdict([everywhere])


def test_every_record_is_complete():
    assert len(RECORDS) == 9
    for folder in RECORDS:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["environment"] == ENVIRONMENT
        assert folder.name == f"{config['reward']}-{config['seed']}"
        steps = [*range(1, config["steps"] + 1)]
        assert [row["step"] for row in read_history(folder / "history.csv")] == steps
        rows, episodes = two_tools.read_tools(folder / two_tools.TOOLS), Counter()
        for row in rows:
            episodes[row["step"]] += row["episodes"]
        per_step = config["prompts_per_step"] * config["num_generations"]
        assert episodes == dict.fromkeys(steps, per_step)
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        assert set(report["conditions"]["trained"]) == set(KINDS) and two_tools.table(report)


def test_the_command_passes_on_what_is_given(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(two_tools, "run", lambda *a, **given: calls.append((a, given)))
    monkeypatch.setattr(two_tools, "table", lambda report: "a table")
    assert main(["two-tools"]) == main(["two-tools", "--init-noise", "0", "--seed", "2"]) == 0
    assert [given for _, given in calls] == [{}, {"init_noise": 0.0, "seed": 2}]
    assert calls[0][0] == (Path("runs/two-tools"), None) and "a table" in capsys.readouterr().out
