"""The checks of notebook 02: each typical mistake is named."""

import re

import numpy as np
import pytest

from checks import selection as checks

OPTION = re.compile(r"\s\(?([A-H])[.):]\s")  # as the notebook gives it


CHECKS = {
    "my_signal": checks.signal,
    "my_keep": checks.benefit,
    "my_open": checks.rewrite,
}


def opened(
    two=True,
    text=True,
    drop_options=True,
    strip="(). ",
    leans=r"which of|these|following",
    above=True,
    unknown=True,
    shift=0,
    bare=lambda question, answer: (question, answer),
):
    """An attempt at exercise 3; the defaults are right."""

    def attempt(question, answer):
        stem, *rest = OPTION.split(question)
        options = dict(zip(rest[::2], rest[1::2]))
        if len(options) < (2 if two else 1):
            return bare(question, answer)
        letter = answer.strip(strip).upper()
        if shift:
            letter = chr((ord(letter) - 65 + shift) % len(options) + 65)
        truth = options.get(letter)
        if truth is None and not unknown:
            return stem.strip(), answer
        if truth is None or (leans and re.search(leans, stem, re.IGNORECASE)):
            return None
        if above and "above" in truth:
            return None
        return (stem if drop_options else question).strip(), (truth if text else letter).strip()

    return attempt


def crash(question, answer):
    stem, *rest = OPTION.split(question)
    return stem.strip(), dict(zip(rest[::2], rest[1::2]))[answer]


MISTAKES = [
    ("my_signal", lambda p, k: 1 - (1 - p) ** k, "all right is missing"),
    ("my_signal", lambda p, k: 1 - p**k, "all wrong is missing"),
    ("my_signal", lambda p, k: p**k + (1 - p) ** k, "upside down"),
    ("my_signal", lambda p, k: k * p * (1 - p) ** (k - 1), "one right answer exactly"),
    ("my_signal", lambda p, k: p * (1 - p), "whatever k"),
    ("my_signal", lambda p, k: k * p * (1 - p), "number of right answers"),
    ("my_signal", lambda p, k: 1 - p**k * (1 - p) ** k, "not their product"),
    ("my_signal", lambda p, k: 1 - p**8 - (1 - p) ** 8, "k is ignored"),
    ("my_signal", lambda p, k: 1 - k**p - k ** (1 - p), "p and k are swapped"),
    ("my_signal", lambda p, k: 1 - p[0] ** k, "the shape is (), not (6,)"),
    ("my_signal", lambda p, k: p, "expected [0.0, 0.57"),
    ("my_signal", lambda p, k: 1 - sum(p, k, k), "TypeError"),
    ("my_signal", lambda p, k: "p", "ValueError"),
    ("my_keep", lambda view, crop: crop, "needs no zoom"),
    ("my_keep", lambda view, crop: ~view, "without a look at the crop"),
    ("my_keep", lambda view, crop: view & ~crop, "turned round"),
    ("my_keep", lambda view, crop: ~(~view & crop), "upside down"),
    ("my_keep", lambda view, crop: view != crop, "what the crop makes wrong"),
    ("my_keep", lambda view, crop: view & crop, "right both times"),
    ("my_keep", lambda view, crop: view | crop, "right at least once"),
    ("my_keep", lambda view, crop: not view and crop, "there are ~, &, |"),
    ("my_keep", lambda view, crop: np.nonzero(~view & crop)[0], "one value for every question"),
    ("my_keep", lambda view, crop: crop - 2 * view.astype(int), "True or False"),
    ("my_keep", lambda view, crop: ~view & ~crop, "got [True, False"),
    ("my_open", opened(text=False), "still the letter"),
    ("my_open", opened(drop_options=False), "the options still stand"),
    ("my_open", opened(strip=" "), "'(b)' means option B"),
    ("my_open", crash, "may be written '(b)'"),
    ("my_open", opened(bare=lambda *_: None), "open already"),
    ("my_open", opened(bare=lambda q, a: (q, a[:1])), "open already"),
    ("my_open", opened(two=False), "open already"),
    ("my_open", opened(leans=None), "what 'these' are"),
    ("my_open", opened(above=False), "'all of the above'"),
    ("my_open", opened(unknown=False), "nobody knows the right one"),
    ("my_open", opened(shift=1), "is it another option"),
    ("my_open", lambda question, answer: question, "give (question, answer) or None"),
    ("my_open", lambda question, answer: (question, 1), "are text"),
    ("my_open", lambda question, answer: ("", "a red hat"), "expected ('What is it?'"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=lambda value: str(value)[:28]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_other_right_ways_pass(capsys):
    checks.signal(lambda p, k: [1 - x**k - (1 - x) ** k for x in p])
    checks.benefit(lambda view, crop: [c and not v for v, c in zip(view, crop)])
    checks.benefit(lambda view, crop: crop > view)
    checks.rewrite(opened())
    checks.rewrite(lambda q, a: (found := opened()(q, a)) and list(found))
    assert capsys.readouterr().out.count("[ok] ") == 5
