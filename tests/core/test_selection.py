"""selection.py: what is kept is worth training on, and a killed measurement goes on."""

import json
import math

import pytest
import torch

from deepeyes_lite import prompts, selection
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


def test_questions_that_are_always_or_never_right_are_dropped(rows, chances, processor):
    found = difficulty(rows, Dice(processor, chances), k=8)
    for i, (rate, reason) in enumerate(zip(found["pass_rate"], found["dropped"])):
        assert (rate, reason) == ((0.0, "never right"), None, (1.0, "always right"))[i % 3] or (
            i % 3 == 1 and reason == {0.0: "never right", 1.0: "always right"}.get(rate, "")
        )
        assert rate * 8 == int(rate * 8)
    assert len(kept(found)) >= 8  # 2 * 0.5 ** 8: an even chance gives one that is dropped in 128
    assert found.column_names[: len(FEATURES)] == list(FEATURES)
    assert list(found["id"]) == list(rows["id"])


def test_a_pass_rate_estimates_the_chance(rows, processor):
    found = difficulty(rows, Dice(processor, dict.fromkeys(rows["id"], 0.3)), k=32)
    n = 32 * len(rows)
    assert abs(sum(found["pass_rate"]) * 32 - 0.3 * n) <= 4 * (n * 0.3 * 0.7) ** 0.5


def test_a_killed_measurement_ends_as_the_undisturbed_one(rows, chances, processor, tmp_path):
    whole = difficulty(rows, Dice(processor, chances), 4, record=tmp_path / "whole.jsonl")
    text = (tmp_path / "whole.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 31
    for cut in (len(text) - 5, len("".join(lines[:20])) + 3, len(lines[0]) - 4, 0):
        path = tmp_path / "run.jsonl"
        path.write_text(text[:cut])
        policy = Dice(processor, chances)
        again = difficulty(rows, policy, 4, record=path)
        assert list(again["pass_rate"]) == list(whole["pass_rate"])
        assert path.read_text() == text
        if cut > len(text) / 2:
            assert policy.asked < 4 * len(rows)
    policy = Dice(processor, chances)
    difficulty(rows, policy, 4, record=tmp_path / "whole.jsonl")
    assert policy.asked == 0


@pytest.mark.parametrize("change", [{"k": 8}, {"seed": 1}])
def test_a_record_of_another_measurement_is_refused(rows, chances, processor, tmp_path, change):
    path = tmp_path / "record.jsonl"
    difficulty(rows.select(range(4)), Dice(processor, chances), k=4, record=path)
    with pytest.raises(ValueError, match="holds another record"):
        difficulty(rows, Dice(processor, chances), **{"k": 4, "record": path, **change})
    with pytest.raises(ValueError, match="holds another record"):
        difficulty(rows.select(range(5, 9)), Dice(processor, chances), k=4, record=path)


def test_a_record_that_is_no_record_is_refused_with_its_name(rows, chances, processor, tmp_path):
    path = tmp_path / "record.jsonl"
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="record.jsonl"):
        difficulty(rows, Dice(processor, chances), record=path)
    assert path.read_text() == "hello\n"


def test_what_is_dropped_is_not_measured_again(rows, chances, processor):
    policy = Dice(processor, chances)
    once = difficulty(rows, policy, k=4)
    left, policy.asked = len(kept(once)), 0
    twice = difficulty(once, policy, k=2)
    assert policy.asked == 2 * left
    for rate, reason in zip(twice["pass_rate"], once["dropped"]):
        assert math.isnan(rate) == bool(reason)
    assert [r for r in once["dropped"] if r] == [
        now for now, before in zip(twice["dropped"], once["dropped"]) if before
    ]


def test_a_bar_is_shown_unless_it_is_not_wanted(rows, chances, processor, capsys):
    few = rows.select(range(4))
    for measure in (difficulty, tool_benefit):
        measure(few, Dice(processor, chances))
        assert measure.__name__ in capsys.readouterr().err
        measure(few, Dice(processor, chances), progress=False)
        assert capsys.readouterr().err == ""


# --- the benefit of the tool --------------------------------------------------------------------


def test_only_what_the_crop_makes_right_is_kept(rows, processor):
    view = {id: float(i % 4 >= 2) for i, id in enumerate(rows["id"])}
    crop = {id: float(i % 2) for i, id in enumerate(rows["id"])}
    found = tool_benefit(rows, Dice(processor, view, crop))
    reasons = ["wrong even with the crop", "", "right from the view", "right from the view"]
    assert found["dropped"][:8] == reasons * 2
    assert found["right_from_view"][:4] == [0, 0, 1, 1]
    assert found["right_with_crop"][:4] == [0, 1, 0, 1]


def test_rows_without_target_boxes_pass_unmeasured(rows, processor):
    boxless = rows.map(lambda row: {"boxes_px": []})
    policy = Dice(processor, dict.fromkeys(rows["id"], 1.0))
    found = tool_benefit(boxless, policy)
    assert policy.asked == 0 and set(found["dropped"]) == {""}
    assert set(found["right_from_view"]) == {-1}


def test_the_shown_targets_are_the_crops_of_the_targets(rows, processor):
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


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("K", ""),
        ("dark blue", ""),
        ("12.5", ""),
        ("", "no answer"),
        (" .!", "no answer"),
        ("Unknown.", "says that there is no answer"),
        ("because the man in the red hat waves", "answer too long for a rule"),
    ],
)
def test_an_answer_that_no_rule_can_check_is_dropped(rows, answer, reason):
    found = verifiable(rows.select([0]).map(lambda row: {"answer": answer}))
    assert list(found["dropped"]) == [reason]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("What is it?\nA. a cup\nB. a hat", "A", ("What is it?", "a cup", "")),
        ("What is it? (A) a cup (B) a hat", "(b)", ("What is it?", "a hat", "")),
        ("What is it? A) a cup B) a hat.", "A hat", ("What is it?", "a hat", "")),
        ("What is it?", "a cup", ("What is it?", "a cup", "")),
        ("Who is A. Smith?", "an actor", ("Who is A. Smith?", "an actor", "")),
    ],
)
def test_multiple_choice_becomes_an_open_question(rows, question, answer, expected):
    one = rows.select([0]).map(lambda row: {"question": question, "answer": answer})
    found = open_ended(one)
    assert (found["question"][0], found["answer"][0], found["dropped"][0]) == expected
    assert found.column_names == [*FEATURES, "dropped"]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Which of the following is red? A. cup B. hat", "A", "makes no sense without its options"),
        ("What is red? A. cup B. all of the above", "B", "makes no sense without its options"),
        ("A. cup B. hat", "B", "makes no sense without its options"),
        ("What is red? A. cup B. hat", "C", "answer is none of the options"),
        ("What is red? A. cup B. hat", "", "answer is none of the options"),
    ],
)
def test_a_question_that_leans_on_its_options_is_dropped(rows, question, answer, reason):
    one = rows.select([0]).map(lambda row: {"question": question, "answer": answer})
    found = open_ended(one)
    assert (found["question"][0], found["answer"][0]) == (question, answer)
    assert list(found["dropped"]) == [reason]


def test_a_hostile_question_takes_no_time():
    assert selection._opened("A. " * 20_000, "A")[2] in ("", "answer is none of the options")
    assert selection._opened("x" + " " * 50_000 + "A. y", "A")[2] == ""


# --- the report ---------------------------------------------------------------------------------


def test_the_report_counts_what_was_planted(processor):
    corrupted = {"wrong label": 0.3, "unanswerable": 0.3}
    rows = tiny_world("train", 40, corrupted=corrupted)
    bad = [source != "tiny-world" for source in rows["source"]]
    assert 10 < sum(bad) < 38
    chances = {id: 0.0 if its else 0.5 for id, its in zip(rows["id"], bad)}
    found = report(difficulty(rows, Dice(processor, chances)))
    assert found["questions"] == 40 and found["kept"] == 40 - sum(bad) - found["innocent_dropped"]
    assert set(found["planted"]) == {f"tiny-world, planted: {how}" for how in corrupted}
    assert sum(counts["caught"] for counts in found["planted"].values()) == sum(bad)
    assert all(counts["missed"] == 0 for counts in found["planted"].values())
    total = sum(drop["count"] for drop in found["dropped"].values())
    assert total + found["kept"] == 40
    assert all(1 <= len(drop["examples"]) <= 3 for drop in found["dropped"].values())
    assert json.loads(json.dumps(found)) == found
    assert f"{found['kept']} of 40" in table(found) and "caught" in table(found)


def test_a_report_without_filters_has_dropped_nothing(rows):
    found = report(verifiable(rows))
    assert found["kept"] == 30 and found["dropped"] == {} and found["planted"] == {}
