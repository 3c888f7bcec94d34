"""Each pattern and each kind of failure, on episodes made by hand: what is one, and what is none."""

import hashlib

import pytest

from deepeyes_lite import DATA
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import Trajectory, Turn, read_jsonl
from deepeyes_lite.viz import patterns

RECORDED = DATA / "trajectories"

A, B = (100, 100, 160, 160), (300, 300, 360, 360)  # two targets
ON_A, ON_B, BOTH, FAR = (90, 90, 170, 170), (290, 290, 370, 370), (80, 80, 380, 380), (0, 0, 60, 60)


def episode(*boxes, targets=(A,), correct=True, answer="K", formed=True, **sample):
    turns = [Turn("", [box]) for box in boxes] + [Turn("")]
    row = {"id": "a", "kind": "read", "answer": "K", "boxes_px": [list(t) for t in targets]}
    return Trajectory(
        {**row, **sample}, turns=turns, answer=answer, correct=correct, well_formed=formed
    )


def exists(*boxes, answer, truth="no"):
    t = episode(*boxes, answer=answer, correct=answer == truth)
    t.sample |= {"kind": "exists", "answer": truth}
    return t


DIRECT, WRONG = episode(), episode(correct=False, answer="L")
CASES = [
    ("visual search", episode(FAR, ON_A), None, True),
    ("visual search", episode(FAR, BOTH, targets=(A, B)), None, False),  # after which one?
    ("visual search", episode(ON_A, FAR), None, False),  # found at once
    ("visual search", episode(FAR, ON_A, targets=()), None, False),  # nobody knows where it is
    ("visual comparison", episode(ON_A, ON_B, targets=(A, B)), None, True),
    ("visual comparison", episode(BOTH, targets=(A, B)), None, False),  # one look
    ("visual comparison", episode(ON_A, ON_B), None, False),  # one target
    ("visual confirmation", episode(ON_A), DIRECT, True),
    ("visual confirmation", episode(ON_A), WRONG, False),  # it did not know
    ("visual confirmation", episode(FAR), DIRECT, False),  # it looked elsewhere
    ("visual confirmation", episode(ON_A, targets=(A, B)), DIRECT, False),  # half of it
    ("hallucination mitigation", exists(ON_A, answer="no"), exists(answer="yes"), True),
    ("hallucination mitigation", exists(ON_A, answer="no"), exists(answer="no"), False),
    ("hallucination mitigation", exists(FAR, answer="no"), exists(answer="yes"), False),
]


def test_a_pattern_is_there_or_not():
    for name, t, direct, there in CASES:
        assert patterns.PATTERNS[name](t, direct) is there, (name, t, direct)
    # Every pattern has an example and a counterexample.
    held = {name: {case[3] for case in CASES if case[0] == name} for name in patterns.PATTERNS}
    assert held == dict.fromkeys(patterns.PATTERNS, {True, False})


def test_the_kind_of_a_failure():
    cases = [
        (episode(), None),
        (episode(formed=False), None),  # right is right
        (episode(correct=False, formed=False), "malformed"),
        (episode(ON_A, correct=False, answer=None), "malformed"),
        (episode(correct=False), "never called"),
        (episode(FAR, correct=False), "wrong place"),
        (episode(ON_A, correct=False, targets=(A, B)), "part of it"),
        (episode((0, 0, 384, 384), correct=False), "too wide"),
        (episode(ON_A, correct=False), "misread"),
    ]
    for t, kind in cases:
        assert patterns.failure(t) == kind, t
    assert {kind for _, kind in cases if kind} == set(patterns.FAILURES)


def test_episodes_stand_beside_the_same_question_of_the_same_kind():
    read, nested = episode(ON_A), episode(ON_A)
    nested.sample["kind"] = "nested"
    direct = [episode(kind="nested", correct=False), episode()]
    pairs = patterns.beside([read, nested], direct)
    assert [d.correct for _, d in pairs] == [True, False]
    assert patterns.matches(pairs)["visual confirmation"] == [True, False]
    with pytest.raises(ValueError, match=r"a \(nested\) has no direct answer"):
        patterns.beside([nested], [episode()])


def test_the_recorded_episodes_are_of_the_scenes_that_are_drawn_today():
    for kind in ("read", "compare", "exists", "nested"):
        (sample,) = tiny_world("test", 1, start=7, kind=kind).remove_columns("image")
        for who in ("base", "trained", "direct"):
            episodes = read_jsonl(RECORDED / f"{who}-{kind}.jsonl")
            assert [t.sample["id"] for t in episodes] == [f"test-{i}" for i in range(100)]
            # Recorded before questions carried their need, which is unknown here.
            assert {**episodes[7].sample, "need": -1} == sample
            assert all(len(t.loss_mask) == len(t.completion_ids) > 0 for t in episodes)
            assert who != "direct" or not any(t.called for t in episodes)
    files = sorted(RECORDED.glob("*.jsonl"))
    checksum = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert checksum in (RECORDED / "README.md").read_text(encoding="utf-8")
