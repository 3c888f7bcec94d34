"""verifiers.py: rules that a long, odd or hostile answer cannot talk round."""

import string
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.verifiers import (
    MAX_ANSWER_CHARS,
    VERIFIERS,
    check_answer,
    extract_answer,
    is_correct,
    normalise,
    split_options,
    well_formed,
    with_options,
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


# --- a rule for each kind of question -----------------------------------------------------------


def sample(answer, verifier, options=(), question="?"):
    return {"answer": answer, "verifier": verifier, "options": [*options], "question": question}


FLAG = sample("B", "choice", ["red", "dark blue", "white"])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True),
        ("b", True),
        ("(B)", True),
        ("B.", True),
        ("B)", True),
        ("B. dark blue", True),
        ("(B) Dark  Blue.", True),
        ("B: dark blue", True),
        ("dark blue", True),
        ("The answer is B.", True),
        ("Option B", True),
        (r"\boxed{B}", True),
        ("B. It is dark blue, as the crop shows.", True),
        ("A", False),
        ("C. white", False),
        ("red", False),
        ("B. red", False),  # letter and text disagree
        ("blue", False),
        ("D", False),  # there is none
        ("A or B", False),
        ("A B C", False),
        ("", False),
        ("B" * 999, False),
        ("B" + " " * MAX_ANSWER_CHARS, False),
    ],
)
def test_a_choice_is_a_letter_or_an_option_s_text(answer, right):
    assert check_answer(answer, FLAG) is right
    assert check_answer(answer, {**FLAG, "answer": "dark blue"}) is right


@pytest.mark.parametrize(
    ("options", "truth", "answer", "right"),
    [
        (["B", "A", "C"], "A", "A", True),  # a bare letter is the option's letter
        (["B", "A", "C"], "A", "B", False),
        (["a dog", "a cat"], "A", "a dog", True),  # and not option A with a text
        (["a dog", "a cat"], "B", "a dog", False),
        (["same", "same"], "B", "A", True),
        (["12", "13"], "B", "13", True),
        ([], "yes", "Yes.", True),  # no options known: the same words
        ([], "B", "B. red", False),
        (["x", "y"], "none of them", "None of them", True),
    ],
)
def test_odd_options(options, truth, answer, right):
    assert check_answer(answer, sample(truth, "choice", options)) is right


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("yes", "Yes.", True),
        ("yes", "Yes, there is a dog.", True),
        ("no", "No", True),
        ("no", "Nothing of that kind", False),
        ("yes", "no", False),
        ("yes", "There is a dog; yes.", False),  # the first word decides, or nothing does
    ],
)
def test_yes_or_no(truth, answer, right):
    assert check_answer(answer, sample(truth, "yes_no")) is right


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("12.5", "12.5", True),
        ("12.5", "12.6", True),  # within one in a hundred
        ("12.5", "12.7", False),
        ("12.5", "-12.5", False),
        ("12", "12.0", True),
        ("2015", "2016", False),  # a whole number may be a year
        ("1,200", "1200", True),
        ("12%", "12", True),
        ("$3.50", "3.5", True),
        (r"3.5", r"\boxed{3.5}", True),
        ("3", "three", False),
        ("3", "about 3", False),
        ("3", "1e999", False),
        ("3", "nan", False),
        ("3", "inf", False),
        ("blue", "Blue", True),
        ("0.0", "0", True),
        ("1e3", "1000", True),
    ],
)
def test_numbers_have_a_tolerance(truth, answer, right):
    assert check_answer(answer, sample(truth, "number")) is right


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        (r"\frac{3}{4}", "3/4", True),
        (r"\frac{3}{4}", "0.75", True),
        ("0.75", r"\boxed{\frac{3}{4}}", True),
        ("7/4", "1.75", True),
        ("$12$", "12", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("50%", "0.5", True),
        ("A", "(a)", True),
        ("12", "13", False),
        ("12", "", False),
        ("12", "twelve", False),
        ("12", "__import__('os').system('true')", False),
    ],
)
def test_math_is_right_if_it_is_equal(truth, answer, right):
    assert check_answer(answer, sample(truth, "math")) is right


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        "99999999!",
        r"\left(99^{99}\right)^{99^{99}}",
        "9^{9*9*9*9*9*9*9}",
        "((((9^99)^99)^99)^99)^99",
        "{" * 900,
        "9" * 900,
        r"\frac{1}{" * 80,
    ],
)
def test_a_formula_that_would_never_end_is_not_computed(answer):
    began = time.process_time()
    assert check_answer(answer, sample("12", "math")) is False
    assert time.process_time() - began < 10


def test_math_is_checked_outside_the_main_thread_too():
    with ThreadPoolExecutor() as pool:
        found = pool.submit(check_answer, "3/4", sample("0.75", "math")).result()
    assert found is True


def test_a_judge_is_asked_only_where_the_rule_cannot_tell():
    asked = []

    def judge(question, answer, truth):
        asked.append((question, answer, truth))
        return {"navy": True, "green": False}.get(answer)

    def ask(answer, row):
        del asked[:]
        return check_answer(answer, row, judge), len(asked)

    words = sample("dark blue", "text", question="What colour?")
    assert ask("dark blue", words) == (True, 0)
    assert ask("navy", words) == (True, 1)
    assert asked == [("What colour?", "navy", "dark blue")]
    assert ask("green", words) == (False, 1)
    assert ask("?", words) == (False, 1)  # neither can tell
    assert ask("navy" + " " * MAX_ANSWER_CHARS, words) == (False, 0)
    assert ask(None, words) == (False, 0)
    assert ask("A", FLAG) == (False, 0)
    assert ask("navy", FLAG) == (True, 1)
    assert ask("no", sample("yes", "yes_no")) == (False, 0)
    assert ask("3", sample("4", "number")) == (False, 0)


def test_an_unknown_verifier_is_named():
    with pytest.raises(ValueError, match="unknown verifier 'taste'; there are text, choice"):
        check_answer("K", sample("K", "taste"))


@given(answer=st.one_of(st.none(), st.text(max_size=30)), truth=st.text(max_size=8))
def test_a_row_without_verifier_is_checked_as_ever(answer, truth):
    assert check_answer(answer, {"answer": truth}) is is_correct(answer, truth)


@given(answer=st.text(max_size=40), truth=st.text(max_size=10), name=st.sampled_from([*VERIFIERS]))
def test_no_answer_raises(answer, truth, name):
    row = sample(truth, name, ["red", "blue"])
    assert check_answer(answer, row) in (True, False)


# --- multiple choice, written and read -----------------------------------------------------------

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


def test_long_options_take_no_long_time():
    began = time.process_time()
    for text in ("A. " * 20_000, "x" + " " * 50_000 + "A. y", "A. a B. b " * 5_000):
        split_options(text)
    assert time.process_time() - began < 5
