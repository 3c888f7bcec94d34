"""Checks of notebook 04: the verifier, the format, the conditional bonus, the least bonus."""

import math

import torch

from checks import agrees, over


def verifier(attempt) -> None:
    """Notebook 04, exercise 1: is the reply's answer the truth?

    Args:
        attempt: takes ``reply`` and ``truth``, both text, gives True or False.
    """
    _judge(attempt, _REPLIES, "the last answer, whole and short, whatever its case")


def form(attempt) -> None:
    """Notebook 04, exercise 2: does an episode keep the format?

    Args:
        attempt: takes ``turns``, a list of texts, gives True or False.
    """
    _judge(attempt, _TURNS, "tags in pairs, calls first, one answer, and that at the end")


def bonus(attempt) -> None:
    """Notebook 04, exercise 3: the reward of the conditional arm.

    Args:
        attempt: takes ``correct``, ``well_formed`` (bool) and ``calls`` (int), gives a number.
    """
    cases = [(c, f, n) for c in (True, False) for f in (True, False) for n in (0, 1, 3)]

    def table(reward):
        return torch.tensor([reward(c, f, n) for c, f, n in cases], dtype=torch.float32)

    mistakes = {
        "the bonus went to wrong answers, too: it is for a right answer after a zoom": table(
            lambda c, f, n: 0.8 * c - 0.2 * (not f) + 1.2 * (n > 0)
        ),
        "there is no bonus: a right answer after a zoom earns 1.2 more": table(
            lambda c, f, n: 0.8 * c - 0.2 * (not f)
        ),
        "the bonus is paid for every call: three calls are worth no more than one": table(
            lambda c, f, n: 0.8 * c - 0.2 * (not f) + 1.2 * c * n
        ),
        "the bonus is paid for every right answer: only one after a zoom earns it": table(
            lambda c, f, n: 2.0 * c - 0.2 * (not f)
        ),
        "the bonus stands in for accuracy: it comes on top, 0.8 + 1.2": table(
            lambda c, f, n: (1.2 if n else 0.8) * c - 0.2 * (not f)
        ),
        "the format is paid for: keeping it earns nothing, breaking it costs 0.2": table(
            lambda c, f, n: 0.8 * c + 0.2 * f + 1.2 * (c and n > 0)
        ),
        "the sign of the format is turned round: breaking it costs 0.2": table(
            lambda c, f, n: 0.8 * c - 0.2 * f + 1.2 * (c and n > 0)
        ),
        "the format is left out: breaking it costs 0.2": table(
            lambda c, f, n: 0.8 * c + 1.2 * (c and n > 0)
        ),
        "a broken format costs 0.2, not the whole reward": table(
            lambda c, f, n: f * (0.8 * c + 1.2 * (c and n > 0))
        ),
        "a broken format costs 0.2, not the bonus": table(
            lambda c, f, n: 0.8 * c - 0.2 * (not f) + 1.2 * (c and f and n > 0)
        ),
        "a right answer is worth 0.8, not 1": table(
            lambda c, f, n: 1.0 * c - 0.2 * (not f) + 1.2 * (c and n > 0)
        ),
    }
    right = table(lambda c, f, n: 0.8 * c - 0.2 * (not f) + 1.2 * (c and n > 0))
    if agrees(over(attempt, cases), (), right, mistakes) is not None:
        print("[ok] a bonus for right answers after a zoom, once, whatever the number of calls")


def least(attempt) -> None:
    """Notebook 04, exercise 4: the least conditional bonus.

    Args:
        attempt: takes ``p_zoom``, ``p_direct`` and ``a``, gives b*.
    """
    cases = [(0.2, 0.4, 0.8), (0.5, 0.5, 0.8), (0.8, 0.4, 0.8), (0.4, 0.5, 1.0), (0.0, 0.5, 0.8)]

    def table(rule, impossible=math.inf):
        return torch.tensor([rule(*case) if case[0] else impossible for case in cases])

    def rule(z, d, a):
        return a * (d / z - 1)

    mistakes = {
        "the ratio is upside down: it is p_direct over p_zoom": table(
            lambda z, d, a: a * (z / d - 1), -0.8
        ),
        "the 1 is missing: where both are equal, no bonus is needed": table(
            lambda z, d, a: a * d / z
        ),
        "the accuracy weight a is missing": table(lambda z, d, a: d / z - 1),
        "a is fixed at 0.8: it is an argument": table(lambda z, d, a: 0.8 * (d / z - 1)),
        "this is the least bonus paid whatever the answer; a conditional one is paid with chance "
        "p_zoom only": table(lambda z, d, a: a * (d - z), 0.8 * 0.5),
        "cut off at 0: a negative b* says by how much zooming pays of itself": table(
            lambda z, d, a: max(0.0, rule(z, d, a))
        ),
        "the sign is turned round: b* is positive where zooming does not pay": table(
            lambda z, d, a: -rule(z, d, a), -math.inf
        ),
        "where p_zoom is 0 no bonus is ever enough: infinity, not 0": table(rule, 0.0),
        "where p_zoom is 0 no bonus is ever enough: infinity, not NaN": table(rule, math.nan),
    }
    hint = 'p_zoom may be 0: then no bonus is enough, so give float("inf")'
    if agrees(over(attempt, cases), (), table(rule), mistakes, hint) is not None:
        print("[ok] what a zoom lacks, as a share of what it brings")


# Arguments, what is right, what is said where it is not.
_REPLIES = [
    (
        ("<think>I can read it.</think><answer>K</answer>", "K"),
        True,
        "a right answer was rejected: is the truth treated as the answer is?",
    ),
    (("<think>Hm.</think><answer>L</answer>", "K"), False, "a wrong answer was accepted"),
    (
        ("<think>Not K.</think><answer>L</answer>", "K"),
        False,
        "the thinking was read, too: only what stands between the answer tags counts",
    ),
    (
        ("<answer>A B K L M</answer>", "K"),
        False,
        "several answers in one were accepted: compare the whole answer, do not search in it",
    ),
    (
        ("<answer></answer>", "K"),
        False,
        "an empty answer was accepted: an empty text is part of every text",
    ),
    (
        ("<answer> k. </answer>", "K"),
        True,
        "case, white space around the answer and a full stop after it do not matter",
    ),
    (
        ("<answer>k</answer>", "K."),
        True,
        "treat the truth as you treat the answer: case and full stop do not matter",
    ),
    (
        ("<answer>K</answer><answer>L</answer>", "K"),
        False,
        "the first answer was taken: the last one counts",
    ),
    (
        ("<answer>L</answer><answer>K</answer>", "K"),
        True,
        "the last answer counts, and it is right",
    ),
    (("K", "K"), False, "there are no answer tags here, so there is no answer"),
    (("<answer>K", "K"), False, "the answer tag is never closed, so there is no answer"),
    (
        ("<answer>K" + "." * 1200 + "</answer>", "K"),
        False,
        "an answer of 1,000 characters or more is wrong unread",
    ),
    (
        ("<answer>K" + " " * 1200 + "</answer>", "K"),
        True,
        "measure the answer without the white space around it",
    ),
]

_CALL = '<think>?</think><tool_call>{"name": "image_zoom_in_tool"}</tool_call>'
_ANSWER = "<think>!</think><answer>K</answer>"
_TURNS = [
    (([_ANSWER],), True, "one turn with one answer keeps the format"),
    (([_CALL, _ANSWER],), True, "a call, then an answer: this keeps the format"),
    (([_CALL, _CALL, _ANSWER],), True, "any number of calls may come before the answer"),
    ((["<answer>K</answer>"],), True, "thinking is not asked for, only that its tags are in pairs"),
    (
        ([""],),
        False,
        "an empty reply has as many opening as closing tags, none: ask for an answer, too",
    ),
    (([],), False, "an episode without a turn has no answer"),
    ((["<think>K</think>"],), False, "there is no answer in the last turn"),
    (([_CALL],), False, "the last turn holds a call and no answer"),
    ((["<think>!<answer>K</answer>"],), False, "a tag is opened and never closed"),
    ((["</think><answer>K</answer>"],), False, "a tag is closed and never opened"),
    ((["</answer>K<answer>"],), False, "the tags are in pairs but the closing one comes first"),
    (
        ([_ANSWER + "<answer>L</answer>"],),
        False,
        "two answers in one turn: one pair of each tag at most",
    ),
    (
        ([_CALL + _ANSWER.replace("<think>!</think>", "")],),
        False,
        "the last turn holds a call, too: nobody waited for its crop",
    ),
    (([_ANSWER, _ANSWER],), False, "a turn before the last holds an answer and no call"),
    (
        ([_CALL + "<answer>K</answer>", _ANSWER],),
        False,
        "a turn before the last holds an answer beside its call",
    ),
    ((["<think>?</think>", _ANSWER],), False, "a turn before the last holds no call"),
]


def _judge(attempt, cases: list[tuple], praise: str) -> None:
    """Say what is wrong with the first case that an attempt gets wrong."""
    found = []
    for arguments, *_ in cases:
        try:
            found.append(attempt(*(list(a) if isinstance(a, list) else a for a in arguments)))
        except Exception as error:  # a learner's code: anything may go wrong in it
            print(f"[not yet] {_shown(arguments)}: {type(error).__name__}: {error}")
            return
    if all(value is None for value in found):
        print(f"[todo] {attempt.__name__} returns nothing so far")
        return
    for (arguments, right, message), given in zip(cases, found):
        try:
            verdict = bool(given)
        except Exception:  # such as an array: it has no truth value
            given = None
        if given is None:
            print(f"[not yet] {_shown(arguments)}: give True or False")
            return
        if verdict != right:
            print(f"[not yet] {message}\n  {_shown(arguments)}: expected {right}")
            return
    print(f"[ok] {praise}")


def _shown(arguments: tuple) -> str:
    return ", ".join(text if len(text) < 90 else text[:60] + " …" for text in map(repr, arguments))
