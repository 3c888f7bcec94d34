"""benchmarks.py: a policy that knows nothing scores what it should, and nothing is lost to a kill."""

import json
import math
import random
from functools import partial

import pytest
import torch
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

from deepeyes_lite import prompts
from deepeyes_lite.__main__ import main
from deepeyes_lite.boxes import px_to_1000
from deepeyes_lite.data import build, encode
from deepeyes_lite.evaluation import paired, share
from deepeyes_lite.files import read_log
from deepeyes_lite.options import LETTERS, split_options, with_options
from deepeyes_lite.policies import Policy, ScriptedPolicy
from deepeyes_lite.realworld.benchmarks import (
    CELLS,
    asked,
    benchmark,
    compare,
    published,
    summarise,
    table,
)
from deepeyes_lite.tinyworld.dataset import tiny_world

COLOURS = ["red", "green", "blue", "white"]
BOX = [8.0, 8.0, 40.0, 40.0]


def questions(n=12, images=None, source="V* Bench"):
    """Multiple choice as V* Bench has it: the first option is the right one."""

    def sample(i):
        image = Image.new("RGB", (64, 64))
        ImageDraw.Draw(image).point((i % (images or n), 0), fill="white")
        options = [COLOURS[i % 4], *(c for c in COLOURS if c != COLOURS[i % 4])]
        question = with_options("What colour is the flag?", options)
        row = {"id": f"q{i}", "question": question, "answer": "A", "options": options}
        row |= {"kind": ("direct_attributes", "relative_position")[i % 2], "boxes_px": [BOX]}
        row |= {"legible": -1, "source": source, "verifier": "choice"}
        return row | {"image": {"bytes": encode(image, "PNG"), "path": None}}

    return build(sample(i) for i in range(n))


class Stub(Policy):
    """Answers by a function of the row and of whether it has seen a crop; zooms first if it may."""

    def __init__(self, processor, answer, zoom=True, tools=True, dies_after=None):
        super().__init__(processor, tools)
        self.answer, self.zoom, self.dies_after, self.asked = answer, zoom, dies_after, 0

    def reply(self, trajectories, allow_calls=True):
        replies = []
        for t in trajectories:
            if self.dies_after is not None and self.asked >= self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            if self.zoom and self.tools and not t.turns:
                box = [round(v) for v in px_to_1000(tuple(BOX), t.images[0].size)]
                text = "<think>?</think>" + prompts.tool_call({"bbox_2d": box})
            else:
                text = prompts.answer("!", self.answer(t))
            ids = self.tokenizer(text + prompts.TURN_END, add_special_tokens=False)["input_ids"]
            replies.append(ids)
        return replies


def always_a(t):
    return "A"


def from_the_crop(t):
    """Right if it has seen a crop that is not grey."""
    crop = t.images[-1].getpixel((0, 0)) if t.called else None
    return t.sample["answer"] if crop not in (None, (128, 128, 128)) else "none"


def luck(t):
    return t.sample["answer"] if torch.rand(()) < 0.5 else "?"


def accuracy(report, cell="shuffled, tool on"):
    return report["cells"][cell]["accuracy"]["all"]["mean"]


ask = partial(benchmark, progress=False)


def test_a_shuffled_question_has_the_same_options_and_another_right_letter():
    rows = questions(40)
    letters = []
    for row in rows:
        new = asked(row, "shuffled", seed=0)
        stem, options = split_options(new["question"])
        assert (stem, sorted(options)) == ("What colour is the flag?", sorted(COLOURS))
        assert options == new["options"]
        assert options[LETTERS.index(new["answer"])] == row["options"][0]
        letters.append(new["answer"])
        assert asked(row, "shuffled", seed=0) == new and asked(row, "listed", seed=0) == row
    assert all(letters.count(letter) >= 3 for letter in "ABCD")
    assert [asked(row, "shuffled", seed=1)["answer"] for row in rows] != letters
    # An answer by its text stays, and options that look like markup of options are moved complete.
    assert asked({**rows[0], "answer": "red"}, "shuffled", seed=1)["answer"] == "red"
    options = ["A. B. C", "x\nB. y", ""]
    question = with_options("Which?\nA. one", options)
    row = {"id": "1", "question": question, "answer": "B", "options": options}
    new = asked(row, "shuffled", seed=3)
    assert new["question"] == with_options("Which?\nA. one", new["options"])
    assert new["options"][LETTERS.index(new["answer"])] == "x\nB. y"


def test_options_about_options_stay_in_place_and_a_list_in_any_style_stays_one_list():
    styles = ["Find x. A. {} B. {} C. {} D. {}", "Find x. (A) {} (B) {} (C) {} (D) {}. Choose one."]
    styles += ["Find x.\nA: {}\nB: {}\nC: {}\nD: {}\nAnswer with the letter."]
    styles += ["Find x. A) {}, B) {}, C) {}, or D) {}"]
    for style in styles:
        options = ["30", "45", "60", "All of the above"]
        row = {"id": "1", "question": style.format(*options), "answer": "B", "options": options}
        orders = set()
        for seed in range(40):
            new = asked(row, "shuffled", seed)
            orders.add(tuple(new["options"]))
            assert new["question"] == style.format(*new["options"])
            assert new["options"][3] == "All of the above"
            assert new["options"][LETTERS.index(new["answer"])] == "45"
        assert len(orders) == 6
    options = ["red", "blue", "white", "green", "Both A and B"]
    row = {"id": "1", "question": with_options("?", options), "answer": "E", "options": options}
    news = [asked(row, "shuffled", seed) for seed in range(20)]
    assert {tuple(new["options"]) for new in news} == {
        ("red", "blue", "white", "green", "Both A and B"),
        ("red", "blue", "green", "white", "Both A and B"),
    }
    assert {new["answer"] for new in news} == {"E"}


def test_a_policy_that_says_a_is_found_out(processor, tmp_path):
    policy = Stub(processor, always_a)
    report = ask(questions(24), policy, tmp_path)
    assert accuracy(report, "listed, tool on") == 1.0
    assert accuracy(report) < 0.6
    gap = report["paired_accuracy"]["shuffled, tool on minus listed, tool on"]
    assert gap["mean"] < 0 and gap["p"] < 0.01
    assert list(report["cells"]) == [f"{order}, tool {tool}" for order, tool in CELLS]
    for change in ({"seed": 1}, {"k": 2}):
        with pytest.raises(ValueError, match="holds another record"):
            ask(questions(24), policy, tmp_path, **change)
    with pytest.raises(ValueError, match="k is at least 1"):
        ask(questions(2), policy, tmp_path / "b", k=0)


def test_a_policy_that_reads_the_crop_needs_it(processor, tmp_path):
    report = ask(questions(12), Stub(processor, from_the_crop), tmp_path)
    assert accuracy(report) == accuracy(report, "listed, tool on") == 1.0
    assert accuracy(report, "shuffled, tool off") == accuracy(report, "shuffled, tool blank") == 0.0
    on, off = (report["cells"][f"shuffled, tool {tool}"] for tool in ("on", "off"))
    assert set(on["accuracy"]) == {"all", "direct_attributes", "relative_position"}
    assert (on["accuracy"]["direct_attributes"]["n"], on["accuracy"]["all"]["n"]) == (6, 12)
    assert (on["call_rate"]["mean"], on["valid_calls"]["mean"]) == (1.0, 1.0)
    assert on["call_iou"]["mean"] == pytest.approx(1.0, abs=0.02)
    assert off["call_rate"]["mean"] == 0.0 and math.isnan(off["call_iou"]["mean"])
    text = table(report)
    assert "shuffled, tool blank" in text and "12 questions of V* Bench; accuracy" in text
    ours, theirs = text.split("\n\n")
    rows = published(["V* Bench", "HR-Bench 4K", "HR-Bench 8K", "POPE"])
    assert len(rows) == 34 and all(row["protocol"] and row["source"] for row in rows)
    assert "90.1" in theirs and "90.1" not in ours and "Their protocols are not ours" in theirs


def test_a_cell_is_left_out_where_it_means_nothing(processor, tmp_path):
    policy = Stub(processor, always_a, tools=False)
    report = ask(questions(4), policy, tmp_path / "a")
    assert list(report["cells"]) == ["shuffled, tool off", "listed, tool off"]
    policy = ScriptedPolicy(processor, [prompts.answer("!", "K")])
    report = ask(tiny_world("test", 4), policy, tmp_path / "b")
    assert list(report["cells"]) == ["listed, tool on", "listed, tool off", "listed, tool blank"]
    assert "\n\n" not in table(report)  # nothing was published about them
    policy = ScriptedPolicy(processor, [prompts.answer("!", "something else")])
    judged = ask(questions(2), policy, tmp_path / "c", judge=lambda *_: True)
    assert accuracy(judged) == 1.0  # by the judge: the rules cannot tell


def test_k_answers_are_kept_and_averaged(processor, tmp_path):
    torch.manual_seed(0)
    report = ask(questions(10), Stub(processor, luck, zoom=False), tmp_path, k=4)
    identity, lines = read_log(tmp_path / "shuffled-on.jsonl")
    assert identity == {"order": "shuffled", "tool": "on", "k": 4, "seed": 0}
    assert [len(line["episodes"]) for line in lines] == [4] * 10
    right = [e["correct"] for line in lines for e in line["episodes"]]
    figure = report["cells"]["shuffled, tool on"]["accuracy"]["all"]
    assert figure["mean"] == pytest.approx(sum(right) / 40) and figure["n"] == 40
    assert figure["low"] < figure["mean"] < figure["high"]
    assert "Avg@4" in table(report)
    assert set(lines[0]["episodes"][0]) >= {"answer", "turns", "attempts", "boxes_px"}


def test_a_killed_benchmark_ends_where_the_undisturbed_one_ends(processor, tmp_path):
    rows = questions(6)
    whole = ask(rows, Stub(processor, luck), tmp_path / "a", batch_size=4)
    for dies_after in (5, 13):
        with pytest.raises(KeyboardInterrupt):
            policy = Stub(processor, luck, dies_after=dies_after)
            ask(rows, policy, tmp_path / "b", batch_size=4)
        assert not (tmp_path / "b" / "benchmark.json").exists()
    policy = Stub(processor, luck)
    again = ask(rows, policy, tmp_path / "b", batch_size=4)
    assert json.dumps(again) == json.dumps(whole)
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_text() == path.read_text()
    done = Stub(processor, luck, dies_after=0)
    assert json.dumps(ask(rows, done, tmp_path / "b")) == json.dumps(whole)


def line(image, corrects, id="q", calls=0):
    episode = {"well_formed": True, "attempts": 2 * calls, "boxes_px": [BOX] * calls, "ious": []}
    episodes = [{**episode, "correct": bool(c), "answer": "A", "turns": []} for c in corrects]
    return {"id": id, "kind": "k", "image": image, "question": "?", "episodes": episodes}


def test_four_copies_of_a_question_are_one_observation():
    rng = random.Random(0)
    right = [rng.random() < 0.8 for _ in range(50)]
    alone = summarise([line(str(i), [r]) for i, r in enumerate(right)])["accuracy"]["all"]
    copied = [line(str(i), [r]) for i, r in enumerate(right) for _ in range(4)]
    same = summarise(copied)["accuracy"]["all"]
    assert same["mean"] == pytest.approx(alone["mean"]) and same["n"] == 200
    # Not half as wide, as four times as many independent questions would make it.
    assert same["high"] - same["low"] > 0.8 * (alone["high"] - alone["low"])
    figures = summarise([line("a", [1], calls=3), line("b", [0], calls=1), line("c", [0])])
    assert (figures["valid_calls"]["mean"], figures["valid_calls"]["n"]) == (0.5, 8)
    assert figures["call_rate"]["mean"] == pytest.approx(2 / 3)


def test_two_runs_are_compared_where_they_were_asked_the_same(processor, tmp_path):
    rows = questions(12, images=4)
    for name, policy, seed in (
        ("a", Stub(processor, always_a), 0),
        ("b", Stub(processor, from_the_crop), 0),
        ("c", Stub(processor, always_a), 1),
    ):
        ask(rows, policy, tmp_path / name, seed=seed)
    differences = compare(tmp_path / "b", tmp_path / "a")
    assert set(differences) == {f"{order}, tool {tool}" for order, tool in CELLS}
    assert differences["shuffled, tool on"]["mean"] > 0.3
    assert differences["listed, tool on"]["mean"] == 0.0
    # Paired by image: each is asked about by three questions.
    assert differences["listed, tool on"]["n"] == 4
    with pytest.raises(ValueError, match="not asked the same"):
        compare(tmp_path / "c", tmp_path / "a")
    with pytest.raises(ValueError, match="no record in common"):
        compare(tmp_path / "a", tmp_path / "nowhere")


def test_the_command_asks_and_compares(random_eyes, tmp_path, capsys):
    questions(3).save_to_disk(tmp_path / "set")
    arguments = ["benchmark", "--data", str(tmp_path / "set"), "--model", str(random_eyes)]
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    assert main([*arguments, "--out", one]) == 0
    assert "3 questions of V* Bench" in capsys.readouterr().out
    assert main([*arguments, "--out", two, "--no-tool", "--against", one]) == 0
    text = capsys.readouterr().out
    assert "shuffled, tool off: +0.0" in text and "tool on" not in text
    for change, message in (
        (["--out", one, "--seed", "1"], "holds another run"),
        (["--out", str(tmp_path / "x"), "--k", "2", "--temperature", "0"], "all k answers are one"),
    ):
        assert main([*arguments, *change]) == 1
        assert message in capsys.readouterr().err


def test_the_command_asks_a_served_model_and_a_judge(faulty, tmp_path, capsys):
    """The served one says K, which is no option: the rules cannot tell, so the judge is asked."""
    rows = questions(3)
    rows.save_to_disk(tmp_path / "set")
    out = tmp_path / "served"
    arguments = ["benchmark", "--data", str(tmp_path / "set"), "--out", str(out)]
    served = ["--endpoint", f"{faulty}/parsed/v1", "--model", "m"]
    judge = ["--judge", f"{faulty}/judge/v1", "--judge-model", "j"]
    assert main([*arguments, *served, *judge]) == 0
    text = capsys.readouterr().out
    assert "3 questions of V* Bench" in text and "0 undecided, counted wrong" in text
    assert json.loads((out / "config.json").read_text())["judge"] == "j"
    keys = {row["key"] for row in read_log(out / "judge.jsonl")[1]}
    shown = [asked(row, order, 0) for row in rows for order in ("shuffled", "listed")]
    assert len(keys) == len({(row["question"], row["answer"]) for row in shown})
    assert main([*arguments, *served, *judge]) == 0  # nothing is left to ask
    assert "j judged 0 answers" in capsys.readouterr().out
    assert main([*arguments, *served]) == 1
    assert "holds another run" in capsys.readouterr().err


def detection(answers):
    """Lines of POPE: answers as letters of yes, no and what is neither, to truths yes and no by turns."""
    texts = {"y": "Yes, there is.", "n": "**No**", "?": "There may be."}
    lines = []
    for i, answer in enumerate(answers):
        truth = ("yes", "no")[i % 2]
        correct = {"y": "yes", "n": "no"}.get(answer) == truth
        episode = {"well_formed": True, "attempts": 0, "boxes_px": [], "ious": [], "turns": []}
        episode |= {"correct": correct, "answer": texts[answer]}
        row = {"id": str(i), "kind": "random", "image": str(i), "question": "Is there a dog?"}
        lines.append({**row, "truth": truth, "episodes": [episode]})
    return lines


def test_pope_has_its_own_four_figures():
    figures = summarise(detection("ynyyn??n"))["yes_no"]
    means = {name: figure["all"]["mean"] for name, figure in figures.items()}
    assert means == {
        "f1": pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)),
        "precision": pytest.approx(2 / 3),
        "recall": 0.5,  # no answer is none found
        "yes_ratio": 0.375,
    }
    assert figures["precision"]["random"]["n"] == 3
    assert all(figure["all"]["low"] < figure["all"]["mean"] for figure in figures.values())
    nothing = summarise(detection("nnnn"))["yes_no"]
    assert math.isnan(nothing["precision"]["all"]["mean"]) and nothing["f1"]["all"]["mean"] == 0
    assert "yes_no" not in summarise([line("a", [1])])
    judged = detection("?n")
    judged[0]["episodes"][0]["correct"] = True  # by the judge
    assert summarise(judged)["yes_no"]["recall"]["all"]["mean"] == 1.0


def test_nothing_of_many_is_not_known_to_be_nothing():
    lines = [line(str(i // 4), [0]) for i in range(16)]  # HR-Bench: four questions an image
    accuracy = summarise(lines)["accuracy"]["all"]
    assert (accuracy["mean"], accuracy["low"], accuracy["n"]) == (0.0, 0.0, 16)
    assert accuracy["high"] == pytest.approx(share(0, 4)["high"]) and accuracy["high"] > 0.4
    every = summarise([line(str(i // 4), [1]) for i in range(16)])["accuracy"]["all"]
    assert (every["high"], every["low"]) == (1.0, pytest.approx(share(4, 4)["low"]))
    same = paired([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    assert same["high"] == -same["low"] == share(0, 3)["high"]


def test_the_table_of_pope_shows_them(processor, tmp_path):
    columns = {"options": [], "verifier": "yes_no", "source": "POPE", "kind": "random"}
    rows = [
        {**row, **columns, "question": "Is there a dog?", "answer": ("yes", "no")[i % 2]}
        for i, row in enumerate(questions(4).cast_column("image", ImageFeature(decode=False)))
    ]
    report = ask(build(rows), Stub(processor, lambda t: "Yes.", zoom=False), tmp_path)
    text = table(report)
    assert "listed, tool on, f1" in text and "67 %" in text and "listed, tool on, yes ratio" in text
