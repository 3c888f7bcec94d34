"""The checks of notebook 00: every typical mistake gets its own message."""

import pytest

from checks import start as checks
from deepeyes_lite.tinyworld.dataset import tiny_world


def verdict(check, attempt, capsys):
    assert check(attempt) is None
    return capsys.readouterr().out.strip()


def middle(t):
    return (t[0] + t[2]) / 2, (t[1] + t[3]) / 2


def inside(point, b):
    return b[0] <= point[0] <= b[2] and b[1] <= point[1] <= b[3]


HIT = {
    "all of it": (lambda b, t: inside(t[:2], b) and inside(t[2:], b), "its middle is enough"),
    "overlap": (
        lambda b, t: max(b[0], t[0]) < min(b[2], t[2]) and max(b[1], t[1]) < min(b[3], t[3]),
        "any overlap",
    ),
    "turned round": (lambda b, t: inside(middle(b), t), "turned round"),
    "x alone": (lambda b, t: b[0] <= middle(t)[0] <= b[2], "only x"),
    "y alone": (lambda b, t: b[1] <= middle(t)[1] <= b[3], "only y"),
    "swapped": (lambda b, t: inside(middle(t)[::-1], b), "swapped"),
    "corner": (lambda b, t: inside(t[:2], b), "the corner"),
    "x or y": (
        lambda b, t: b[0] <= middle(t)[0] <= b[2] or b[1] <= middle(t)[1] <= b[3],
        "is not enough",
    ),
    "always": (lambda b, t: True, "expected [1.0, 1.0, 1.0, 0.0"),
    "an exception": (lambda b, t: b.x1, "AttributeError"),
}


@pytest.mark.parametrize("mistake", HIT)
def test_hit_mistakes(mistake, capsys):
    attempt, message = HIT[mistake]
    said = verdict(checks.hit, attempt, capsys)
    assert said.startswith("[not yet]") and message in said


@pytest.fixture(scope="module")
def right():
    legible = tiny_world("validation", checks.SHOWN, start=checks.START)["legible"]
    return [number for number, seen in enumerate(legible, 1) if seen == 0]


def test_the_six_questions_are_a_mixture(right):
    assert 2 <= len(right) <= 4 and right != [1, 2, 3]


GUESS = {
    "none": (lambda right: [], "none of them?"),
    "all": (lambda right: [1, 2, 3, 4, 5, 6], "all of them?"),
    "turned round": (lambda right: {1, 2, 3, 4, 5, 6} - set(right), "turned round"),
    "from 0": (lambda right: [n - 1 for n in right], "counted from 0"),
    "too few": (lambda right: right[:-1], "1 more cannot be read"),
    "too many": (
        lambda right: [*right, *sorted({1, 2, 3, 4, 5, 6} - set(right))[:1]],
        "1 of yours can be read",
    ),
    "a seventh": (lambda right: [*right, 7], "from 1 to 6, got"),
    "a number": (lambda right: 3, "such as [1, 6]"),
    "words": (lambda right: ["two"], "such as [1, 6]"),
}


@pytest.mark.parametrize("mistake", GUESS)
def test_guess_mistakes(mistake, right, capsys):
    make, message = GUESS[mistake]
    said = verdict(checks.needs_zoom, lambda: make(right), capsys)
    assert said.startswith("[not yet]") and message in said


def test_right_ones_and_open_stubs(right, capsys):
    assert verdict(checks.needs_zoom, lambda: right, capsys).startswith("[ok]")
    assert verdict(checks.needs_zoom, lambda: set(right), capsys).startswith("[ok]")
    assert verdict(checks.needs_zoom, lambda: None, capsys).startswith("[todo]")
    attempt = verdict(checks.hit, lambda b, t: inside(middle(t), b), capsys)
    assert attempt.startswith("[ok]")
    assert verdict(checks.hit, lambda b, t: None, capsys).startswith("[todo]")
