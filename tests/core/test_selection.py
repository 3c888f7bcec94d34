"""selection.py: what is kept is worth training on, and a killed measurement goes on."""

import json
import math

import pytest
import torch

from deepeyes_lite import prompts
from deepeyes_lite.boxes import iou
from deepeyes_lite.data import FEATURES
from deepeyes_lite.policies import OracleZoomPolicy, Policy, ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.selection import (
    difficulty,
    kept,
    open_ended,
    report,
    table,
    tool_benefit,
    verifiable,
)
from deepeyes_lite.tinyworld.dataset import tiny_world


class Dice(Policy):
    """Right with a probability of each question's own; calls are as it is told."""

    def __init__(self, processor, chances, with_crop=None):
        super().__init__(processor)
        self.chances, self.with_crop, self.asked = chances, with_crop, 0

    def reply(self, trajectories, allow_calls=True):
        replies = []
        for t in trajectories:
            self.asked += 1
            chance = self.chances[t.sample["id"]]
            if self.with_crop is not None and t.called:
                chance = self.with_crop[t.sample["id"]]
            right = torch.rand(()).item() < chance
            text = prompts.answer("!", t.sample["answer"] if right else "?") + prompts.TURN_END
            replies.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return replies


@pytest.fixture(scope="module")
def rows():
    return tiny_world("train", 30)


@pytest.fixture
def chances(rows):
    return {id: (0.0, 0.5, 1.0)[i % 3] for i, id in enumerate(rows["id"])}


# --- difficulty ---------------------------------------------------------------------------------


def test_questions_that_are_always_or_never_correct_are_dropped(rows, chances, processor):
    measured = difficulty(rows, Dice(processor, chances), k=8)
    reasons = {0.0: "never right", 1.0: "always right"}
    for chance, rate, dropped in zip(
        chances.values(), measured["pass_rate"], measured["dropped"], strict=True
    ):
        assert dropped == reasons.get(rate, "") and rate * 8 == int(rate * 8)
        assert chance == 0.5 or rate == chance
    assert len(kept(measured)) >= 8  # 2 * 0.5 ** 8: of 128 even chances one is dropped
    assert measured.column_names[: len(FEATURES)] == list(FEATURES)
    assert list(measured["id"]) == list(rows["id"])


def test_a_killed_measurement_ends_as_the_undisturbed_one(rows, chances, processor, tmp_path):
    record, path = tmp_path / "undisturbed.jsonl", tmp_path / "run.jsonl"
    undisturbed = difficulty(rows, Dice(processor, chances), 4, record=record)
    text = record.read_text()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 31
    for cut in (len(text), len(text) - 5, len("".join(lines[:20])) + 3, len(lines[0]) - 4, 0):
        path.write_text(text[:cut])
        policy = Dice(processor, chances)
        again = difficulty(rows, policy, 4, record=path)
        assert list(again["pass_rate"]) == list(undisturbed["pass_rate"])
        assert path.read_text() == text
        assert policy.asked < 4 * len(rows) or cut <= len(text) / 2
        assert cut < len(text) or policy.asked == 0


def test_a_record_of_another_measurement_is_refused(rows, chances, processor, tmp_path):
    path, policy = tmp_path / "record.jsonl", Dice(processor, chances)
    few = rows.select(range(4))
    difficulty(few, policy, k=4, record=path)
    for other, changes in [(few, {"k": 8}), (few, {"seed": 1}), (rows.select(range(5, 9)), {})]:
        with pytest.raises(ValueError, match="choose another file or delete it"):
            difficulty(other, policy, **{"k": 4, "record": path, **changes})
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="record.jsonl"):
        difficulty(rows, policy, record=path)
    assert path.read_text() == "hello\n"


def test_what_is_dropped_is_not_measured_again(rows, chances, processor):
    policy = Dice(processor, chances)
    once = difficulty(rows, policy, k=4)
    left, policy.asked = len(kept(once)), 0
    twice = difficulty(once, policy, k=2)
    assert policy.asked == 2 * left
    for before, now, rate in zip(once["dropped"], twice["dropped"], twice["pass_rate"]):
        assert math.isnan(rate) == bool(before) and (not before or now == before)


# --- the benefit of the tool --------------------------------------------------------------------


def test_only_what_the_crop_makes_correct_is_kept(rows, processor):
    view = {id: float(i % 4 >= 2) for i, id in enumerate(rows["id"])}
    crop = {id: float(i % 2) for i, id in enumerate(rows["id"])}
    measured = tool_benefit(rows, Dice(processor, view, crop))
    reasons = ["wrong even with the crop", "", "right from the view", "right from the view"]
    assert measured["dropped"][:8] == reasons * 2
    assert measured["right_from_view"][:4] == [0, 0, 1, 1]
    assert measured["right_with_crop"][:4] == [0, 1, 0, 1]
    policy = Dice(processor, dict.fromkeys(rows["id"], 1.0))
    unmeasured = tool_benefit(rows.map(lambda row: {"boxes_px": []}), policy)
    assert policy.asked == 0 and set(unmeasured["dropped"]) == {""}
    assert set(unmeasured["right_from_view"]) == {-1}


def test_the_oracle_zooms_to_the_targets(rows, processor):
    row = dict(rows[0], boxes_px=[[10.0, 20.0, 70.0, 80.0], [200.0, 210.0, 260.0, 280.0]])
    policy = OracleZoomPolicy(ScriptedPolicy(processor, [""] * 2 + [prompts.answer("!", "K")]))
    (episode,) = rollout([row], policy, progress=False)
    assert [len(turn.boxes_px) for turn in episode.turns] == [1, 1, 0]
    for box, target in zip(episode.boxes_px, row["boxes_px"]):
        assert box == pytest.approx(target, abs=3.84)
        assert iou(box, target) > 0.85
        assert all(a <= b for a, b in zip(box[:2], target[:2]))
        assert all(a >= b for a, b in zip(box[2:], target[2:]))
    assert len(episode.images) == 3 and episode.answer == "K" and episode.well_formed


# --- rules --------------------------------------------------------------------------------------


def changed(rows, **columns):
    return rows.select([0]).map(lambda row: columns)


def test_an_answer_that_no_rule_can_check_is_dropped(rows):
    reasons = dict.fromkeys(["K", "dark blue", "12.5"], "") | {"": "no answer", " .!": "no answer"}
    reasons["Unknown."] = "says that there is no answer"
    reasons["because the man in the red hat waves"] = "answer too long for a rule"
    for answer, reason in reasons.items():
        assert list(verifiable(changed(rows, answer=answer))["dropped"]) == [reason]


def test_multiple_choice_becomes_an_open_question_unless_it_leans_on_its_options(rows):
    senseless, none = "makes no sense without its options", "answer is none of the options"
    for question, answer, expected in [
        ("What is it?\nA. a cup\nB. a hat", "A", ("What is it?", "a cup", "")),
        ("What is it? (A) a cup (B) a hat", "(b)", ("What is it?", "a hat", "")),
        ("What is it? A) a cup B) a hat.", "A hat", ("What is it?", "a hat", "")),
        ("What is it?", "a cup", ("What is it?", "a cup", "")),
        ("Who is A. Smith?", "an actor", ("Who is A. Smith?", "an actor", "")),
        ("Which of the following is red? A. cup B. hat", "A", senseless),
        ("What is red? A. cup B. all of the above", "B", senseless),
        ("A. cup B. hat", "B", senseless),
        ("What is red? A. cup B. hat", "C", none),
        ("What is red? A. cup B. hat", "", none),
    ]:
        (row,) = open_ended(changed(rows, question=question, answer=answer)).to_list()
        if isinstance(expected, str):
            expected = (question, answer, expected)
        assert (row["question"], row["answer"], row["dropped"]) == expected
        assert [*row] == [*FEATURES, "dropped"]


# --- the report ---------------------------------------------------------------------------------


def test_the_report_counts_what_was_planted(rows, processor):
    corrupted = {"wrong label": 0.3, "unanswerable": 0.3}
    planted = tiny_world("train", 40, corrupted=corrupted)
    bad = [source != "tiny-world" for source in planted["source"]]
    assert 10 < sum(bad) < 38
    chances = {id: 0.0 if is_bad else 0.5 for id, is_bad in zip(planted["id"], bad)}
    figures = report(difficulty(planted, Dice(processor, chances)))
    assert figures["questions"] == 40
    assert figures["kept"] == 40 - sum(bad) - figures["innocent_dropped"]
    assert set(figures["planted"]) == {f"tiny-world, planted: {how}" for how in corrupted}
    assert sum(counts["caught"] for counts in figures["planted"].values()) == sum(bad)
    assert all(counts["missed"] == 0 for counts in figures["planted"].values())
    total = sum(drop["count"] for drop in figures["dropped"].values())
    assert total + figures["kept"] == 40
    assert all(1 <= len(drop["examples"]) <= 3 for drop in figures["dropped"].values())
    assert json.loads(json.dumps(figures)) == figures
    assert f"{figures['kept']} of 40" in table(figures) and "caught" in table(figures)
    nothing = report(verifiable(rows))  # no filter has dropped anything
    assert (nothing["kept"], nothing["dropped"], nothing["planted"]) == (30, {}, {})
