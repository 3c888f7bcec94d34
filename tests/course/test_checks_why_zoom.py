"""The checks of notebook 01: every typical mistake gets its own message."""

from math import ceil

import pytest

from checks import why_zoom as checks
from deepeyes_lite import boxes


def verdict(check, attempt, capsys):
    assert check(attempt) is None
    return capsys.readouterr().out.strip()


TOKENS = {
    "patches": (lambda w, h, p, m: (w // p) * (h // p), "these are patches"),
    "merged once": (lambda w, h, p, m: (w / p) * (h / p) / m, "in one direction only"),
    "added": (lambda w, h, p, m: w / (p * m) + h / (p * m), "the sides are added"),
    "a square": (lambda w, h, p, m: (w // (p * m)) ** 2, "a square was assumed"),
    "no patch": (lambda w, h, p, m: w * h / m**2, "size of a patch is missing"),
    "multiplied": (lambda w, h, p, m: w * h / p**2 * m**2, "divide by merge"),
    "pixels of a token": (lambda w, h, p, m: (p * m) * (p * m), "pixels of a token"),
    "pixels": (lambda w, h, p, m: w * h, "expected [36.0, 1230.0"),
    "an exception": (lambda w, h, p, m: w[0], "TypeError"),
    "text": (lambda w, h, p, m: "many", "ValueError"),
}
COST = {
    "down": (lambda s, t, r, f: (s * r // t // f) ** 2, "rounded down"),
    "nearest": (lambda s, t, r, f: round(s * r / t / f) ** 2, "rounded to the nearest"),
    "not rounded": (lambda s, t, r, f: (s * r / t / f) ** 2, "not rounded"),
    "too late": (lambda s, t, r, f: ceil((s * r / t / f) ** 2), "rounded too late"),
    "one side": (lambda s, t, r, f: ceil(s * r / t / f), "of one side"),
    "side in pixels": (lambda s, t, r, f: f * ceil(s * r / t / f), "the side in pixels"),
    "pixels": (lambda s, t, r, f: (f * ceil(s * r / t / f)) ** 2, "these are pixels"),
    "upside down": (lambda s, t, r, f: ceil(s * t / r / f) ** 2, "upside down"),
    "one pixel": (lambda s, t, r, f: ceil(s / t / f) ** 2, "readable_px is missing"),
    "nothing": (lambda s, t, r, f: 0, "expected [256.0"),
}


def inside(c, t):
    return c[0] <= t[0] and c[1] <= t[1] and t[2] <= c[2] and t[3] <= c[3]


def height(c, t, v):
    return (t[3] - t[1]) * v / (c[3] - c[1])


def middle_inside(c, t, v, r):
    x, y = (t[0] + t[2]) / 2, (t[1] + t[3]) / 2
    return c[0] <= x <= c[2] and c[1] <= y <= c[3] and height(c, t, v) >= r


SHOWS = {
    "place": (lambda c, t, v, r: inside(c, t), "only the place"),
    "size": (lambda c, t, v, r: height(c, t, v) >= r, "only the size"),
    "meets": (
        lambda c, t, v, r: boxes.iou(c, t) > 0 and height(c, t, v) >= r,
        "that is cut off cannot be read",
    ),
    "middle": (middle_inside, "the middle of the letter is not enough"),
    "turned round": (
        lambda c, t, v, r: inside(t, c) and height(c, t, v) >= r,
        "turned round",
    ),
    "more than": (lambda c, t, v, r: inside(c, t) and height(c, t, v) > r, "use >="),
    "strictly inside": (
        lambda c, t, v, r: (
            c[0] < t[0] and c[1] < t[1] and t[2] < c[2] and t[3] < c[3] and height(c, t, v) >= r
        ),
        "on the edge of the crop",
    ),
    "scale upside down": (
        lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * (c[3] - c[1]) / v >= r,
        "scale is upside down",
    ),
    "the scene's scale": (
        lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * v / 384 >= r,
        "scale of the whole scene",
    ),
    "no scale": (lambda c, t, v, r: inside(c, t) and t[3] - t[1] >= r, "is enlarged to the view"),
    "width": (
        lambda c, t, v, r: inside(c, t) and (t[2] - t[0]) * v / (c[2] - c[0]) >= r,
        "you took its width",
    ),
    "always": (lambda c, t, v, r: True, "expected [1.0, 1.0, 0.0"),
}


def span(a, b, k):
    return min(a[k + 2], b[k + 2]) - max(a[k], b[k])


def overlap(a, b):
    return max(0, span(a, b, 0)) * max(0, span(a, b, 1))


def area(a):
    return (a[2] - a[0]) * (a[3] - a[1])


def union(a, b):
    return area(a) + area(b) - overlap(a, b)


def no_clip(a, b):
    both = span(a, b, 0) * span(a, b, 1)
    return both / (area(a) + area(b) - both)


def late_clip(a, b):
    both = max(0, span(a, b, 0) * span(a, b, 1))
    return both / (area(a) + area(b) - both)


def hull(a, b):
    width = max(a[2], b[2]) - min(a[0], b[0])
    return overlap(a, b) / (width * (max(a[3], b[3]) - min(a[1], b[1])))


def sized(a, b):
    return boxes.iou(*((x, y, x + w, y + h) for x, y, w, h in (a, b)))


IOU = {
    "twice": (lambda a, b: overlap(a, b) / (area(a) + area(b)), "counted twice"),
    "no clip": (no_clip, "have a negative span"),
    "late clip": (late_clip, "two negative spans"),
    "first": (lambda a, b: overlap(a, b) / area(a), "first box alone"),
    "second": (lambda a, b: overlap(a, b) / area(b), "second box alone"),
    "smaller": (lambda a, b: overlap(a, b) / min(area(a), area(b)), "the smaller box"),
    "hull": (hull, "the box around both"),
    "sizes": (sized, "not width and height"),
    "intersection": (overlap, "the intersection alone"),
    "zero division": (lambda a, b: union(a, b) / overlap(a, b), "overlap of 0"),
    "upside down": (
        lambda a, b: union(a, b) / overlap(a, b) if overlap(a, b) else float("inf"),
        "upside down",
    ),
}
CASES = [
    (check, mistake, *wrong)
    for check, mistakes in (
        (checks.tokens, TOKENS),
        (checks.cost, COST),
        (checks.shows, SHOWS),
        (checks.iou, IOU),
    )
    for mistake, wrong in mistakes.items()
]


@pytest.mark.parametrize(
    ("check", "mistake", "attempt", "message"),
    CASES,
    ids=[f"{c[0].__name__}-{c[1]}" for c in CASES],
)
def test_a_mistake_is_named(check, mistake, attempt, message, capsys):
    said = verdict(check, attempt, capsys)
    assert said.startswith("[not yet]") and message in said


@pytest.mark.parametrize("check", [checks.tokens, checks.cost, checks.shows, checks.iou])
def test_an_open_stub_is_left_open(check, capsys):
    assert verdict(check, lambda *_: None, capsys).startswith("[todo]")


def test_right_ones(capsys):
    right = [
        (checks.tokens, lambda w, h, p, m: w // p // m * (h // p // m)),
        (checks.cost, lambda s, t, r, f: (-(-s * r // (t * f))) ** 2),
        (checks.shows, lambda c, t, v, r: inside(c, t) and height(c, t, v) >= r),
        (checks.iou, boxes.iou),
    ]
    for check, attempt in right:
        assert verdict(check, attempt, capsys).startswith("[ok]")
