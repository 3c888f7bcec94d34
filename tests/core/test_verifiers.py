"""verifiers.py: rules that a long, odd or hostile answer cannot talk round."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes_lite.options import normalise, split_options
from deepeyes_lite.verifiers import (
    MAX_ANSWER_CHARS,
    VERIFIERS,
    check_answer,
    extract_answer,
    is_correct,
    verdict,
    well_formed,
)
from house import ROOT
from verdict_table import KINDS, answers, count, lines, ours

CALL = "<think>?</think><tool_call>{}</tool_call>"
ANSWER = "<think>!</think><answer>K</answer>"
PIECES = st.sampled_from(
    ["<answer>", "</answer>", "<think>", "</think>", "<tool_call>", "</tool_call>", "K", "\n", " "]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=50))


def test_answer_is_what_stands_between_the_last_tags():
    texts = {"<answer>\n K \n</answer>": "K", "<answer>A</answer><answer>B</answer>": "B"}
    texts |= {"<answer></answer>": ""}
    texts |= dict.fromkeys(["<answer>K", "K</answer>", "</answer>K<answer>", ""])
    texts |= {"<ANSWER>K</ANSWER>": None}
    for text, answer in texts.items():
        assert extract_answer(text) == answer, text


def test_answer_is_correct_if_the_same_after_normalising():
    good = [("K", "K"), ('"K"', "K"), ("the  Red\nCircle", "The red circle"), ("STRASSE", "straße")]
    good += [("K" + " " * (MAX_ANSWER_CHARS - 2), "K")]
    bad = [("K or L", "K"), ("KK", "K"), ("", "K"), ("K" + " " * MAX_ANSWER_CHARS, "K")]
    bad += [("...", "!?"), ("", "")]  # nothing is left of either: no answer, so no credit
    assert [pair for pair in good if not is_correct(*pair)] == []
    assert [pair for pair in bad if is_correct(*pair)] == []


@given(text=st.text(max_size=60))
def test_a_normalised_text_has_bare_edges_and_a_text_is_its_own_correct_answer(text):
    bare = normalise(text).strip(" .,;:!?\"'()[]")
    assert normalise(text) in (bare, f".{bare}") and (normalise(text) == bare or bare[0].isdigit())
    assert is_correct(text, text) == (normalise(text) != "")


@given(turns=st.lists(TEXTS, max_size=4), truth=st.text(max_size=5))
def test_no_text_raises_and_a_well_formed_answer_was_written_once(turns, truth):
    formed = well_formed(turns)
    answers = [extract_answer(turn) for turn in turns]
    assert is_correct(answers[-1] if turns else None, truth) in (True, False)
    if formed:
        assert [answer is not None for answer in answers] == [False] * (len(turns) - 1) + [True]
        assert "".join(turns).count("<answer>") == 1


def test_form():
    good = [[ANSWER], [CALL, ANSWER], [CALL] * 6 + [ANSWER], ["<answer>K</answer>"]]
    bad = [[], [""], [CALL], [ANSWER, ANSWER], ["<think>?</think>", ANSWER], [CALL + CALL, ANSWER]]
    bad += [[CALL + ANSWER], [CALL + "<answer>K</answer>", ANSWER], ["<tool_call>{}", ANSWER]]
    for turn in ["<answer>K", "K</answer>", "</answer>K<answer>", "<answer>K</answer></answer>"]:
        bad.append([turn])
    bad += [["<answer>K</answer><answer>L</answer>"], ["<think>!<answer>K</answer>"]]
    bad += [["</think>!<think><answer>K</answer>"]]
    assert [turns for turns in good if not well_formed(turns)] == []
    assert [turns for turns in bad if well_formed(turns)] == []


def test_a_long_text_takes_no_long_time():
    began = time.process_time()
    for text in ("<answer>" * 100_000, "<answer></answer" * 100_000, "<think>" * 100_000):
        extract_answer(text), well_formed([text]), is_correct(text, "K")
    for text in ("A. " * 20_000, "x" + " " * 50_000 + "A. y", "A. a B. b " * 5_000):
        split_options(text)
    assert time.process_time() - began < 5


# --- a rule for each kind of question -----------------------------------------------------------


def sample(answer, verifier, options=(), question="?"):
    return {"answer": answer, "verifier": verifier, "options": [*options], "question": question}


def correct(row, answers):
    """Those of the answers that are correct."""
    return [answer for answer in answers if check_answer(answer, row)]


FLAG = sample("B", "choice", ["red", "dark blue", "white"])


def test_a_choice_is_a_letter_or_an_option_s_text():
    good = ["b", "(B)", "B.", "B)", "B. dark blue", "(B) Dark  Blue.", "B: dark blue", "dark blue"]
    good += ["The answer is B.", "Option B", r"\boxed{B}", "B. It is dark blue, as the crop shows."]
    bad = ["A", "C. white", "red", "blue", "A or B", "A B C", ""]
    bad += ["B. red"]  # letter and text disagree
    bad += ["D"]  # there is none
    bad += ["B" * 999, "B" + " " * MAX_ANSWER_CHARS]
    for row in (FLAG, {**FLAG, "answer": "dark blue"}):
        assert correct(row, good + bad) == good


def test_odd_options():
    for options, truth, answer, expected in [
        (["B", "A", "C"], "A", "A", True),  # a bare letter is the option's letter
        (["B", "A", "C"], "A", "B", False),
        (["a dog", "a cat"], "A", "a dog", True),  # and not option A with a text
        (["a dog", "a cat"], "B", "a dog", False),
        (["same", "same"], "B", "A", True),
        (["12", "13"], "B", "13", True),
        ([], "yes", "Yes.", True),  # no options known: the same words
        ([], "B", "B. red", False),
        (["x", "y"], "none of them", "None of them", True),
    ]:
        assert check_answer(answer, sample(truth, "choice", options)) is expected, (options, answer)


def test_yes_or_no_is_decided_by_the_clause_that_says_it():
    answers = ["Yes.", "Yes, there is a dog.", "There is a dog; yes.", "No", "Nothing of that kind"]
    answers += ["Yes or no", "No. Yes.", "Yes, there is no dog."]
    assert correct(sample("yes", "yes_no"), answers) == answers[:3]
    assert correct(sample("no", "yes_no"), answers) == ["No"]


def test_numbers_have_a_tolerance():
    for truth, good, bad in [
        ("12.5", ["12.5", "12.6"], ["12.7", "-12.5"]),  # within one in a hundred
        ("12", ["12.0"], []),
        ("2015", [], ["2016"]),  # a whole number may be a year
        ("1,200", ["1200"], []),
        ("12%", ["12"], []),
        ("$3.50", ["3.5", r"\boxed{3.5}"], []),
        ("3", ["three", "about 3", "3 dogs"], ["1e999", "nan", "inf", "about 4", "more than 3"]),
        ("0.5", [".5", "50 %", "1/2"], ["5", "-.5"]),
        ("5", [], [".5"]),
        ("$50", ["50", "50 dollars"], ["$.50"]),
        ("blue", ["Blue"], []),
        ("0.0", ["0"], []),
        ("1e3", ["1000"], []),
    ]:
        assert correct(sample(truth, "number"), good + bad) == good, truth


def test_math_is_correct_if_it_is_equal():
    for truth, good, bad in [
        (r"\frac{3}{4}", ["3/4", "0.75"], []),
        ("0.75", [r"\boxed{\frac{3}{4}}"], []),
        ("7/4", ["1.75"], []),
        ("$12$", ["12"], []),
        (r"2\sqrt{3}", [r"\sqrt{12}"], []),
        ("x^2+2x+1", ["(x+1)^2"], []),
        ("50%", ["0.5"], []),
        ("A", ["(a)"], []),
        ("12", ["twelve"], ["13", "", "__import__('os').system('true')"]),
    ]:
        assert correct(sample(truth, "math"), good + bad) == good, truth


def test_a_formula_that_would_never_end_is_not_computed():
    began = time.process_time()
    towers = ["9^{9^{9^{9}}}", "9**9**9**9", "99999999!", r"\left(99^{99}\right)^{99^{99}}"]
    towers += ["9^{9*9*9*9*9*9*9}", "((((9^99)^99)^99)^99)^99", "{" * 900, "9" * 900]
    assert correct(sample("12", "math"), [*towers, r"\frac{1}{" * 80]) == []
    assert time.process_time() - began < 30


def test_math_is_checked_outside_the_main_thread_too():
    with ThreadPoolExecutor() as pool:
        assert pool.submit(check_answer, "3/4", sample("0.75", "math")).result() is True


def test_a_judge_is_asked_only_where_the_rule_cannot_tell():
    asked = []

    def judge(question, answer, truth):
        asked.append((question, answer, truth))
        return {"navy": True, "green": False}.get(answer)

    words = sample("dark blue", "text", question="What colour?")
    for answer, row, expected, calls in [
        ("dark blue", words, True, 0),
        ("navy", words, True, 1),
        ("green", words, False, 1),
        ("blue", words, False, 1),  # neither can tell
        ("?", words, False, 0),
        ("A or B", FLAG, False, 0),
        ("navy" + " " * MAX_ANSWER_CHARS, words, False, 0),
        (None, words, False, 0),
        ("A", FLAG, False, 0),
        ("navy", FLAG, True, 1),
        ("no", sample("yes", "yes_no"), False, 0),
        ("3", sample("4", "number"), False, 0),
    ]:
        asked.clear()
        assert check_answer(answer, row, judge) is expected and len(asked) == calls, answer
        assert asked in ([], [(row["question"], answer, row["answer"])])


@given(answer=st.text(max_size=40), truth=st.text(max_size=10))
def test_no_answer_raises_and_a_row_without_verifier_is_checked_by_its_words(answer, truth):
    for name in VERIFIERS:
        assert check_answer(answer, sample(truth, name, ["red", "blue"])) in (True, False)
    assert check_answer(answer, {"answer": truth}) or not is_correct(answer, truth)
    with pytest.raises(ValueError, match="unknown verifier 'taste'; there are text, choice"):
        check_answer(answer, sample(truth, "taste"))


# --- answers that people and models write -------------------------------------------------------


def test_no_definite_verdict_on_the_written_answers_is_wrong_and_the_page_says_how_many_there_are():
    counts = count(dict.fromkeys(KINDS, ours), answers())
    assert [row for row in answers() if ours(row) is (row["verdict"] != "right")] == []
    page = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert all(line in page for line in lines("deepeyes-lite", counts))


MARKS = "A B (B) **B** ( ) { } [ ] \\frac \\sqrt \\boxed{ \\text{ $ \\$ 12 .5 - − ^ ^{9999} ** ! ° % yes no"
MARKS += " not or wait ½ ² ９"
MARKS = [
    *MARKS.split(),
    ", no, ",
    "the",
    "answer is",
    "dark blue",
    "because",
    "\n",
    " ",
    "= x",
    "1,200",
    "\u200b",
    "A. ",
]
REPLIES = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=30).map("".join)
ROWS = [
    sample("B", "choice", ["red", "dark blue", "(", "12"]),
    sample("no", "yes_no", question="Is there a dog?"),
    sample("$.50", "number"),
    sample(r"(x+1)^2 \frac{3}{4}", "math"),
    sample("[2, 5)", "math"),
    sample("", "choice", ["", ""]),
]


@given(reply=REPLIES, row=st.sampled_from(ROWS), truth=REPLIES | st.none())
def test_no_reply_raises_or_takes_long_and_every_verdict_is_of_three(reply, row, truth):
    began = time.process_time()
    assert verdict(reply, row if truth is None else {**row, "answer": truth}) in (True, False, None)
    assert time.process_time() - began < 2


def test_a_formula_hangs_no_thread():
    towers = [
        "(9^{9999})^{9999}",
        "9^{9^{9^{9}}}",
        "((((9^99)^99)^99)^99)^99",
        "99999999!",
        "9" * 900,
    ]
    towers += [
        "(" * 190,
        "-" * 190,
        r"\sqrt" * 30 + "2",
        r"\frac{1}{" * 20,
        "sin" * 60,
        "2^" * 90 + "2",
    ]
    for text in towers:
        with ThreadPoolExecutor() as pool:
            assert pool.submit(verdict, text, sample("12", "math")).result(timeout=20) is not True


def test_the_longest_replies_of_one_piece_are_read_in_time():
    began = time.process_time()
    for piece in [
        *MARKS,
        "the ",
        "- ",
        "red or ",
        "A, ",
        "12 ",
        "x^2 ",
        "\\text{",
        "no, ",
        "so the answer is ",
    ]:
        for row in ROWS:
            verdict((piece * 999)[: MAX_ANSWER_CHARS - 1], row)
    assert time.process_time() - began < 60


@given(text=st.from_regex(r"[-+]?([0-9]{1,6}(\.[0-9]{1,3})?|\.[0-9]{1,3})", fullmatch=True))
def test_a_number_is_itself_however_it_is_wrapped_and_no_other(text):
    value, row = float(text), sample(text, "number")
    for wrapped in (
        "{}",
        "**{}**",
        "$\\boxed{{{}}}$",
        "The answer is {}.",
        "{} dogs",
        '"{}"',
        "\\text{{{}}}",
    ):
        assert verdict(wrapped.format(text), row) is True, wrapped
    # A thousandfold may be a unit, and three digits behind a point a thousand: those are left open.
    assert verdict(f"{value * 2 + (1 if value >= 0 else -1):.4f}", row) is not True
    shifted = text.replace(".", "", 1)
    if "." in text and float(shifted) != value:
        assert verdict(shifted, row) is not True
