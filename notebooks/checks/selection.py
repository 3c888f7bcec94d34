"""Exercises of notebook 02: the signal in a group, the tool-benefit filter, open questions."""

import re

import numpy as np

from checks.exercise import Exercise

P = np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])

# Exercise 1. attempt(p, k) -> (N,) chances that a group of k has both right and wrong answers, where p is
# (N,) chances of a right answer.
signal = Exercise(
    cases=[(P, 8), (P, 3)],
    solution=lambda p, k: 1 - p**k - (1 - p) ** k,
    mistakes={
        "all right is missing: take p^k off, too": lambda p, k: 1 - (1 - p) ** k,
        "all wrong is missing: take (1 - p)^k off, too": lambda p, k: 1 - p**k,
        "upside down: this is the chance that all are equal": lambda p, k: p**k + (1 - p) ** k,
        "this is the chance of one right answer exactly; two or more are fine, too": (
            lambda p, k: k * p * (1 - p) ** (k - 1)
        ),
        "p (1 - p) is the variance of one answer, whatever k": lambda p, k: p * (1 - p),
        "k p (1 - p) is the variance of the number of right answers, not a chance": (
            lambda p, k: k * p * (1 - p)
        ),
        "all right and all wrong exclude each other: take off their sum, not their product": (
            lambda p, k: 1 - p**k * (1 - p) ** k
        ),
        "k is ignored: this is right for k = 8 only": lambda p, k: 1 - p**8 - (1 - p) ** 8,
        "p and k are swapped: k answers, each right with chance p, are all right with p**k": (
            lambda p, k: 1 - k**p - k ** (1 - p)
        ),
    },
    praise="everything but all right and all wrong",
    hint="give one value for every question",
)


def not_yes_or_no(values: list) -> str | None:
    keep = values[0] if isinstance(values[0], list) else []
    if not all(value in (True, False) for value in keep):
        return "give True or False for every question"
    return None


# Exercise 2. attempt(right_from_view, right_with_crop) -> (N,) bool, which questions are kept.
benefit = Exercise(
    cases=[
        (np.array([False, False, True, True, False]), np.array([False, True, False, True, True]))
    ],
    solution=lambda view, crop: ~view & crop,
    mistakes={
        "what the view answers is kept, too: it needs no zoom": lambda view, crop: crop,
        "kept without a look at the crop: what stays wrong with it is hopeless or corrupted": (
            lambda view, crop: ~view
        ),
        "turned round: wrong from the view, right with the crop": lambda view, crop: view & ~crop,
        "upside down: this is what is dropped": lambda view, crop: ~(~view & crop),
        "what the crop makes wrong is kept, too": lambda view, crop: view != crop,
        "this is what is right both times: nothing to gain from a zoom": (
            lambda view, crop: view & crop
        ),
        "this is what is right at least once, not what the crop makes right": (
            lambda view, crop: view | crop
        ),
    },
    praise="what the view does not answer and the crop does",
    hint="one value for every question: not, and, or work on one value; for arrays there are ~, &, |",
    explain=not_yes_or_no,
)

OPTION = re.compile(r"\s\(?([A-H])[.):]\s")  # as the notebook gives it


def opened(question, answer, shift=0):
    """The solution of exercise 3; with a shift, the mistake of another option."""
    stem, *rest = OPTION.split(question)
    letters, options, letter = rest[::2], rest[1::2], answer.strip("().").upper()
    if len(letters) < 2:
        return question, answer
    if letter not in letters or "these" in stem:
        return None
    truth = options[(letters.index(letter) + shift) % len(options)]
    return None if "above" in truth else (stem, truth)


def no_pair(values: list) -> str | None:
    for value in values:
        if value is not None and (not isinstance(value, list) or len(value) != 2):
            return f"give (question, answer) or None, not {value!r}"
        if value is not None and not all(isinstance(text, str) for text in value):
            return f"question and answer are text, got {value!r}"
    return None


def stripped(attempt, question, answer):
    given = attempt(question, answer)
    pair = isinstance(given, tuple | list)
    return [t.strip() if isinstance(t, str) else t for t in given] if pair else given


# Exercise 3. attempt(question, answer) -> both rewritten as an open question, or None where that cannot be.
rewrite = Exercise(
    cases={
        "this can be rewritten: the answer becomes the text of its option, and options are dropped": (
            "What is it?\nA. a cup\nB. a red hat\nC. a shoe",
            "B",
        ),
        "this can be rewritten: '(b)' means option B": ("What is it? (A) a cup (B) a hat", "(b)"),
        "there are no options here: it is open already, give it back as it is": (
            "What is on the table?",
            "a cup",
        ),
        "this is no list of options: it is open already, give it back as it is": (
            "Who is A. Smith?",
            "an actor",
        ),
        "without its options nobody knows what 'these' are: None": (
            "Which of these is red? A. the cup B. the hat",
            "A",
        ),
        "'all of the above' is no answer once nothing is above: None": (
            "What is red? A. the cup B. all of the above",
            "B",
        ),
        "the label is none of the options: None, nobody knows the right one": (
            "What is red? A. the cup B. the hat",
            "C",
        ),
    },
    solution=opened,
    mistakes={
        "the answer is still the letter; it becomes the option's text": lambda question, answer: (
            (given := opened(question, answer)) and (given[0], answer)
        ),
        "the options still stand in the question, and the answer with them": lambda question, answer: (
            (given := opened(question, answer)) and (question, given[1])
        ),
        "the answer is another option, or a piece of it": lambda question, answer: opened(
            question, answer, shift=1
        ),
    },
    praise="rewritten where it can be, dropped where it leans on its options",
    hint="an answer may be written '(b)', be no option, or have no options at all",
    run=stripped,
    explain=no_pair,
)
