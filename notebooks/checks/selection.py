"""Checks of notebook 02: the signal in a group, the tool-benefit filter, open questions."""

import numpy as np


def signal(attempt) -> None:
    """Notebook 02, exercise 1: the chance that a group has both right and wrong answers.

    Args:
        attempt: takes ``p`` (N,), chances of a right answer, and ``k``, gives (N,).
    """
    print("[{}] {}".format(*_judge_signal(attempt)))


def benefit(attempt) -> None:
    """Notebook 02, exercise 2: the rule of the tool-benefit filter.

    Args:
        attempt: takes ``right_from_view`` and ``right_with_crop``, (N,) bool, gives (N,): keep it?
    """
    print("[{}] {}".format(*_judge_benefit(attempt)))


def rewrite(attempt) -> None:
    """Notebook 02, exercise 3: multiple choice becomes an open question.

    Args:
        attempt: takes ``question`` and ``answer``, gives both rewritten, or None where that cannot be.
    """
    print("[{}] {}".format(*_judge_open(attempt)))


def _judge_signal(attempt) -> tuple[str, str]:
    p = np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    mistakes = {
        "all right is missing: take p^k off, too": lambda k: 1 - (1 - p) ** k,
        "all wrong is missing: take (1 - p)^k off, too": lambda k: 1 - p**k,
        "upside down: this is the chance that all are equal": lambda k: p**k + (1 - p) ** k,
        "this is the chance of one right answer exactly; two or more are fine, too": (
            lambda k: k * p * (1 - p) ** (k - 1)
        ),
        "p (1 - p) is the variance of one answer, whatever k": lambda k: p * (1 - p),
        "k p (1 - p) is the variance of the number of right answers, not a chance": (
            lambda k: k * p * (1 - p)
        ),
        "all right and all wrong exclude each other: take off their sum, not their product": (
            lambda k: 1 - p**k * (1 - p) ** k
        ),
        "k is ignored: this is right for k = 8 only": lambda k: 1 - p**8 - (1 - p) ** 8,
        "p and k are swapped: k answers, each right with chance p, are all right with p**k": (
            lambda k: 1 - k**p - k ** (1 - p)
        ),
    }
    for k in (8, 3):
        status, found = _array(attempt, (p.copy(), k), len(p))
        if status:
            return status, found
        right = 1 - p**k - (1 - p) ** k
        if np.allclose(found, right, atol=1e-4):
            continue
        for message, wrong in mistakes.items():
            if np.allclose(found, wrong(k), atol=1e-4):
                return "not yet", message
        expected = f"{np.round(right, 3).tolist()}, got {np.round(found, 3).tolist()}"
        return "not yet", f"for p = {p.tolist()} and k = {k} expected {expected}"
    return "ok", "everything but all right and all wrong"


def _judge_benefit(attempt) -> tuple[str, str]:
    view = np.array([False, False, True, True, False])
    crop = np.array([False, True, False, True, True])
    status, found = _array(attempt, (view.copy(), crop.copy()), len(view))
    if status:
        return status, found + (
            "\nnot, and, or work on one value; for arrays there are ~, &, |"
            if "ambiguous" in found
            else ""
        )
    if not np.isin(found, (0, 1)).all():
        return "not yet", "give True or False for every question"
    found = found.astype(bool)
    mistakes = [
        (crop, "what the view answers is kept, too: it needs no zoom"),
        (~view, "kept without a look at the crop: what stays wrong with it is hopeless or spoiled"),
        (view & ~crop, "turned round: wrong from the view, right with the crop"),
        (~(~view & crop), "upside down: this is what is dropped"),
        (view != crop, "what the crop makes wrong is kept, too"),
        (view & crop, "this is what is right both times: nothing to gain from a zoom"),
        (view | crop, "this is what is right at least once, not what the crop makes right"),
    ]
    if (found == (~view & crop)).all():
        return "ok", "what the view does not answer and the crop does"
    for wrong, message in mistakes:
        if (found == wrong).all():
            return "not yet", message
    expected = f"{(~view & crop).tolist()}, got {found.tolist()}"
    return "not yet", f"for {view.tolist()} and {crop.tolist()} expected {expected}"


def _array(attempt, inputs: tuple, n: int) -> tuple[str, np.ndarray | str]:
    """What an attempt gives as an array of ``n`` numbers, after ""; else a verdict and its reason."""
    try:
        found = attempt(*inputs)
        if found is None:
            return "todo", f"{attempt.__name__} returns nothing so far"
        found = np.asarray(found, dtype=float)
    except Exception as error:  # a learner's code: anything may go wrong in it
        return "not yet", f"{type(error).__name__}: {error}"
    if found.shape != (n,):
        return "not yet", f"one value for every question: the shape is {found.shape}, not ({n},)"
    return "", found


# Question, answer, what it becomes (None: it cannot be rewritten).
_SELECTION_QUIZ = [
    ("What is it?\nA. a cup\nB. a red hat\nC. a shoe", "B", ("What is it?", "a red hat")),
    ("What is it? (A) a cup (B) a hat", "(b)", ("What is it?", "a hat")),
    ("What is on the table?", "a cup", ("What is on the table?", "a cup")),
    ("Who is A. Smith?", "an actor", ("Who is A. Smith?", "an actor")),
    ("Which of these is red? A. the cup B. the hat", "A", None),
    ("What is red? A. the cup B. all of the above", "B", None),
    ("What is red? A. the cup B. the hat", "C", None),
]


def _judge_open(attempt) -> tuple[str, str]:
    found = []
    for question, answer, _ in _SELECTION_QUIZ:
        try:
            found.append(attempt(question, answer))
        except Exception as error:
            hint = ""
            if isinstance(error, KeyError | ValueError | IndexError):
                hint = "\nan answer may be written '(b)', be no option, or have no options at all"
            return "not yet", f"{question!r}, {answer!r}: {type(error).__name__}: {error}{hint}"
    if not any(found):
        return "todo", "my_open returns nothing so far"
    for (question, answer, right), given in zip(_SELECTION_QUIZ, found):
        mistake = _open_mistake(question, answer, right, given)
        if mistake:
            return "not yet", f"{question!r}, {answer!r}: {mistake}"
    return "ok", "rewritten where it can be, dropped where it leans on its options"


def _open_mistake(question: str, answer: str, right, given) -> str | None:
    if given is None:
        if right is None:
            return None
        if right == (question, answer):
            return "there are no options here: it is open already, give it back as it is"
        return "this can be rewritten, and was dropped; '(b)' means option B"
    if not isinstance(given, tuple | list) or len(given) != 2:
        return f"give (question, answer) or None, not {given!r}"
    if not all(isinstance(text, str) for text in given):
        return f"question and answer are text, got {given!r}"
    text, truth = (part.strip() for part in given)
    if right is None:
        if "above" in question:
            return "'all of the above' is no answer once nothing is above: None"
        if answer == "C":
            return "the label is none of the options: None, nobody knows the right one"
        return "without its options nobody knows what 'these' are: None"
    if (text, truth) == right:
        return None
    if right == (question, answer):
        return "there are no options here: it is open already, give it back as it is"
    if truth.strip("().").upper() == answer.strip("().").upper():
        return "the answer is still the letter; it becomes the option's text"
    if "A." in text or "(A)" in text:
        return "the options still stand in the question, and the answer with them"
    if truth != right[1] and truth in question:
        return f"the answer is {right[1]!r}, not {truth!r}: is it another option, or a piece of it?"
    return f"expected {right!r}, got {(text, truth)!r}"
