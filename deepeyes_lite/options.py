"""Multiple choice as text: options read out of a question, and written into it, by one pair of functions.

A benchmark is worth its shuffling: the public evaluators ask in the order of the file. A shuffled question
must look as the listed one did, and show one list of options, so options are written where they were read.
"""

import re

LETTERS = "ABCDEFGH"
_PUNCTUATION = " .,;:!?\"'()[]"
# "A.", "(A)", "A)", "[A]", "A:", "A -", "**A.**", "- A.", "(A)x": a letter with its punctuation.
_MARK = re.compile(
    r"(?<!\S)((?:[-•]\s)?(?:\*\*)?[(\[]?)([A-Ha-h])((?:[.):\]．）：]+(?:\*\*)?|\s[-–])(?=\s)|(?<=[(\[].)[)\]])"
)
# What tells how to answer, after the options; as a line of its own it needs no such words.
_TOLD = re.compile(
    r"(?<=\s)(?:Please |(?:Answer|Respond|Reply) (?:with|by|using|in|only|directly|the)\b|"
    r"(?:Choose|Select|Pick|Give|Write|Output|Return|Provide|State|Put) (?:the|one|only|your|just)\b|"
    r"Think (?:first|step)|Only |Your answer )"
)
# Options that speak of the other options, by their place or by their letters.
_LEANS = re.compile(
    r"\b(?:all|none|both|any|neither|either|some|one) of (?:the (?:above|other\w*|options|choices)|"
    r"these|them)\b|"
    r"\b(?:the|all|none|both) above\b|^(?:all|none|both|neither|either)(?: .{0,20})?$|"
    r"(?<!\w)\(?[A-H]\)?,? (?:and|or|nor|&) \(?[A-H](?!\w)",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """Lower case, inner white space single, outer punctuation gone; not the point of ".5".

    >>> normalise("  The  Letter K. "), normalise("(.5)")
    ('the letter k', '.5')
    """
    text = " ".join(text.casefold().split()).rstrip(_PUNCTUATION)
    bare = text.lstrip(_PUNCTUATION)
    return f".{bare}" if bare[:1].isdigit() and text[: -len(bare)].endswith(".") else bare


def with_options(question: str, options: list[str]) -> str:
    """The question with its options in this order: in the places that they have, or below it, one a line.

    >>> print(with_options("What colour is the cup?", ["red", "dark blue"]))
    What colour is the cup?
    A. red
    B. dark blue
    >>> with_options("Which? (A) 3, (B) 4. Answer with the letter.", ["4", "3"])
    'Which? (A) 4, (B) 3. Answer with the letter.'
    """
    places = _places(question)
    own = [question[start:end] for _, start, end in places]
    if not own or sorted(map(normalise, own)) != sorted(map(normalise, options)):
        return "\n".join([question, *(f"{a}. {text}" for a, text in zip(LETTERS, options))])
    for (_, start, end), text in reversed(list(zip(places, options))):
        question = question[:start] + text + question[end:]
    return question


def without_options(question: str, options: list[str]) -> str:
    """The question before `with_options` put these below it, whatever stands in them."""
    return question.removesuffix(with_options("", options))


def split_options(question: str) -> tuple[str, list[str]]:
    """The question without its options, and the options; none if there are not at least two.

    >>> split_options("What colour is the cup? A. red B. dark blue")
    ('What colour is the cup?', ['red', 'dark blue'])
    >>> split_options("Is Mr. A. Smith in the picture?")
    ('Is Mr. A. Smith in the picture?', [])
    """
    places = _places(question)
    stem = question[: places[0][0]].strip() if places else question
    return stem, [question[start:end] for _, start, end in places]


def _places(question: str) -> list[tuple[int, int, int]]:
    """Where each option's mark, its text and the end of its text are: marks of one style, from A on."""
    styles: dict[tuple, list[re.Match]] = {}
    for mark in _MARK.finditer(question):
        run = styles.setdefault((mark[1], mark[3], mark[2].isupper()), [])
        if mark[2] in "Aa":  # an earlier one belongs to the question
            run.clear()
        run.append(mark)
    runs = [run for run in styles.values() if len(run) > 1]
    runs = [run for run in runs if "".join(mark[2] for mark in run).upper() == LETTERS[: len(run)]]
    if not runs:
        return []
    run = max(runs, key=lambda run: run[-1].end())
    last, places = re.compile(r"\s*").match(question, run[-1].end()).end(), []
    inline = any("\n" not in question[a.end() : b.start()] for a, b in zip(run, run[1:]))
    told = _TOLD.search(question, last)
    stop = min(
        told.start() if told else len(question), question.find("\n", last) % (len(question) + 1)
    )
    for mark, end in zip(run, [*(mark.start() for mark in run[1:]), stop]):
        text = question[mark.end() : end].rstrip()
        if inline:  # there these part two options
            text = text.rstrip(" ,;.\n")
            text = re.sub(r"[,;\s](?:or|and)\Z", "", text).rstrip(" ,;.\n")
        start = mark.end() + len(text) - len(text.lstrip())
        places.append((mark.start(), start, mark.end() + len(text)))
    return places


def fixed_places(options: list[str]) -> set[int]:
    """Indices that no shuffling may move: options about other options, and those that they name.

    >>> fixed_places(["red", "blue", "white", "Both A and B"]), fixed_places(["red", "None of the above"])
    ({0, 1, 3}, {1})
    """
    leaning = [i for i, text in enumerate(options) if _LEANS.search(text)]
    named = {LETTERS.index(a) for i in leaning for a in re.findall(r"\b[A-H]\b", options[i])}
    return {*leaning, *(i for i in named if i < len(options))}
