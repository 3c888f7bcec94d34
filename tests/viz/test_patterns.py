"""Each pattern and each kind of failure, on episodes made by hand: what is one, and what is none."""

import hashlib
from pathlib import Path

import pytest

from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import Trajectory, Turn, read_jsonl
from deepeyes_lite.viz.patterns import (
    FAILURES,
    PATTERNS,
    beside,
    covered,
    failure,
    found,
    looked,
    looks,
)

RECORDED = Path(__file__).parents[2] / "data" / "trajectories"

A, B = (100, 100, 160, 160), (300, 300, 360, 360)  # two targets
ON_A, ON_B, BOTH, FAR = (90, 90, 170, 170), (290, 290, 370, 370), (80, 80, 380, 380), (0, 0, 60, 60)


def episode(*boxes, targets=(A,), correct=True, answer="K", formed=True, **sample):
    turns = [Turn("", [box]) for box in boxes] + [Turn("")]
    row = {
        "id": "a",
        "kind": "read",
        "answer": "K",
        "boxes_px": [list(t) for t in targets],
        **sample,
    }
    return Trajectory(row, turns=turns, answer=answer, correct=correct, well_formed=formed)


def exists(*boxes, said, truth="no"):
    t = episode(*boxes, answer=said, correct=said == truth)
    t.sample |= {"kind": "exists", "answer": truth}
    return t


DIRECT, WRONG = episode(), episode(correct=False, answer="L")
CASES = [
    ("visual search", episode(FAR, ON_A), None, True),
    ("visual search", episode(FAR, FAR, ON_A), None, True),
    ("visual search", episode(FAR, BOTH, targets=(A, B)), None, False),  # after which one?
    ("visual search", episode(ON_A), None, False),
    ("visual search", episode(ON_A, FAR), None, False),  # found at once
    ("visual search", episode(FAR, FAR), None, False),  # never found
    ("visual search", episode(ON_A, ON_B, targets=(A, B)), None, False),
    ("visual search", episode(FAR, ON_A, targets=()), None, False),  # nobody knows where it is
    ("visual comparison", episode(ON_A, ON_B, targets=(A, B)), None, True),
    ("visual comparison", episode(FAR, ON_B, BOTH, targets=(A, B)), None, True),
    ("visual comparison", episode(BOTH, targets=(A, B)), None, False),  # one look
    ("visual comparison", episode(ON_A, ON_A, targets=(A, B)), None, False),
    ("visual comparison", episode(ON_A, ON_B), None, False),  # one target
    ("visual confirmation", episode(ON_A), DIRECT, True),
    ("visual confirmation", episode(ON_A), WRONG, False),  # it did not know
    ("visual confirmation", episode(ON_A, correct=False), DIRECT, False),
    ("visual confirmation", episode(FAR), DIRECT, False),  # it looked elsewhere
    ("visual confirmation", episode(), DIRECT, False),
    ("visual confirmation", episode(ON_A), None, False),
    ("visual confirmation", episode(ON_A, targets=(A, B)), DIRECT, False),  # half of it
    ("hallucination mitigation", exists(ON_A, said="no"), exists(said="yes"), True),
    ("hallucination mitigation", exists(ON_A, said="no"), exists(said="no"), False),
    ("hallucination mitigation", exists(ON_A, said="yes"), exists(said="yes"), False),
    ("hallucination mitigation", exists(FAR, said="no"), exists(said="yes"), False),
    ("hallucination mitigation", exists(said="no"), exists(said="yes"), False),
    ("hallucination mitigation", exists(ON_A, said="no"), exists(said=None), False),
    ("hallucination mitigation", exists(ON_A, said="no"), None, False),
    (
        "hallucination mitigation",
        exists(ON_A, said="yes", truth="yes"),
        exists(said="no", truth="yes"),
        False,
    ),
]


@pytest.mark.parametrize("name, t, direct, there", CASES)
def test_a_pattern_is_there_or_not(name, t, direct, there):
    assert PATTERNS[name](t, direct) is there


def test_every_pattern_has_an_example_and_a_counterexample():
    assert {name: {c[3] for c in CASES if c[0] == name} for name in PATTERNS} == dict.fromkeys(
        PATTERNS, {True, False}
    )


@pytest.mark.parametrize(
    "t, kind",
    [
        (episode(), None),
        (episode(formed=False), None),  # right is right
        (episode(correct=False, formed=False), "malformed"),
        (episode(ON_A, correct=False, answer=None), "malformed"),
        (episode(correct=False), "never called"),
        (episode(FAR, correct=False), "wrong place"),
        (episode(ON_A, correct=False, targets=()), "wrong place"),
        (episode(ON_A, correct=False, targets=(A, B)), "part of it"),
        (episode((0, 0, 384, 384), correct=False), "too wide"),
        (episode((0, 0, 384, 384), ON_A, correct=False), "misread"),
        (episode(ON_A, correct=False), "misread"),
    ],
)
def test_the_kind_of_a_failure(t, kind):
    assert failure(t) == kind


def test_every_kind_of_failure_can_occur():
    made = [(), (ON_A,), (FAR,), ((0, 0, 384, 384),)]
    kinds = {failure(episode(*boxes, correct=False)) for boxes in made}
    kinds |= {failure(episode(ON_A, correct=False, targets=(A, B)))}
    assert kinds | {failure(episode(correct=False, formed=False))} == set(FAILURES)


def test_a_crop_shows_a_target_from_a_half_on():
    assert looks(episode((130, 100, 200, 200))) == [{0}]
    assert looks(episode((131, 100, 200, 200))) == [set()]
    assert covered((0, 0, 10, 10), (20, 20, 30, 30)) == 0.0  # both sides negative
    assert covered((0, 0, 10, 10), (5, 5, 5, 5)) == 0.0  # an empty target
    assert not looked(episode(ON_A, targets=()))


def test_episodes_stand_beside_the_same_question_of_the_same_kind():
    one, other = episode(ON_A), episode(ON_A)
    other.sample["kind"] = "nested"
    direct = [episode(kind="nested", correct=False), episode()]
    pairs = beside([one, other], direct)
    assert [d.correct for _, d in pairs] == [True, False]
    assert found(pairs)["visual confirmation"] == [True, False]
    with pytest.raises(ValueError, match=r"a \(nested\) has no direct answer"):
        beside([other], [episode()])


@pytest.mark.parametrize("kind", ["read", "compare", "exists", "nested"])
def test_the_recorded_episodes_are_of_the_scenes_that_are_drawn_today(kind):
    (row,) = tiny_world("test", 1, start=7, kind=kind)
    sample = {name: value for name, value in row.items() if name != "image"}
    for who in ("base", "trained", "direct"):
        episodes = read_jsonl(RECORDED / f"{who}-{kind}.jsonl")
        assert [t.sample["id"] for t in episodes] == [f"test-{i}" for i in range(100)]
        assert episodes[7].sample == sample
        assert all(len(t.loss_mask) == len(t.completion_ids) > 0 for t in episodes)
        assert who != "direct" or not any(t.called for t in episodes)


def test_the_checksum_of_the_recorded_episodes():
    files = sorted(RECORDED.glob("*.jsonl"))
    checksum = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert checksum in (RECORDED / "README.md").read_text(encoding="utf-8")
