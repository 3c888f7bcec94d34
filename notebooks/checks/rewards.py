"""Exercises of notebook 04: the verifier, the format, the conditional bonus, the least bonus."""

import math
from functools import partial

from checks.exercise import Exercise
from deepeyes_lite.verifiers import extract_answer, is_correct, well_formed


def yes_or_no(attempt, *arguments) -> bool | None:
    answer = attempt(*arguments)
    return None if answer is None else bool(answer)


# Exercise 1. attempt(reply, truth) -> is the reply's answer the truth? The truth is K if no other is given.
verifier = Exercise(
    cases={
        "a right answer was rejected: is the truth treated as the answer is?": (
            "<think>I can read it.</think><answer>K</answer>",
        ),
        "a wrong answer was accepted": ("<think>Hm.</think><answer>L</answer>",),
        "the thinking was read, too: only what stands between the answer tags counts": (
            "<think>Not K.</think><answer>L</answer>",
        ),
        "several answers in one were accepted: compare the whole answer, do not search in it": (
            "<answer>A B K L M</answer>",
        ),
        "an empty answer was accepted: an empty text is part of every text": ("<answer></answer>",),
        "case, white space around the answer and a full stop after it do not matter": (
            "<answer> k. </answer>",
        ),
        "treat the truth as you treat the answer: case and full stop do not matter": (
            "<answer>k</answer>",
            "K.",
        ),
        "the first answer was taken: the last one counts": (
            "<answer>K</answer><answer>L</answer>",
        ),
        "the last answer counts, and it is right": ("<answer>L</answer><answer>K</answer>",),
        "there are no answer tags here, so there is no answer": ("K",),
        "the answer tag is never closed, so there is no answer": ("<answer>K",),
        "an answer of 1,000 characters or more is wrong unread": (
            f"<answer>K{1200 * '.'}</answer>",
        ),
        "measure the answer without the white space around it": (
            f"<answer>K{1200 * ' '}</answer>",
        ),
    },
    solution=lambda reply, truth: is_correct(extract_answer(reply), truth),
    mistakes={},
    praise="the last answer, whole and short, whatever its case",
    hint="give True or False",
    run=lambda attempt, reply, truth="K": yes_or_no(attempt, reply, truth),
)

CALL = '<think>?</think><tool_call>{"name": "image_zoom_in_tool"}</tool_call>'
ANSWER = "<think>!</think><answer>K</answer>"

# Exercise 2. attempt(turns) -> does an episode, a list of texts, keep the format?
form = Exercise(
    cases={
        "one turn with one answer keeps the format": ([ANSWER],),
        "a call, then an answer: this keeps the format": ([CALL, ANSWER],),
        "any number of calls may come before the answer": ([CALL, CALL, ANSWER],),
        "thinking is not asked for, only that its tags are in pairs": (["<answer>K</answer>"],),
        "an empty reply has as many opening as closing tags, none: ask for an answer, too": ([""],),
        "an episode without a turn has no answer": ([],),
        "there is no answer in the last turn": (["<think>K</think>"],),
        "the last turn holds a call and no answer": ([CALL],),
        "a tag is opened and never closed": (["<think>!<answer>K</answer>"],),
        "a tag is closed and never opened": (["</think><answer>K</answer>"],),
        "the tags are in pairs but the closing one comes first": (["</answer>K<answer>"],),
        "two answers in one turn: one pair of each tag at most": ([ANSWER + "<answer>L</answer>"],),
        "the last turn holds a call, too: nobody waited for its crop": (
            [CALL + "<answer>K</answer>"],
        ),
        "a turn before the last holds an answer and no call": ([ANSWER, ANSWER],),
        "a turn before the last holds an answer beside its call": (
            [CALL + "<answer>K</answer>", ANSWER],
        ),
        "a turn before the last holds no call": (["<think>?</think>", ANSWER],),
    },
    solution=well_formed,
    mistakes={},
    praise="tags in pairs, calls first, one answer, and that at the end",
    hint="give True or False",
    run=yes_or_no,
)


def paid(c, f, n, accuracy=0.8, kept=0.0, broken=-0.2, bonus=1.2):
    return accuracy * c + (kept if f else broken) + bonus * (c and n > 0)


# Exercise 3. attempt(correct, well_formed, calls) -> the reward of the conditional bonus.
bonus = Exercise(
    cases=[(c, f, n) for c in (True, False) for f in (True, False) for n in (0, 1, 3)],
    solution=paid,
    mistakes={
        "the bonus went to wrong answers, too: it is for a right answer after a zoom": (
            lambda c, f, n: paid(c, f, 0) + 1.2 * (n > 0)
        ),
        "there is no bonus: a right answer after a zoom earns 1.2 more": partial(paid, bonus=0.0),
        "the bonus is paid for every call: three calls are worth no more than one": (
            lambda c, f, n: paid(c, f, n, bonus=1.2 * n)
        ),
        "the bonus is paid for every right answer: only one after a zoom earns it": (
            lambda c, f, n: paid(c, f, 1)
        ),
        "the bonus stands in for accuracy: it comes on top, 0.8 + 1.2": partial(paid, bonus=0.4),
        "the format is paid for: keeping it earns nothing, breaking it costs 0.2": partial(
            paid, kept=0.2, broken=0.0
        ),
        "the sign of the format is turned round: breaking it costs 0.2": partial(
            paid, kept=-0.2, broken=0.0
        ),
        "the format is left out: breaking it costs 0.2": partial(paid, broken=0.0),
        "a broken format costs 0.2, not the whole reward": lambda c, f, n: f * paid(c, f, n),
        "a broken format costs 0.2, not the bonus": lambda c, f, n: paid(c, f, n, bonus=1.2 * f),
        "a right answer is worth 0.8, not 1": partial(paid, accuracy=1.0),
    },
    praise="a bonus for right answers after a zoom, once, whatever the number of calls",
)


def least_bonus(z, d, a, impossible=math.inf):
    return a * (d / z - 1) if z else impossible


# Exercise 4. attempt(p_zoom, p_direct, a) -> the least conditional bonus b*.
least = Exercise(
    cases=[(0.2, 0.4, 0.8), (0.5, 0.5, 0.8), (0.8, 0.4, 0.8), (0.4, 0.5, 1.0), (0.0, 0.5, 0.8)],
    solution=least_bonus,
    mistakes={
        "the ratio is upside down: it is p_direct over p_zoom": lambda z, d, a: a * (z / d - 1),
        "the 1 is missing: where both are equal, no bonus is needed": (
            lambda z, d, a: a + least_bonus(z, d, a)
        ),
        "the accuracy weight a is missing": lambda z, d, a: least_bonus(z, d, 1.0),
        "a is fixed at 0.8: it is an argument": lambda z, d, a: least_bonus(z, d, 0.8),
        "this is the least bonus paid whatever the answer; a conditional one is paid with chance "
        "p_zoom only": lambda z, d, a: a * (d - z),
        "cut off at 0: a negative b* says by how much zooming pays of itself": (
            lambda z, d, a: max(0.0, least_bonus(z, d, a))
        ),
        "the sign is turned round: b* is positive where zooming does not pay": (
            lambda z, d, a: -least_bonus(z, d, a)
        ),
        "where p_zoom is 0 no bonus is ever enough: infinity, not 0": partial(
            least_bonus, impossible=0.0
        ),
        "where p_zoom is 0 no bonus is ever enough: infinity, not NaN": partial(
            least_bonus, impossible=math.nan
        ),
    },
    praise="what a zoom lacks, as a share of what it brings",
    hint='p_zoom may be 0: then no bonus is enough, so give float("inf")',
)
