"""verifiers.py: rules that a long, odd or hostile answer cannot talk round."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.verifiers import (
    MAX_ANSWER_CHARS,
    extract_answer,
    is_correct,
    normalise,
    well_formed,
)

CALL = "<think>?</think><tool_call>{}</tool_call>"
ANSWER = "<think>!</think><answer>K</answer>"
PIECES = st.sampled_from(
    ["<answer>", "</answer>", "<think>", "</think>", "<tool_call>", "</tool_call>", "K", "\n", " "]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=50))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>K</answer>", "K"),
        ("<answer>\n K \n</answer>", "K"),
        ("<answer>A</answer><answer>B</answer>", "B"),
        ("<answer></answer>", ""),
        ("<answer>K", None),
        ("K</answer>", None),
        ("</answer>K<answer>", None),
        ("", None),
        ("<ANSWER>K</ANSWER>", None),
    ],
)
def test_answer_is_what_stands_between_the_last_tags(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("K", "K", True),
        (" k. ", "K", True),
        ('"K"', "K", True),
        ("the  Red\nCircle", "The red circle", True),
        ("STRASSE", "straße", True),
        ("K or L", "K", False),
        ("KK", "K", False),
        ("", "K", False),
        ("...", "!?", False),  # nothing is left of either: no answer, so no credit
        ("", "", False),
        (None, "K", False),
        ("K" + " " * MAX_ANSWER_CHARS, "K", False),
        ("K" + " " * (MAX_ANSWER_CHARS - 2), "K", True),
    ],
)
def test_answer_is_right_if_the_same_after_normalising(answer, truth, right):
    assert is_correct(answer, truth) is right


@given(text=st.text(max_size=60))
def test_a_normalised_text_has_bare_edges_and_a_text_is_its_own_right_answer(text):
    assert normalise(text) == normalise(text).strip(" .,;:!?\"'()[]")
    assert is_correct(text, text) == (normalise(text) != "")


@given(turns=st.lists(TEXTS, max_size=4), truth=st.text(max_size=5))
def test_no_text_raises_and_a_right_answer_of_good_form_was_written_once(turns, truth):
    formed = well_formed(turns)
    answers = [extract_answer(turn) for turn in turns]
    assert is_correct(answers[-1] if turns else None, truth) in (True, False)
    if formed:
        assert [answer is not None for answer in answers] == [False] * (len(turns) - 1) + [True]
        assert "".join(turns).count("<answer>") == 1


@pytest.mark.parametrize(
    ("turns", "formed"),
    [
        ([ANSWER], True),
        ([CALL, ANSWER], True),
        ([CALL] * 6 + [ANSWER], True),
        (["<answer>K</answer>"], True),
        ([], False),
        ([""], False),
        ([CALL], False),
        ([ANSWER, ANSWER], False),
        (["<think>?</think>", ANSWER], False),
        (["<answer>K"], False),
        (["K</answer>"], False),
        (["</answer>K<answer>"], False),
        (["<answer>K</answer></answer>"], False),
        (["<answer>K</answer><answer>L</answer>"], False),
        (["<think>!<answer>K</answer>"], False),
        (["</think>!<think><answer>K</answer>"], False),
        ([CALL + CALL, ANSWER], False),
        ([CALL + ANSWER], False),
        ([CALL + "<answer>K</answer>", ANSWER], False),
        (["<tool_call>{}", ANSWER], False),
    ],
)
def test_form(turns, formed):
    assert well_formed(turns) is formed


def test_a_long_text_takes_no_long_time():
    began = time.process_time()
    for text in ("<answer>" * 100_000, "<answer></answer" * 100_000, "<think>" * 100_000):
        extract_answer(text), well_formed([text]), is_correct(text, "K")
    assert time.process_time() - began < 5
