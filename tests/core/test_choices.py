"""choices.py: what is written under a question is read out of it again."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.verifiers import split_options, with_options

WORDS = st.text(string.ascii_lowercase, min_size=2, max_size=8)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


@given(question=TEXTS, options=st.lists(TEXTS, min_size=2, max_size=8))
def test_what_is_written_is_read_again(question, options):
    assert split_options(with_options(question + "?", options)) == (question + "?", options)


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Is it red?\n(A) yes\n(B) no", ["yes", "no"]),
        ("Is it red? A) yes B) no.", ["yes", "no"]),
        ("Is it red?\nOptions:\nA. Yes, it is.\nB. No, it is white.", None),
        ("Is it red? A. yes", []),  # one is none
        ("Is it red? A. yes C. no", []),  # a letter is missing
        ("Is it red? B. yes A. no", []),
        ("", []),
    ],
)
def test_options_are_lettered_in_order(question, options):
    stem, found = split_options(question)
    assert found == (["Yes, it is", "No, it is white"] if options is None else options)
    assert (stem == question) == (not found)


@given(st.text(st.sampled_from("AB.) (\nx"), max_size=40))
def test_no_text_raises(text):
    assert split_options(text)[1] == [] or len(split_options(text)[1]) >= 2


def test_a_long_text_takes_no_long_time():
    began = time.process_time()
    for text in ("A. " * 20_000, "x" + " " * 50_000 + "A. y", "A. a B. b " * 5_000):
        split_options(text)
    assert time.process_time() - began < 5
