"""Is the answer right? Rules first: exact, cheap, and nothing to talk a judge into.

DeepEyes asks a 72B judge for its visual questions and gives answers of 1,000 characters or more no
reward, because a long answer can talk the judge round (public code, ``vl_agent.py``). Here each kind of
question has a rule (``VERIFIERS``), named by the sample's column ``verifier``. A rule says right, wrong,
or that it cannot tell; only then a judge is asked, if there is one.
"""

import logging
import math
import re
import threading
from collections.abc import Callable

from deepeyes_lite.prompts import read_reply

LETTERS = "ABCDEFGH"
_OPTION = re.compile(r"(?:^|\s)\(?([A-H])[.):]\s+(.+?)(?=\s*(?:\s\(?[A-H][.):]\s|$))", re.DOTALL)


def with_options(question: str, options: list[str]) -> str:
    """The question with its options below, one a line, as a model is asked.

    >>> print(with_options("What colour is the cup?", ["red", "dark blue"]))
    What colour is the cup?
    A. red
    B. dark blue
    """
    return "\n".join([question, *(f"{a}. {text}" for a, text in zip(LETTERS, options))])


def without_options(question: str, options: list[str]) -> str:
    """What `with_options` was given, whatever stands in the options."""
    return question.removesuffix(with_options("", options))


def split_options(question: str) -> tuple[str, list[str]]:
    """The question without its options, and the options; none if there are not at least two.

    >>> split_options("What colour is the cup? A. red B. dark blue")
    ('What colour is the cup?', ['red', 'dark blue'])
    >>> split_options("Is Mr. A. Smith in the picture?")
    ('Is Mr. A. Smith in the picture?', [])
    """
    matches = list(_OPTION.finditer(question))
    options = [match[2].strip(" .;,\n") for match in matches]
    if len(options) < 2 or [match[1] for match in matches] != list(LETTERS[: len(options)]):
        return question, []
    return question[: matches[0].start()].strip(), options


MAX_ANSWER_CHARS = 1000
TOLERANCE = 0.01  # relative, of a number with a decimal point; a whole number may be a year
# (question, answer, truth) -> right, wrong, or None where it cannot tell.
Judge = Callable[[str, str, str], bool | None]
_TAGS = ("think", "tool_call", "answer")


def extract_answer(text: str) -> str | None:
    """What stands between the last pair of answer tags, or None.

    >>> extract_answer("<think>I can read it.</think><answer> K </answer>")
    'K'
    >>> extract_answer("It is K.") is None
    True
    """
    return read_reply(text).answer


def check_answer(answer: str | None, sample: dict, judge: Judge | None = None) -> bool:
    """Whether the answer to a sample is right; an answer too long is wrong unread.

    Args:
        answer: what stood between the answer tags.
        sample: a row in our schema; ``answer``, and where they matter ``verifier`` (a key of
            ``VERIFIERS``, "text" if there is none), ``options`` and ``question``.
        judge: asked where the rule cannot tell. What neither can tell counts as wrong.

    Raises:
        ValueError: for an unknown verifier.

    >>> flag = {"answer": "B", "options": ["red", "white"], "verifier": "choice"}
    >>> [check_answer(text, flag) for text in ("B", "(b)", "B. white", "white", "A", "B. red")]
    [True, True, True, True, False, False]
    """
    name = sample.get("verifier") or "text"
    if name not in VERIFIERS:
        raise ValueError(f"unknown verifier {name!r}; there are {', '.join(VERIFIERS)}")
    if answer is None or len(answer) >= MAX_ANSWER_CHARS:
        return False
    verdict = VERIFIERS[name](answer, sample)
    if verdict is None and judge is not None:
        verdict = judge(sample["question"], answer, sample["answer"])
    return bool(verdict)


def normalise(text: str) -> str:
    """Lower case, inner white space single, outer punctuation gone.

    >>> normalise("  The  Letter K. ")
    'the letter k'
    """
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'()[]")


def is_correct(answer: str | None, truth: str) -> bool:
    """Whether the answer is the truth, after `normalise`; an answer too long is wrong unread.

    >>> is_correct("k.", "K"), is_correct("Letter K", "K"), is_correct(None, "K")
    (True, False, False)
    """
    if answer is None or len(answer) >= MAX_ANSWER_CHARS:
        return False
    return normalise(answer) == normalise(truth) != ""


# --- one rule for each kind of question ---------------------------------------------------------


def _text(answer: str, sample: dict) -> bool | None:
    return True if is_correct(answer, sample["answer"]) else None


def _yes_no(answer: str, sample: dict) -> bool | None:
    """By the first word: "Yes, there is." is a yes."""
    first = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return first[1].casefold() == normalise(sample["answer"]) if first else None


def _choice(answer: str, sample: dict) -> bool | None:
    """By letter, by the option's text, or by both where they agree."""
    options = [normalise(option) for option in sample.get("options") or []]
    right, chosen = _option(sample["answer"], options), _option(_unboxed(answer), options)
    if right is None:
        return _text(answer, sample)
    return None if chosen is None else options[chosen] == options[right]


_SAYS = re.compile(r"(?:the )?(?:(?:correct )?(?:option|choice|answer))(?: is)?[: ]+")


def _option(text: str, options: list[str]) -> int | None:
    """Index of the option that a text names; the options are normalised.

    >>> _option("The answer is (B).", ["red", "dark blue"]), _option("red or blue", ["red", "blue"])
    (1, None)
    """
    plain = normalise(text)
    letters = LETTERS[: len(options)].casefold()
    for name in (plain, normalise(_SAYS.sub("", plain, count=1))):
        if len(name) == 1 and name in letters:
            return letters.index(name)
        if name in options:
            return options.index(name)
        both = re.match(r"([a-h])[.):]\s*", name)
        if both and both[1] in letters:
            index, rest = letters.index(both[1]), normalise(name[both.end() :])
            # A letter beside another option's text names neither.
            return index if rest == options[index] or rest not in options else None
    return None


_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d{1,3})?", re.IGNORECASE)


def _number(answer: str, sample: dict) -> bool | None:
    """Within ``TOLERANCE``, or exactly where the truth is a whole number."""
    truth, given = _value(sample["answer"]), _value(_unboxed(answer))
    if truth is None or given is None:
        return _text(answer, sample)
    return math.isclose(given, truth, rel_tol=0 if truth.is_integer() else TOLERANCE)


def _value(text: str) -> float | None:
    """The number that a text is, without currency or percent sign.

    >>> _value("$1,200.50"), _value("12 %"), _value("about 12"), _value("1e999")
    (1200.5, 12.0, None, None)
    """
    plain = text.strip(" .$€£%\n")
    if not any(c.isdigit() for c in plain) or not _NUMBER.fullmatch(plain):
        return None
    value = float(plain.replace(",", ""))
    return value if math.isfinite(value) else None


def _math(answer: str, sample: dict) -> bool | None:
    """The same text, or equal to math_verify; DeepEyes asks its judge where neither holds."""
    answer, truth = _unboxed(answer), _unboxed(sample["answer"])
    if is_correct(answer, truth) or (_computable(answer + truth) and _equal(truth, answer)):
        return True
    return None


MAX_MATH_CHARS = 200
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*(?:\{[\w\\./+-]{1,4}\}|\(?-?\d{1,2}(?!\d)\)?|[a-zA-Z])")


def _computable(text: str) -> bool:
    """Whether a formula is small enough to compute: no factorials, four short exponents at most.

    A power tower or a large factorial runs in C for hours, where no time-out reaches it.

    >>> _computable(r"x^2 + \\frac{1}{2}"), _computable("9^{9^{9}}"), _computable("9**999999")
    (True, False, False)
    """
    left, exponents = _EXPONENT.subn("", text)
    return len(text) <= MAX_MATH_CHARS and exponents <= 4 and not re.search(r"[\^!]|\*\*", left)


def _equal(truth: str, answer: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    # Its time-outs are signals, which only the main thread gets; elsewhere it warns at every call.
    seconds = 10 if threading.current_thread() is threading.main_thread() else None
    for name in ("parser", "grader"):
        logging.getLogger(f"math_verify.{name}").setLevel(logging.CRITICAL)
    # As LaTeX only: its reader of plain expressions ends in Python's eval.
    formulas = [
        parse(f"${text.strip(' $')}$", [LatexExtractionConfig()], parsing_timeout=seconds)
        for text in (truth, answer)
    ]
    return verify(*formulas, timeout_seconds=seconds)


def _unboxed(text: str) -> str:
    r"""What stands in the last ``\boxed{…}``, or the text.

    >>> _unboxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start, end = text.rfind(r"\boxed{"), text.rfind("}")
    return text[start + len(r"\boxed{") : end] if 0 <= start < end else text


VERIFIERS: dict[str, Callable[[str, dict], bool | None]] = {
    "text": _text,  # the same words
    "choice": _choice,  # a letter, or an option's text
    "yes_no": _yes_no,
    "number": _number,
    "math": _math,
}


# --- form ---------------------------------------------------------------------------------------


def well_formed(turns: list[str]) -> bool:
    """Whether every turn keeps the format: calls first, one answer in the last turn, tags in pairs.

    Args:
        turns: what the model wrote, turn by turn.

    >>> well_formed(["<think>?</think><tool_call>{}</tool_call>", "<think>!</think><answer>K</answer>"])
    True
    >>> well_formed(["<answer>K</answer><answer>L</answer>"])
    False
    """
    if not turns:
        return False
    for turn in turns:
        for tag in _TAGS:
            opened, closed = turn.count(f"<{tag}>"), turn.count(f"</{tag}>")
            if opened != closed or opened > 1 or turn.find(f"</{tag}>") < turn.find(f"<{tag}>"):
                return False
    *calls, last = turns
    answers_early = any("<answer>" in turn or "<tool_call>" not in turn for turn in calls)
    return not answers_early and "<answer>" in last and "<tool_call>" not in last
