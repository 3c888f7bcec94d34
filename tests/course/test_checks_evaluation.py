"""The checks of notebook 08: each typical mistake is named."""

import math
import random

import numpy as np
import pytest

from checks import evaluation as checks
from deepeyes_lite.evaluation import share

CHECKS = {
    "my_shuffle": checks.shuffle,
    "my_interval": checks.interval,
    "my_paired": checks.paired,
    "my_figures": checks.yes_no,
}


def shuffled(
    order=lambda n, seed: random.Random(seed).sample(range(n), n),
    letter=lambda options, mixed: "ABCD"[mixed.index(options[0])],
    keep=lambda mixed: mixed,
):
    """An attempt at exercise 1; the defaults are right."""

    def attempt(options, seed):
        mixed = [options[i] for i in order(len(options), seed)]
        return keep(mixed), letter(options, mixed)

    return attempt


def in_place(options, seed):
    first = options[0]
    random.Random(seed).shuffle(options)
    return options, "ABCD"[options.index(first)]


def rotated(options, seed):
    k = 1 + seed % (len(options) - 1)
    mixed = options[k:] + options[:k]
    return mixed, "ABCD"[mixed.index(options[0])]


def came_from(options, mixed):
    return "ABCD"[options.index(mixed[0])]


def wilson(z=1.959964, moved=1.0, within=1.0, divided=1.0, turned=False, percent=1.0):
    """An attempt at exercise 2; the defaults are right."""

    def attempt(successes, n):
        p = successes / n
        d = 1 + z * z / n
        centre = (p + moved * z * z / (2 * n)) / (d if moved else 1)
        half = z * math.sqrt(p * (1 - p) / n + within * z * z / (4 * n * n))
        half /= d if divided else 1
        ends = percent * (centre - half), percent * (centre + half)
        return ends[::-1] if turned else ends

    return attempt


def plain(root=0.5, cut=False):
    def attempt(successes, n):
        p = successes / n
        half = 1.96 * (p * (1 - p) / n) ** root
        return (max(0, p - half), min(1, p + half)) if cut else (p - half, p + half)

    return attempt


def paired(
    take=lambda a, b: b - a,
    error=lambda d: d.std(ddof=1) / math.sqrt(len(d)),
):
    """An attempt at exercise 3; the defaults are right."""

    def attempt(a, b):
        d = take(a, b)
        return d.mean(), error(d)

    return attempt


def unpaired(a, b):
    n = len(a)
    return b.mean() - a.mean(), math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)


def figures(positive="yes", neither=None, drop=False, order=(0, 1, 2, 3), ratio=None, right=None):
    """An attempt at exercise 4; the defaults are right."""

    def attempt(said, truth):
        pairs = list(zip(said, truth))
        if drop:
            pairs = [pair for pair in pairs if pair[0] in ("yes", "no")]
        if neither:
            pairs = [(s if s in ("yes", "no") else neither, t) for s, t in pairs]
        hits = sum(s == t == positive for s, t in pairs)
        claimed = sum(s == positive for s, _ in pairs)
        there = sum(t == positive for _, t in pairs)
        found = [
            sum(s == t and right in (None, t) for s, t in pairs) / len(pairs),
            hits / claimed if claimed else 0.0,
            hits / there,
            (there if ratio else claimed) / len(pairs),
        ]
        return [found[i] for i in order]

    return attempt


def crash(said, truth):
    return [0.5, 1 / said.count("yes"), 0.5, 0.5]


MISTAKES = [
    ("my_shuffle", shuffled(order=lambda n, seed: range(n)), "nothing moves"),
    ("my_shuffle", shuffled(letter=lambda options, mixed: "A"), "the letter is still A"),
    ("my_shuffle", shuffled(letter=lambda o, m: o[0]), "not the option"),
    ("my_shuffle", shuffled(letter=lambda o, m: m.index(o[0])), "not the place"),
    ("my_shuffle", shuffled(letter=came_from), "where the first of the shuffled"),
    ("my_shuffle", shuffled(letter=lambda o, m: "Z"), "not 'Z'"),
    ("my_shuffle", shuffled(keep=lambda mixed: mixed[:-1]), "lost or doubled"),
    ("my_shuffle", shuffled(keep=lambda mixed: mixed[:1] * len(mixed)), "lost or doubled"),
    (
        "my_shuffle",
        shuffled(order=lambda n, seed: random.Random(7).sample(range(n), n)),
        "the same for every seed",
    ),
    ("my_shuffle", shuffled(order=lambda n, s: random.sample(range(n), n)), "one seed gave two"),
    ("my_shuffle", in_place, "changed in place"),
    ("my_shuffle", rotated, "never at A"),
    ("my_shuffle", lambda options, seed: options, "give two things"),
    ("my_shuffle", lambda options, seed: random.shuffle(options)[0], "TypeError"),
    ("my_interval", plain(), "it has no width"),
    ("my_interval", plain(cut=True), "cut at 0 and 1"),
    ("my_interval", plain(root=1), "square root is missing"),
    ("my_interval", wilson(z=1.644854), "1.645 leaves"),
    ("my_interval", wilson(z=1.0), "about 68 %"),
    ("my_interval", wilson(z=2.0), "not 2"),
    ("my_interval", wilson(moved=0.0), "the centre is not p"),
    ("my_interval", wilson(within=0.0), "under the root is missing"),
    ("my_interval", wilson(divided=0.0), "half the width is divided"),
    ("my_interval", wilson(turned=True), "low first"),
    ("my_interval", wilson(percent=100), "these are percent"),
    ("my_interval", lambda k, n: wilson()(k, n)[0], "the shape is (5,)"),
    ("my_interval", lambda k, n: 1 / k, "ZeroDivisionError"),
    ("my_paired", unpaired, "the unpaired one"),
    ("my_paired", paired(take=lambda a, b: a - b), "sign is turned round"),
    ("my_paired", paired(error=lambda d: d.std(ddof=1)), "the spread of one scene"),
    ("my_paired", paired(error=lambda d: d.std(ddof=1) / len(d)), "not by N"),
    ("my_paired", paired(error=lambda d: d.var(ddof=1) / len(d)), "this is the variance"),
    ("my_paired", paired(take=lambda a, b: abs(b - a)), "the sign of a scene is lost"),
    ("my_paired", paired(take=lambda a, b: (b - a)[b != a]), "on which both agree"),
    (
        "my_paired",
        paired(error=lambda d: 1.96 * d.std(ddof=1) / math.sqrt(len(d))),
        "the width to one side",
    ),
    ("my_paired", lambda a, b: (b - a).mean(), "the shape is ()"),
    ("my_figures", figures(order=(0, 2, 1, 3)), "are swapped"),
    ("my_figures", figures(positive="no"), "about yes"),
    ("my_figures", figures(drop=True), "was left out"),
    ("my_figures", figures(neither="yes"), "read as yes"),
    ("my_figures", figures(neither="no"), "read as no"),
    ("my_figures", figures(ratio=True), "not of what is true"),
    ("my_figures", figures(right="yes"), "a right no"),
    ("my_figures", figures(order=(1, 2, 0, 3)), "the order is"),
    ("my_figures", crash, "never says yes has precision 0"),
    ("my_figures", figures(order=(0, 1, 2)), "the shape is (2, 3)"),
]


@pytest.mark.parametrize(
    ("name", "attempt", "message"), MISTAKES, ids=lambda value: str(value)[:28]
)
def test_mistake_is_named(name, attempt, message, capsys):
    CHECKS[name](attempt)
    out = capsys.readouterr().out
    assert out.startswith("[not yet] ") and message in out, out


def test_right_ways_pass(capsys):
    checks.shuffle(shuffled())
    checks.shuffle(shuffled(keep=tuple))
    checks.interval(wilson())
    checks.interval(lambda k, n: [share(k, n)[end] for end in ("low", "high")])
    checks.paired(paired())
    checks.paired(paired(error=lambda d: d.std() / math.sqrt(len(d))))
    checks.yes_no(figures())
    checks.yes_no(lambda said, truth: np.array(figures()(said, truth)))
    assert capsys.readouterr().out.count("[ok] ") == 8
