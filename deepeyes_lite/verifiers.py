"""Is the answer right? Rules first: exact, cheap, and nothing to talk a judge into.

DeepEyes asks a 72B judge for its visual questions and gives answers of 1,000 characters or more no
reward, because a long answer can talk the judge round (public code, ``vl_agent.py``). Here each kind of
question has a rule (``VERIFIERS``), named by the sample's column ``verifier``. A rule says right, wrong,
or that it cannot tell; only then a judge is asked, if there is one.

A rule reads what a reply claims: typography and markup go, what was taken back goes, words that only the
question has go. What is left must *be* the answer. A text that merely holds the answer is not decided.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial

from deepeyes_lite.formulas import same
from deepeyes_lite.options import LETTERS, fixed_places, normalise
from deepeyes_lite.prompts import read_reply

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
    >>> [check_answer(text, flag) for text in ("B", "**b**", "It is white.", "A. No, B.", "A", "B. red")]
    [True, True, True, True, False, False]
    """
    correct = verdict(answer, sample)
    if correct is None and judge is not None:
        correct = judge(sample["question"], answer, sample["answer"])
    return bool(correct)


def verdict(answer: str | None, sample: dict) -> bool | None:
    """Right, wrong, or None where the rule cannot tell; arguments and errors as of `check_answer`."""
    name = sample.get("verifier") or "text"
    if name not in VERIFIERS:
        raise ValueError(f"unknown verifier {name!r}; there are {', '.join(VERIFIERS)}")
    if answer is None or len(answer) >= MAX_ANSWER_CHARS or not normalise(answer):
        return False
    exact = name in ("number", "math") and _SIGNED.search(answer)
    if is_correct(answer, sample["answer"]) and not exact:
        return True
    rule, claims = VERIFIERS[name], list(_claims(_plain(answer, name == "math")))
    verdicts = [rule(text, sample) for text in claims]
    verdicts += [_evasive(text, sample, rule, _PARTED.get(name)) for text in claims[:1]]
    return next((correct for correct in verdicts if correct is not None), None)


def rule_of(answer: str, options: list[str]) -> str:
    """The rule for a question that names none.

    >>> rule_of("B", ["red", "white"]), rule_of("Yes", []), rule_of("$12.50", []), rule_of("red", [])
    ('choice', 'yes_no', 'number', 'text')
    """
    plain = normalise(answer)
    if plain in [*LETTERS[: len(options)].casefold(), *map(normalise, options)]:
        return "choice"
    if plain in ("yes", "no"):
        return "yes_no"
    number = re.fullmatch(r"[-+]?[$€£]?(?:\d[\d,]*)?\.?\d+\s*%?", answer.strip())
    return "number" if number else "text"


def is_correct(answer: str | None, truth: str) -> bool:
    """Whether the answer is the truth, after `normalise`; an answer too long is wrong unread.

    >>> is_correct("k.", "K"), is_correct("Letter K", "K"), is_correct(None, "K")
    (True, False, False)
    """
    if answer is None or len(answer) >= MAX_ANSWER_CHARS:
        return False
    return normalise(answer) == normalise(truth) != ""


# --- what a reply claims ------------------------------------------------------------------------

# Typography: full-width signs, quotes, dashes, signs that nobody sees.
_SIGNS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SIGNS |= dict.fromkeys(map(ord, "“”„«»"), '"') | dict.fromkeys(map(ord, "‘’′"), "'")
_SIGNS |= dict.fromkeys(map(ord, "−–—‐‑‒﹣"), "-") | dict.fromkeys(
    map(ord, "\u200b\u200c\u200d\u2060\ufeff")
)
_SIGNS |= {ord("。"): ".", ord("、"): ",", ord("【"): "[", ord("】"): "]", 0x3000: " "}
_SIGNED = re.compile(r"[\d!]")  # where punctuation may be part of a number
_MARKUP = re.compile(
    r"\\[()\[\]]|\*\*|__|`|</?[a-z]{1,6}>|^\s*(?:[#•]+|[-*](?= ))\s*", re.MULTILINE
)
_WRAPPER = re.compile(r"\\(?:text|math|mbox|operatorname)(?:rm|bf|it|sf|tt|normal)?\s*\{([^{}]*)\}")
# What follows takes back what was before, or says it once more.
_TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|correction|scratch that|on second thoughts?|(?:sorry,? )?i meant?|or rather)\b"
    r"[\s,.:;-]*|(?<=[.,;!?]\s)no\s*[,.;:-]+\s+(?=\S)",
    re.IGNORECASE,
)
_SAID_AGAIN = re.compile(
    r"[.,;:!\n]\s*(?:(?:so|thus|therefore|hence|and|but),?\s+)?(?:(?:the|my)\s+)?"
    r"(?:(?:final|correct|right|best)\s+)*(?:answer|option|choice)(?:\s+is|\s*:)[\s:]*",
    re.IGNORECASE,
)
# Words that may stand around a claim, besides those of its question.
_NEUTRAL = frozenset(
    str.split("""
    so thus therefore hence well ok okay sure sorry finally clearly definitely probably likely exactly based
    here the an this that that's it it's its there there's i i'd i'm i've you my your what is are was were be
    has can would should must think believe see say says read reads written count counted choose pick select
    meant shows go going with confident looking look looks like appears seems comes costs made equals in at of
    on to as final correct best answer ans option choice result question letter word colour color value number
    total price amount year crop image picture photo shown
    """)
)
_UNSAFE = frozenset(
    str.split("not no or nor and both either neither than more less yes true false without except")
)
_DOUBT = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|either|neither|wrong|incorrect|false|unsure|impossible|excluded|wait|"
    r"not (?:sure|certain|correct|right|true|the|it|an?)|cannot be|can't be)\b"
    r"|^(?:is|was|does|can|could)? ?(?:not|never)\b|n't\b",
    re.IGNORECASE,
)


def _plain(answer: str, math: bool) -> str:
    r"""The reply without typography and markup; of a reply with a box, what stands in the last one.

    >>> _plain(r"so \boxed{\text{Ｂ}} since $x_{1}=2$", math=False)
    'B'
    """
    text = _unboxed(unicodedata.normalize("NFC", answer).translate(_SIGNS))
    for _ in range(2):
        text = _WRAPPER.sub(r"\1", text)
    text = _MARKUP.sub("", text).strip()
    return (
        text
        if math
        else re.sub(r"(?<!\S)\*|\*(?!\S)|(?<!\w)_|_(?!\w)|\$(?=[^\d.-]|$)", "", text).strip()
    )


def _unboxed(text: str) -> str:
    r"""What stands in the last ``\boxed{…}``, if it is closed, or the text.

    >>> _unboxed(r"so \boxed{\frac{1}{2}} since $x_{1} = 2$"), _unboxed(r"\boxed{1")
    ('\\frac{1}{2}', '\\boxed{1')
    """
    start, depth = text.rfind(r"\boxed{") + len(r"\boxed{"), 1
    if start < len(r"\boxed{"):
        return text
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[start:end]
    return text


def _claims(text: str) -> Iterator[str]:
    """The parts of a reply that may be its claim: what it says after all that it takes back."""
    *_, back = [None, *(m for m in _TAKEN_BACK.finditer(text) if m.start())]
    text = text[back.end() :] if back else text
    if re.search(r"\s\S+\s\S+\?$", text):  # asks back
        return
    yield text
    again = list(_SAID_AGAIN.finditer(text))
    if len(again) == 1:
        yield text[again[0].end() :]


_ARTICLES = {"a", "an", "the"}
MAX_NEUTRAL = 20  # words on a side; all pairs of them are tried
_PLACES = frozenset(
    str.split("left right above below behind front under over top bottom north south east west")
)


def _cores(text: str, sample: dict) -> Iterator[str]:
    """A text without neutral words on its left and on its right, as few as can be first.

    Neutral are ``_NEUTRAL`` and the words of the question. Where the answer is a place, they are not: of two
    things in a question, "on the right" is said of one. There the words are those that all options share.
    """
    options = [re.findall(r"\w+", option.casefold()) for option in sample.get("options") or []]
    own = set(re.findall(r"\w+", sample["answer"].casefold())).union(*options)
    places = own & _PLACES and not fixed_places(sample.get("options") or [])
    before, after = _shared(options)
    asked = set(re.findall(r"[\w']+", (sample.get("question") or "").casefold()))
    asked = {word for word in asked - _UNSAFE if len(word) > 1 and not word.isdigit()}
    shared = {*options[0][:before]} if before else set()
    own -= shared | _ARTICLES | ({*options[0][len(options[0]) - after :]} if after else set())
    known = (_NEUTRAL | ((shared if places else asked) | shared)) - own

    words = text.split()
    neutral = [
        normalise(word) in known or word in ("a", "A", "i", "I", "=", "-", ":") for word in words
    ]
    left = next((i for i, known in enumerate(neutral) if not known), len(words) - 1)
    right = next((i for i, known in enumerate(reversed(neutral)) if not known), 0)
    for end in range(len(words), len(words) - min(right, MAX_NEUTRAL) - 1, -1):
        yield from (" ".join(words[start:end]) for start in range(min(left, MAX_NEUTRAL) + 1))


def _shared(options: list[list[str]]) -> tuple[int, int]:
    """How many words all options begin with, and how many they end with.

    >>> _shared([["on", "the", "left", "side"], ["on", "the", "right", "side"]])
    (2, 1)
    """
    shortest = min(map(len, options), default=0)
    before = next((i for i in range(shortest) if len({w[i] for w in options}) > 1), shortest)
    after = next((i for i in range(shortest - before) if len({w[-1 - i] for w in options}) > 1), 0)
    return before, after


_REFUSAL = re.compile(
    r"(?:(?:sorry|i'm sorry),? )?(?:i )?(?:(?:do not|don't|cannot|can't) (?:know|tell|say|determine)|"
    r"am not sure|have no idea|i'm not sure)(?: (?:it|this|that|which|the answer|for sure))?|"
    r"unknown|unclear|unsure|not sure|no idea|it is (?:unclear|unknown)|maybe|perhaps|n/a|"
    r"(?:the answer )?cannot be determined",
    re.IGNORECASE,
)


def _evasive(text: str, sample: dict, rule: Callable, parted: re.Pattern | None) -> bool | None:
    """Wrong where a reply says nothing, denies the truth, or lists answers of which one is wrong."""
    if _REFUSAL.fullmatch(normalise(text)):
        return False if not _REFUSAL.fullmatch(normalise(sample["answer"])) else None
    denied = (re.match(r"not (.*)", core, re.I | re.DOTALL) for core in _cores(text, sample))
    if any(match and rule(match[1], sample) for match in denied):
        return False
    # Options that speak of others, or hold an "and" themselves, may be what a list means.
    plain = not any(re.search(r"\b(?:and|or)\b|[,/]", o) for o in sample.get("options") or [])
    if parted and plain and not fixed_places(sample.get("options") or []):
        parts = [part for part in map(str.strip, parted.split(text)) if normalise(part)]
        verdicts = [rule(part, sample) for part in parts[:9]]
        return all(verdicts) if len(parts) > 1 and None not in verdicts else None
    return None


# --- one rule for each kind of question ---------------------------------------------------------


def _text(text: str, sample: dict) -> bool | None:
    """The same words; spaces and hyphens inside do not count where there is no digit."""

    def joined(words: str) -> str:
        words = normalise(words)
        return words if re.search(r"\d", words) else re.sub(r"[\s-]", "", words)

    truth = joined(sample["answer"])
    return True if truth and any(joined(core) == truth for core in _cores(text, sample)) else None


_YES = {"yes": True, "yeah": True, "yep": True, "yup": True, "no": False, "nope": False}
# What a yes cannot stand beside, but for what is no denial ("no doubt", ", not green"); and a no.
_HARMLESS = re.compile(
    r"\bno (?:doubt|question|problem|other|more|wonder|reason)\b|"
    r"\bnot (?:easy|easily|clearly|fully|very|only)\b|"
    r"^not (?!sure|certain|really|quite|exactly|at all|there|visible|any)"
)
_DENIES = re.compile(
    r"\b(?:no|not|if|unless|otherwise|zero|lied|never|none|neither|nobody|nothing|cannot|yes|wrong|incorrect|mistake|false|maybe|"
    r"perhaps|unsure)\b|n't\b"
)
_AFFIRMS = re.compile(
    r"\b(?:yes|if|unless|otherwise|wrong|incorrect|mistake|maybe|perhaps|unsure)\b|"
    r"^(?:it|there|he|she|they|that|this) (?:is|are|does|do|has|can|was|were)$"
)


def _yes_no(text: str, sample: dict) -> bool | None:
    """By the clauses that say yes or no and nothing else, if they agree and no other one denies it."""
    clauses = [normalise(clause) for clause in re.split(r"[.,;:!?\n/|&+]+|\s-+\s", text)]
    clauses = [
        re.sub(r"^(?:(?:so|but|and|also|because|since) )+", "", c) for c in clauses if c
    ] or [""]
    votes, others = set(), []
    for clause in clauses:
        said = [core for core in map(normalise, _cores(clause, sample)) if clause.endswith(core)]
        vote = next((_YES[core] for core in said if core in _YES), None)
        first = re.match(r"yes\b", clause) if not votes and vote is None else None
        votes |= {vote} - {None} if not first else {True}
        others += [clause[3:].strip() if first else clause] if vote is None else []
    if len(votes) != 1:
        return None
    vote = votes.pop()
    others = [_HARMLESS.sub("", clause) for clause in others]
    if any((_DENIES if vote else _AFFIRMS).search(clause) for clause in others):
        return None
    asked = set(re.findall(r"[\w']+", (sample.get("question") or "").casefold()))
    asked |= {"it", "there", "is", "are", "a", "an"}
    if not vote and any(len(c.split()) > 1 and asked >= set(c.split()) for c in others):
        return None  # "No, the door is open." to "Is the door open?"
    return vote == _YES.get(normalise(sample["answer"]))


def _choice(text: str, sample: dict) -> bool | None:
    """By letter, by the option's text, or by both where they agree."""
    options, truth = (
        [normalise(o) for o in sample.get("options") or []],
        normalise(sample["answer"]),
    )
    right = LETTERS.casefold().find(truth) if len(truth) == 1 else -1
    if not 0 <= right < len(options):
        if truth not in options:
            return _text(text, sample)
        right = options.index(truth)
    chosen = _option(text, options, sample)
    return None if chosen is None else options[chosen] == options[right]


_LETTER = re.compile(
    r"[(\[{<]?([A-Ha-h])(?:\s*[)\]}>.:,;]+|\s+-+(?=\s)|\s*\n)\s*(.*)|([A-H])\s+(.*)", re.DOTALL
)
_HEAD = re.compile(r"(.+?)(?:[.,;:!]\s|\s\(|\s(?:because|since|as)\s)(.*)", re.DOTALL)


def _option(text: str, options: list[str], sample: dict) -> int | None:
    """Index of the option that a text names.

    >>> ask = {"question": "Which colour?", "answer": "A"}
    >>> [_option(text, ["red", "dark blue"], ask) for text in ("(B) since it is", "dark blue", "red or B")]
    [1, 1, None]
    """
    names, letters = _names(options), LETTERS[: len(options)].casefold()
    for core in _cores(text, sample):
        plain = normalise(core)
        if len(plain) == 1 and plain in letters:
            return letters.index(plain)
        if plain in names:  # "A red" may be a letter beside the text of another
            return (
                None
                if text.startswith("A ") and core == text[2:] and names[plain]
                else names[plain]
            )
        letter = _LETTER.match(core)
        if letter and (name := (letter[1] or letter[3]).casefold()) in letters:
            index, rest = letters.index(name), (letter[2] or letter[4] or "").strip()
            if (
                options[names.get(normalise(rest), -1)] == options[index]
                and normalise(rest) in names
            ):
                return index
            if letter[1] or re.match(r"(?:is|because|since|as|for)\b", rest):
                return index if _harmless(rest, index, options, names) else None
        if head := _HEAD.match(core):
            for part in map(normalise, _cores(head[1], sample)):
                if part in names:
                    return names[part] if _harmless(head[2], names[part], options, names) else None
    return None


def _harmless(rest: str, index: int, options: list[str], names: dict[str, int]) -> bool:
    """Whether what follows a claim speaks of no other option, but to deny it."""
    longest = sorted(names, key=len, reverse=True)
    own = "|".join(re.escape(name) for name in longest if options[names[name]] == options[index])
    other = [re.escape(name) for name in longest if options[names[name]] != options[index]]
    letters = LETTERS[: len(options)].replace(LETTERS[index], "")
    letter = (
        rf"(?-i:[{letters}])(?![\w'])(?! [a-z])|\([{letters}]\)|(?-i:[{letters}]) (?:is|or|and)\b"
    )
    other = rf"(?<!\w)(?:{'|'.join([*other, letter])})(?!\w)"
    rest = re.sub(rf"(?<!\w)(?:{own})(?!\w)", "", rest, flags=re.IGNORECASE)
    denied = rf"\b(?:not|rather than|instead of|unlike) (?:(?:an?|the|option) )*{other}"
    rest = re.sub(denied, "", rest, flags=re.IGNORECASE)
    return not re.search(other, rest, re.IGNORECASE) and not _DOUBT.search(rest)


def _names(options: list[str]) -> dict[str, int]:
    """What an option may be called: its text, and the part of it that tells it from the others.

    >>> sorted(_names(["the dog is left of it", "the dog is right of it"]))[:3]
    ['dog is left of it', 'dog is right of it', 'left']
    """
    words = [option.split() for option in options]
    before, after = _shared(words)
    names: dict[str, int] = {}
    ambiguous = {""}
    for index, (option, parts) in enumerate(zip(options, words)):
        cores = [" ".join(parts[before:end]) for end in range(len(parts) - after, len(parts) + 1)]
        for name in {option, re.sub(r"^(?:an?|the) ", "", option), *cores}:
            if options[names.setdefault(name, index)] != option:
                ambiguous.add(name)
    return {name: index for name, index in names.items() if name not in ambiguous}


_ABOUT = re.compile(
    r"(?:about|around|approximately|approx\.?|roughly|nearly|almost|circa)\s+|[~≈]\s*", re.I
)
_ASIDE = re.compile(
    r"(.*?[^\s,;])(?:[,;.!]\s+(?=[A-Za-z])|\s+(?:because|since|as)\s)(.*)", re.DOTALL
)
_ASIDE_OR_BRACKET = re.compile(_ASIDE.pattern.replace("(?:[", r"(?:\s+\(|[", 1), re.DOTALL)


_SUM = re.compile(r"[\d)]\s*(?:[+-]|\*(?!\s*10\s*\^))\s*\d|(?<!10)\^")  # no number, but a reckoning


# Of things that are counted, no number of pairs or of centimetres is an answer.
_MEASURED = re.compile(r"[$€£%°]|\b(?:pairs?|couples?|sets?)\b|\d ?(?:[mk]?m|cm|k?g|mg|m?l|s|h)\b")


def _number(text: str, sample: dict, math: bool = False) -> bool | None:
    """As `formulas.same` says, with a tolerance for decimals; what is said beside it holds no number."""
    truth = _plain(sample["answer"], math=True)
    decimal = re.search(r"\.\d*[1-9]", truth) and not math
    counted = re.search(r"\bhow many\b", sample.get("question") or "", re.IGNORECASE)
    for core in _cores(text, sample):
        about = _ABOUT.match(core)
        core = core[about.end() :] if about else core
        aside = (_ASIDE if math else _ASIDE_OR_BRACKET).match(core)
        good = aside and not re.search(r"\d|\bor\b|\bnot\b", aside[2])
        if not math and (_SUM.search(core) or (counted and _MEASURED.search(core))):
            continue
        for part in [aside[1], core] if good else [core]:
            part = part.lstrip(" \"'").rstrip(" .,;?\"'" + "!" * (not math))
            equal = same(part, truth, TOLERANCE if decimal else 0.0)
            if equal is not None:
                return equal or (None if about else False)
    return None if _SIGNED.search(text) else _text(text, sample)


VERIFIERS: dict[str, Callable[[str, dict], bool | None]] = {
    "text": _text,  # the same words
    "choice": _choice,  # a letter, or an option's text
    "yes_no": _yes_no,
    "number": _number,
    "math": partial(_number, math=True),
}
# What stands between the answers of a reply that lists several.
_PARTED = {
    "choice": re.compile(
        r"\b(?:or|and|either)\b|[,;/\n]|\.\s(?=[(\[]?[A-H]\b)|\s(?=[(\[]?[A-H][.):\]])|(?<=\b[A-H])\s(?=[A-H]\b)"
    ),
    "yes_no": re.compile(r"\b(?:or|and)\b|[.,;:!?/]"),
    "number": re.compile(r"\b(?:or|to)\b"),
    "math": re.compile(r"\bor\b"),
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
