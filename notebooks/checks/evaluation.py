"""Exercises of notebook 08: shuffled options, an interval, a paired difference, yes and no."""

import random
from functools import partial
from math import sqrt

import numpy as np

from checks.exercise import Exercise
from deepeyes_lite.evaluation import share

LETTERS = "ABCD"


def letter_of(options, mixed):
    return LETTERS[mixed.index(options[0])]


def came_from(options, mixed):
    return LETTERS[options.index(mixed[0])]


def mixed(letter=letter_of, order=lambda n, seed: random.Random(seed).sample(range(n), n)):
    """The solution; the settings change the letter and the order."""

    def attempt(options, seed):
        shuffled = [options[i] for i in order(len(options), seed)]
        return shuffled, letter(options, shuffled)

    return attempt


def in_place(options, seed):
    right = options[0]
    random.Random(seed).shuffle(options)
    return options, LETTERS[options.index(right)]


WRITTEN = {
    "right": letter_of,
    "A": lambda options, shuffled: "A",
    "came from": came_from,
    "the option": lambda options, shuffled: options[0],
    "the place": lambda options, shuffled: shuffled.index(options[0]),
}


def over_seeds(attempt, options):
    """What an attempt does in 40 shuffles, and where the right option gets to."""
    given = [list(options) for _ in range(40)]
    pairs = [attempt(given[seed], seed) for seed in range(40)]
    if pairs[0] is None:
        return None
    orders = [list(shuffled) for shuffled, _ in pairs]
    if wrong := [order for order in orders if sorted(order) != sorted(options)]:
        raise ValueError(f"an option was lost or doubled: {options!r} became {wrong[0]!r}")
    rules = (
        name
        for name, rule in WRITTEN.items()
        if all(letter == rule(options, order) for (_, letter), order in zip(pairs, orders))
    )
    missing = {*LETTERS[: len(options)]} - {letter_of(options, order) for order in orders}
    where = f"never at {min(missing)}" if missing else "everywhere"
    if all(order == orders[0] for order in orders):
        where = "nothing moves" if orders[0] == options else "one order"
    return {
        "options in place": all(kept == options for kept in given),
        "same order for a seed": orders == [list(attempt(list(options), s)[0]) for s in range(40)],
        "letter": next(rules, "another"),
        "right option": where,
    }


# Exercise 1. attempt(options, seed) -> the shuffled options and the letter of the right one, which was first.
shuffle = Exercise(
    cases=[(["K", "H", "F", "M"],), (["a red hat", "a blue hat", "no hat"],)],
    solution=mixed(),
    mistakes={
        "the options were changed in place: shuffle a copy, list(options)": in_place,
        "one seed gave two orders: use random.Random(seed)": (
            mixed(order=lambda n, seed: random.sample(range(n), n))
        ),
        "give the letter of the right place, not the option": mixed(lambda o, m: o[0]),
        "give a letter, not the place": mixed(lambda o, m: m.index(o[0])),
        "the letter is still A: the right option has moved, find it again": mixed(lambda o, m: "A"),
        "this is where the first of the shuffled options came from; where did the right one go?": (
            mixed(came_from)
        ),
        "nothing moves: the right option is first for every seed": mixed(
            order=lambda n, _: range(n)
        ),
        "the order is the same for every seed: sorted is not shuffled": (
            mixed(order=lambda n, seed: range(n)[::-1])
        ),
        "the right option is never at A, for none of 40 seeds": (
            mixed(order=lambda n, seed: [(i + 1 + seed % (n - 1)) % n for i in range(n)])
        ),
    },
    praise="every place holds the right option now and then, and a seed gives one order",
    hint="give two things: the shuffled options and a letter",
    run=over_seeds,
)


def wilson(successes, n, z=1.96, moved=True, within=True, divided=True, root=sqrt):
    """The solution; each setting turns a part of it off."""
    p, d = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / d if moved else p
    half = z * root(p * (1 - p) / n + within * z * z / (4 * n * n)) / (d if divided else 1)
    return centre - half, centre + half


plain = partial(wilson, moved=False, within=False, divided=False)

# Exercise 2. attempt(successes, n) -> (low, high), Wilson's 95 % interval.
interval = Exercise(
    cases=[(0, 8), (8, 8), (1, 20), (80, 100), (164, 191)],
    solution=lambda *case: [share(*case)[end] for end in ("low", "high")],
    mistakes={
        "this is the plain interval: at 0 of 8 it has no width": plain,
        "this is the plain interval, cut at 0 and 1: at 0 of 8 it has no width": (
            lambda *case: np.clip(plain(*case), 0, 1)
        ),
        "the square root is missing": partial(plain, root=lambda v: v),
        "z is 1.96 for 95 %; 1.645 leaves 5 % at each side": partial(wilson, z=1.645),
        "z is 1.96 for 95 %; with z = 1 it is about 68 %": partial(wilson, z=1),
        "z is 1.96 for 95 %, not 2": partial(wilson, z=2),
        "the centre is not p: it is pulled towards one half": partial(wilson, moved=False),
        "the term z² / 4n² under the root is missing": partial(wilson, within=False),
        "half the width is divided by 1 + z² / n, too": partial(wilson, divided=False),
        "turned round: low first, then high": lambda *case: wilson(*case)[::-1],
        "these are percent: give shares between 0 and 1": lambda *case: (
            100 * np.array(wilson(*case))
        ),
    },
    praise="it has a width even at 0 of 8, and stays between 0 and 1",
    hint="give (low, high), two numbers",
)


def standard_error(d):
    return d.std(ddof=1) / sqrt(len(d))


def averaged(error=standard_error, take=lambda a, b: b - a):
    """The solution; the settings change the error, and what is averaged."""
    return lambda a, b: (take(a, b).mean(), error(take(a, b)))


def unpaired(a, b):
    return b.mean() - a.mean(), np.hypot(standard_error(a), standard_error(b))


A = np.repeat([1.0, 1.0, 0.0, 0.0], [22, 2, 10, 6])
B = np.repeat([1.0, 0.0, 1.0, 0.0], [22, 2, 10, 6])

# Exercise 3. attempt(a, b) -> (difference, standard error) on the same scenes; a and b are (N,) of 0 and 1.
paired = Exercise(
    cases=[(A, B)],
    solution=averaged(),
    mistakes={
        "this error is the unpaired one: take the difference scene by scene first": unpaired,
        "the sign is turned round: b minus a": averaged(take=lambda a, b: a - b),
        "this is the spread of one scene: divide by the root of N": (
            averaged(lambda d: d.std(ddof=1))
        ),
        "divide by the root of N, not by N": averaged(lambda d: d.std(ddof=1) / len(d)),
        "this is the variance: take the root": averaged(lambda d: standard_error(d) ** 2),
        "the sign of a scene is lost: better is 1, worse is -1": (
            averaged(take=lambda a, b: abs(b - a))
        ),
        "scenes on which both agree count, too: their difference is 0": (
            averaged(take=lambda a, b: (b - a)[a != b])
        ),
        "this is the width to one side, 1.96 times the standard error": (
            averaged(lambda d: 1.96 * standard_error(d))
        ),
    },
    praise=f"the standard error is {standard_error(B - A):.3f}; unpaired it would be {unpaired(A, B)[1]:.3f}",
    hint="give (difference, standard error), two numbers",
)

SAID = ["yes"] * 6 + ["no", "K"] + ["yes"] * 3 + ["no"] * 2 + ["K"] * 2
TRUTH = ["yes"] * 8 + ["no"] * 7


def figures(said, truth, positive="yes"):
    """The solution, or the same for another positive answer."""
    hits = sum(s == t == positive for s, t in zip(said, truth))
    claimed = said.count(positive)
    precision = hits / claimed if claimed else 0.0
    recall = hits / truth.count(positive)
    return [np.equal(said, truth).mean(), precision, recall, claimed / len(said)]


def in_order(*places):
    return lambda *case: [figures(*case)[place] for place in places]


def read_as(word):
    return lambda said, truth: figures([s if s in ("yes", "no") else word for s in said], truth)


def left_out(said, truth):
    return figures(*zip(*(pair for pair in zip(said, truth) if pair[0] in ("yes", "no"))))


# Exercise 4. attempt(said, truth) -> POPE's accuracy, precision, recall and share of yes, from lists of text.
yes_no = Exercise(
    cases=[(SAID, TRUTH), (["no", "no", "no"], ["yes", "no", "no"])],
    solution=figures,
    mistakes={
        "precision and recall are swapped: precision is over what was called yes": (
            in_order(0, 2, 1, 3)
        ),
        "no was taken for the positive answer: precision and recall are about yes": (
            partial(figures, positive="no")
        ),
        "an answer that is neither was left out: it is wrong, and it counts": left_out,
        "an answer that is neither was read as yes": read_as("yes"),
        "an answer that is neither was read as no": read_as("no"),
        "the share of yes is of what was said, not of what is true": (
            lambda said, truth: [*figures(said, truth)[:3], truth.count("yes") / len(truth)]
        ),
        "accuracy counts a right no, too": lambda said, truth: [
            sum(s == t == "yes" for s, t in zip(said, truth)) / len(said),
            *figures(said, truth)[1:],
        ],
        "the order is accuracy, precision, recall, share of yes": in_order(1, 2, 0, 3),
    },
    praise="every question counts, and an answer that is neither is wrong",
    hint="a policy that never says yes has precision 0; give four numbers",
)
