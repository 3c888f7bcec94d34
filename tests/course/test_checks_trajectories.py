"""The checks of notebook 07: each typical mistake is named."""

from itertools import combinations, groupby

import pytest

from checks import trajectories as checks
from deepeyes_lite.viz.patterns import covered

CHECKS = {
    "my_turns": checks.own_turns,
    "my_covered": checks.covered,
    "my_comparison": checks.comparison,
    "my_share": checks.misread_share,
}


def own(ids, mask, wanted=1):
    runs = groupby(zip(ids, mask), key=lambda pair: pair[1])
    return [[token for token, _ in run] for value, run in runs if value == wanted]


def unclosed(ids, mask):
    """The classic loop that appends a turn when the mask falls to 0."""
    turns, turn = [], []
    for token, value in zip(ids, mask):
        if value:
            turn.append(token)
        elif turn:
            turns.append(turn)
            turn = []
    return turns


def empties(ids, mask):
    turns = [[]]
    for token, value in zip(ids, mask):
        turns[-1].append(token) if value else turns.append([])
    return turns


def sides(b, t):
    return min(b[2], t[2]) - max(b[0], t[0]), min(b[3], t[3]) - max(b[1], t[1])


def area(b):
    return (b[2] - b[0]) * (b[3] - b[1])


def overlap(b, t):
    width, height = sides(b, t)
    return max(0, width) * max(0, height)


def shown(looks):
    return [found for found in looks if found]


def right_comparison(looks):
    return any(i != j for a, b in combinations(looks, 2) for i in a for j in b)


LOOKED = {"wrong place", "part of it", "too wide", "misread"}


def share(keep):
    def attempt(kinds):
        kept = [kind for kind in kinds if keep(kind)]
        return kept.count("misread") / len(kept) if kept else 0.0

    return attempt


def counted(kinds):
    return float(kinds.count("misread"))


ATTEMPTS = [
    ("my_turns", own, "[ok]"),
    ("my_turns", lambda ids, mask: None, "[todo]"),
    ("my_turns", lambda ids, mask: own(ids, mask, 0), "these are the observations"),
    ("my_turns", lambda ids, mask: [[t for t, m in zip(ids, mask) if m]], "one turn for all"),
    ("my_turns", unclosed, "the last turn is missing"),
    ("my_turns", lambda ids, mask: own(ids, mask)[:1], "only the first turn"),
    ("my_turns", empties, "an empty turn"),
    ("my_turns", lambda ids, mask: [t[1:] for t in own(ids, mask)], "the first token of each turn"),
    ("my_turns", lambda ids, mask: [t[:-1] for t in own(ids, mask)], "the end of turn (2)"),
    ("my_turns", lambda ids, mask: [ids], "tokens of an observation"),
    ("my_turns", lambda ids, mask: ids, "give a list of lists of ids"),
    ("my_turns", lambda ids, mask: own(ids, mask)[::-1], "expected [[11, 12, 2], [13, 2]"),
    ("my_turns", lambda ids, mask: 1 / 0, "ZeroDivisionError"),
    ("my_covered", covered, "[ok]"),
    ("my_covered", lambda b, t: None, "[todo]"),
    ("my_covered", lambda b, t: overlap(b, t) / (area(b) + area(t) - overlap(b, t)), "this is IoU"),
    ("my_covered", lambda b, t: overlap(b, t) / area(b), "not by the box's"),
    ("my_covered", lambda b, t: sides(b, t)[0] * sides(b, t)[1] / area(t), "two negative sides"),
    ("my_covered", overlap, "an area in pixels"),
    ("my_covered", lambda b, t: 100 * covered(b, t), "these are percent"),
    ("my_covered", lambda b, t: covered(b, t) > 0, "that is yes or no"),
    ("my_covered", lambda b, t: 0.5, "expected ["),
    ("my_covered", lambda b, t: "x", "ValueError"),
    ("my_comparison", right_comparison, "[ok]"),
    ("my_comparison", lambda looks: None, "[todo]"),
    ("my_comparison", lambda looks: len(shown(looks)) >= 2, "one crop that shows both"),
    ("my_comparison", lambda looks: len(set().union(*looks)) >= 2, "two calls on one target"),
    (
        "my_comparison",
        lambda looks: len(shown(looks)) >= 2 and not set.intersection(*shown(looks)),
        "does not spoil a comparison",
    ),
    ("my_comparison", lambda looks: all(looks) and right_comparison(looks), "two of three targets"),
    ("my_comparison", lambda looks: right_comparison(looks[:2]), "only the first two"),
    (
        "my_comparison",
        lambda looks: len(looks) > 1 and any(a != looks[0] for a in looks),
        "one of them may be empty",
    ),
    ("my_comparison", lambda looks: not right_comparison(looks), "turned round"),
    ("my_comparison", lambda looks: looks[1] > 3, "TypeError"),
    ("my_share", share(lambda k: k in LOOKED), "[ok]"),
    ("my_share", lambda kinds: None, "[todo]"),
    ("my_share", share(lambda k: True), "right answers are in it"),
    ("my_share", share(lambda k: k), "without a zoom nothing can be misread"),
    ("my_share", share(lambda k: k in LOOKED | {"never called"}), "never called is without a zoom"),
    ("my_share", share(lambda k: k in LOOKED | {"malformed"}), "malformed episodes may have"),
    ("my_share", share(lambda k: k in ("misread", "wrong place")), "part of it and too wide"),
    ("my_share", counted, "this is how many"),
    (
        "my_share",
        lambda kinds: 1 - share(lambda k: k in LOOKED)(kinds) if LOOKED & set(kinds) else 0.0,
        "this is the other share",
    ),
    (
        "my_share",
        lambda kinds: kinds.count("misread") / len([k for k in kinds if k in LOOKED]),
        "0.0",
    ),
]


@pytest.mark.parametrize(("name", "attempt", "message"), ATTEMPTS)
def test_a_mistake_is_named(name, attempt, message, capsys):
    attempt.__name__ = name
    CHECKS[name](attempt)
    said = capsys.readouterr().out
    assert message in said
    assert said.startswith(message if message.startswith("[") else "[not yet]"), said


def test_every_check_names_three_mistakes_or_more():
    for name in CHECKS:
        wrong = [m for n, _, m in ATTEMPTS if n == name and not m.startswith("[")]
        assert len(set(wrong)) == len(wrong) >= 3
