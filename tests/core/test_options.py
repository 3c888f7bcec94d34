"""options.py: what is read out of a question is what is written into it, in every usual style."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.options import LETTERS, fixed_places, split_options, with_options

WORDS = st.text(string.ascii_lowercase, min_size=2, max_size=8)
WORDS = WORDS.filter(lambda word: word not in ("or", "and"))  # inline, these part two options
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
OPTIONS = st.lists(TEXTS, min_size=2, max_size=8, unique=True)
# How an option is marked, what is between two, and what comes before them.
STYLES = [
    ("{}. ", "\n", "\n"),
    ("{}. ", " ", " "),
    ("({}) ", " ", " "),
    ("({}) ", "\n", "\n"),
    ("({})", "\n", "\n"),
    ("{}: ", "\n", "\nOptions:\n"),
    ("{}) ", ", ", " "),
    ("{}) ", "\n", "\n"),
    ("[{}] ", "; ", " "),
    ("**{}.** ", "\n", "\n\n"),
    ("- {}. ", "\n", "\n"),
    ("{} - ", "\n", "\n"),
    ("{}．", "\n", "\n"),
]
TAILS = ["", "\nAnswer with the option's letter from the given choices directly."]
TAILS += [
    " Please select the correct option.",
    "\nHint: look at the left.",
    " Choose the right letter.",
]


@given(TEXTS, OPTIONS, st.sampled_from(STYLES), st.sampled_from(TAILS), st.booleans(), st.data())
def test_writing_and_reading_are_inverse_in_every_style(stem, options, style, tail, lower, data):
    mark, between, before = style
    letters = LETTERS.lower() if lower and mark == "({}) " else LETTERS
    mark = mark + " " if mark.endswith("．") else mark
    listed = between.join(mark.format(a) + text for a, text in zip(letters, options))
    question = f"{stem}?{before}{listed}{tail}"
    stem_read, read = split_options(question)
    assert read == options and stem_read.startswith(f"{stem}?") and listed not in stem_read
    assert with_options(question, options) == question
    shuffled = data.draw(st.permutations(options))
    written = with_options(question, shuffled)
    assert split_options(written) == (
        stem_read,
        shuffled,
    )  # one list, in the style and the place of the old
    assert written.endswith(tail) and len(written) == len(question)
    assert with_options(written, options) == question


@given(question=TEXTS, options=st.lists(TEXTS, min_size=2, max_size=8))
def test_what_is_written_below_a_question_is_read_again(question, options):
    assert split_options(with_options(question + "?", options)) == (question + "?", options)
    sentences = [f"It is {text}." for text in options]
    assert split_options(with_options(question + "?", sentences))[1] == sentences


def test_options_are_lettered_in_order():
    questions = {"Is it red?\n(A) yes\n(B) no": ["yes", "no"]}
    questions |= {"Is it red? A) yes B) no.": ["yes", "no"]}
    questions["Is it red?\nOptions:\nA. Yes, it is.\nB. No, it is white."] = [
        "Yes, it is.",
        "No, it is white.",
    ]
    questions["Is it red? A. yes"] = []  # one is none
    questions["Is it red? A. yes C. no"] = []  # a letter is missing
    questions |= {"Is it red? B. yes A. no": [], "": []}
    for question, expected in questions.items():
        stem, options = split_options(question)
        assert options == expected and (stem == question) == (not options)


@given(st.text(st.sampled_from("AB.) (\nx"), max_size=40))
def test_there_are_no_options_or_at_least_two(text):
    assert len(split_options(text)[1]) != 1


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        (["red", "blue", "All of the above"], {2}),
        (["red", "blue", "white", "Both A and B"], {0, 1, 3}),
        (["red", "blue", "None of these"], {2}),
        (["red", "None of the above", "Neither (A) nor (C)", "blue"], {0, 1, 2}),
        (["the cup is above the plate", "the cup is below the plate"], set()),
        (["A. Smith", "B. Jones"], set()),
        (["red", "both", "neither"], {1, 2}),
        ([], set()),
    ],
)
def test_options_about_options_stay(options, fixed):
    assert fixed_places(options) == fixed


def test_other_lists_are_not_replaced():
    question = "Which of panel A. left and B. right is red?"
    assert with_options(question, ["yes", "no"]) == question + "\nA. yes\nB. no"
