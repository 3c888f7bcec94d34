"""Checks of notebook 08: shuffled options, an interval, a paired difference, yes and no."""

import math

import numpy as np
import torch

from checks import agrees, over


def shuffle(attempt) -> None:
    """Notebook 08, exercise 1: shuffle the options of a question.

    Args:
        attempt: takes ``options`` (the right one first) and ``seed``; gives the shuffled options and
            the letter of the right one.
    """
    print("[{}] {}".format(*_judge_shuffle(attempt)))


def interval(attempt) -> None:
    """Notebook 08, exercise 2: Wilson's 95 % interval.

    Args:
        attempt: takes ``successes`` and ``n``, gives (low, high).
    """
    cases = [(0, 8), (8, 8), (1, 20), (80, 100), (164, 191)]

    def table(rule):
        return torch.tensor([rule(k / n, n) for k, n in cases], dtype=torch.float32)

    def wilson(p, n, z=1.959964, moved=True, within=True, divided=True):
        d = 1 + z * z / n
        centre = (p + z * z / (2 * n)) / d if moved else p
        half = z * math.sqrt(p * (1 - p) / n + within * z * z / (4 * n * n))
        return [centre - half / (d if divided else 1), centre + half / (d if divided else 1)]

    def plain(p, n, z=1.959964, root=True):
        half = z * (math.sqrt(p * (1 - p) / n) if root else p * (1 - p) / n)
        return [p - half, p + half]

    mistakes = {
        "this is the plain interval: at 0 of 8 it has no width": table(plain),
        "this is the plain interval, cut at 0 and 1: at 0 of 8 it has no width": table(
            lambda p, n: [max(0.0, plain(p, n)[0]), min(1.0, plain(p, n)[1])]
        ),
        "the square root is missing": table(lambda p, n: plain(p, n, root=False)),
        "z is 1.96 for 95 %; 1.645 leaves 5 % at each side": table(
            lambda p, n: wilson(p, n, 1.644854)
        ),
        "z is 1.96 for 95 %; with z = 1 it is about 68 %": table(lambda p, n: wilson(p, n, 1.0)),
        "z is 1.96 for 95 %, not 2": table(lambda p, n: wilson(p, n, 2.0)),
        "the centre is not p: it is pulled towards one half": table(
            lambda p, n: wilson(p, n, moved=False)
        ),
        "the term z² / 4n² under the root is missing": table(
            lambda p, n: wilson(p, n, within=False)
        ),
        "half the width is divided by 1 + z² / n, too": table(
            lambda p, n: wilson(p, n, divided=False)
        ),
        "turned round: low first, then high": table(lambda p, n: wilson(p, n)[::-1]),
        "these are percent: give shares between 0 and 1": 100 * table(wilson),
    }
    hint = "give (low, high), two numbers"
    if agrees(over(attempt, cases), (), table(wilson), mistakes, hint) is not None:
        print("[ok] it has a width even at 0 of 8, and stays between 0 and 1")


def paired(attempt) -> None:
    """Notebook 08, exercise 3: a difference on the same scenes, and its standard error.

    Args:
        attempt: takes ``a`` and ``b``, (N,) of 0.0 and 1.0, gives (difference, standard error).
    """
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [22, 2, 10, 6])
    b = np.repeat([1.0, 0.0, 1.0, 0.0], [22, 2, 10, 6])
    n, d = len(a), b - a
    mean, error = d.mean(), d.std(ddof=1) / math.sqrt(n)
    unpaired = math.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / n)
    mistakes = {
        "this error is the unpaired one: take the difference scene by scene first": (
            mean,
            unpaired,
        ),
        "the sign is turned round: b minus a": (-mean, error),
        "this is the spread of one scene: divide by the root of N": (mean, d.std(ddof=1)),
        "divide by the root of N, not by N": (mean, d.std(ddof=1) / n),
        "this is the variance: take the root": (mean, error**2),
        "the sign of a scene is lost: better is 1, worse is -1": (
            np.abs(d).mean(),
            np.abs(d).std(ddof=1) / math.sqrt(n),
        ),
        "scenes on which both agree count, too: their difference is 0": (
            d[d != 0].mean(),
            d[d != 0].std(ddof=1) / math.sqrt((d != 0).sum()),
        ),
        "this is the width to one side, 1.96 times the standard error": (mean, 1.96 * error),
    }
    mistakes = {message: torch.tensor(pair).float() for message, pair in mistakes.items()}
    hint = "give (difference, standard error), two numbers"
    right = torch.tensor([mean, error]).float()
    if agrees(attempt, (a.copy(), b.copy()), right, mistakes, hint) is not None:
        print(f"[ok] the standard error is {error:.3f}; unpaired it would be {unpaired:.3f}")


def yes_no(attempt) -> None:
    """Notebook 08, exercise 4: the figures of POPE.

    Args:
        attempt: takes ``said`` and ``truth``, lists of text, gives accuracy, precision, recall and the
            share of yes.
    """
    said = ["yes"] * 6 + ["no", "K"] + ["yes"] * 3 + ["no"] * 2 + ["K"] * 2
    truth = ["yes"] * 8 + ["no"] * 7
    cases = [(said, truth), (["no", "no", "no"], ["yes", "no", "no"])]

    def figures(said, truth, positive="yes"):
        pairs = list(zip(said, truth))
        hits = sum(s == t == positive for s, t in pairs)
        claimed, there = said.count(positive), truth.count(positive)
        right = sum(s == t for s, t in pairs) / len(pairs)
        precision = hits / claimed if claimed else 0.0
        return [right, precision, hits / there, claimed / len(pairs)]

    def table(rule):
        return torch.tensor([rule(*map(list, case)) for case in cases], dtype=torch.float32)

    def change(other):
        return lambda s, t: figures([w if w in ("yes", "no") else other for w in s], t)

    def dropped(s, t):
        kept = [(a, b) for a, b in zip(s, t) if a in ("yes", "no")]
        return figures([a for a, _ in kept], [b for _, b in kept])

    def order(*places):
        return lambda s, t: [figures(s, t)[place] for place in places]

    mistakes = {
        "precision and recall are swapped: precision is over what was called yes": table(
            order(0, 2, 1, 3)
        ),
        "no was taken for the positive answer: precision and recall are about yes": table(
            lambda s, t: figures(s, t, "no")
        ),
        "an answer that is neither was left out: it is wrong, and it counts": table(dropped),
        "an answer that is neither was read as yes": table(change("yes")),
        "an answer that is neither was read as no": table(change("no")),
        "the share of yes is of what was said, not of what is true": table(
            lambda s, t: [*figures(s, t)[:3], t.count("yes") / len(t)]
        ),
        "accuracy counts a right no, too": table(
            lambda s, t: [
                sum(a == b == "yes" for a, b in zip(s, t)) / len(s),
                *figures(s, t)[1:],
            ]
        ),
        "the order is accuracy, precision, recall, share of yes": table(order(1, 2, 0, 3)),
    }
    hint = "a policy that never says yes has precision 0; give four numbers"
    if agrees(over(attempt, cases), (), table(figures), mistakes, hint) is not None:
        print("[ok] every question counts, and an answer that is neither is wrong")


def _judge_shuffle(attempt) -> tuple[str, str]:
    for options in (["K", "H", "F", "M"], ["a red hat", "a blue hat", "no hat"]):
        places, orders = [], set()
        for seed in range(40):
            given = list(options)
            try:
                found, again = attempt(given, seed), attempt(list(options), seed)
            except Exception as error:  # a learner's code: anything may go wrong in it
                return "not yet", f"{type(error).__name__}: {error}"
            if found is None:
                return "todo", f"{attempt.__name__} returns nothing so far"
            if not isinstance(found, tuple | list) or len(found) != 2:
                return "not yet", "give two things: the shuffled options and a letter"
            if given != options:
                return "not yet", "the options were changed in place: shuffle a copy, list(options)"
            shuffled, letter = found
            if not isinstance(shuffled, list | tuple) or sorted(shuffled) != sorted(options):
                return "not yet", f"an option was lost or doubled: {options!r} became {shuffled!r}"
            if again is None or list(again[0]) != list(shuffled):
                return "not yet", "one seed gave two orders: use random.Random(seed)"
            right = "ABCD"[list(shuffled).index(options[0])]
            if letter in options:
                return "not yet", f"give the letter of the right place, not the option {letter!r}"
            if letter != right:
                return "not yet", _letter_mistake(options, list(shuffled), letter, right)
            places.append(right)
            orders.add(tuple(shuffled))
        if orders == {tuple(options)}:
            return "not yet", "nothing moves: the right option is first for every seed"
        if len(orders) == 1:
            return "not yet", "the order is the same for every seed: sorted is not shuffled"
        missing = sorted(set("ABCD"[: len(options)]) - set(places))
        if missing:
            return "not yet", f"the right option is never at {missing[0]}, for none of 40 seeds"
    return "ok", "every place holds the right option now and then, and a seed gives one order"


def _letter_mistake(options: list, shuffled: list, letter: object, right: str) -> str:
    if letter == "A":
        return "the letter is still A: the right option has moved, find it again"
    if isinstance(letter, int):
        return f"give a letter, not the place {letter}"
    if letter in tuple("ABCD") and letter == "ABCD"[options.index(shuffled[0])]:
        return (
            "this is where the first of the shuffled options came from; where did the right one go?"
        )
    return f"{options[0]!r} is right; in {shuffled!r} it is {right}, not {letter!r}"
