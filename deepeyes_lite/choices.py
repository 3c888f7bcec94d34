"""Multiple choice: options written under a question, and read out of one again."""

import re

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
    found = list(_OPTION.finditer(question))
    options = [match[2].strip(" .;,\n") for match in found]
    if len(options) < 2 or [match[1] for match in found] != list(LETTERS[: len(options)]):
        return question, []
    return question[: found[0].start()].strip(), options
