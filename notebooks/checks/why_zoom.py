"""Exercises of notebook 01: tokens of a view, the cost of a larger one, what a crop shows, IoU."""

from math import ceil, floor, inf

from checks.exercise import Exercise
from deepeyes_lite import boxes

SCENE = 384  # px, the side of the notebook's scenes

# Exercise 1. attempt(width, height, patch, merge) -> number of visual tokens of a view.
tokens = Exercise(
    cases=[(96, 96, 8, 2), (1148, 840, 14, 2), (1024, 768, 16, 2), (96, 48, 8, 3)],
    solution=lambda w, h, p, m: w / (p * m) * h / (p * m),
    mistakes={
        "these are patches: merge of them, in each direction, become one token": lambda w, h, p, m: (
            w / p * h / p
        ),
        "merged in one direction only: a token is merge x merge patches": lambda w, h, p, m: (
            w / p * h / p / m
        ),
        "the sides are added: tokens lie in rows and columns, so multiply": lambda w, h, p, m: (
            (w + h) / (p * m)
        ),
        "a square was assumed: a view has a width and a height": lambda w, h, p, m: (
            (w / (p * m)) ** 2
        ),
        "the size of a patch is missing: a token is patch times merge pixels wide": lambda w, h, p, m: (
            w / m * h / m
        ),
        "merged patches get fewer: divide by merge, do not multiply": lambda w, h, p, m: (
            w / p * m * h / p * m
        ),
        "these are pixels of a token, not tokens of the view": lambda w, h, p, m: (p * m) ** 2,
    },
    praise="width and height, each divided by what a token covers",
)


def side(scene, letter, readable, factor):
    """Tokens on a side of the least view in which the letter is readable, not rounded."""
    return scene * readable / letter / factor


# Exercise 2. attempt(scene_px, letter_px, readable_px, factor) -> tokens of the least square view.
cost = Exercise(
    cases=[(384, 12, 8, 16), (384, 11, 8, 16), (768, 11, 8, 16), (384, 48, 8, 16)]
    + [(1000, 35, 10, 28), (4032, 40, 10, 28)],
    solution=lambda *case: ceil(side(*case)) ** 2,
    mistakes={
        "rounded down: then the view is too small for the letter": lambda *case: (
            floor(side(*case)) ** 2
        ),
        "rounded to the nearest: round up, or some views are too small": lambda *case: (
            round(side(*case)) ** 2
        ),
        "not rounded: a side has whole tokens, so round it up": lambda *case: side(*case) ** 2,
        "rounded too late: round the side up first, then square": lambda *case: ceil(
            side(*case) ** 2
        ),
        "these are the tokens of one side: the view has two": lambda *case: ceil(side(*case)),
        "this is the side in pixels: divide by factor, and square": lambda *case: (
            ceil(side(*case)) * case[3]
        ),
        "these are pixels: factor x factor of them are one token": lambda *case: (
            (ceil(side(*case)) * case[3]) ** 2
        ),
        "the ratio is upside down: the smaller the letter, the larger the view": lambda s, t, r, f: (
            ceil(s * t / r / f) ** 2
        ),
        "readable_px is missing: one pixel for a letter is not enough": lambda s, t, r, f: (
            ceil(s / t / f) ** 2
        ),
    },
    praise="half the letter, four times the tokens",
    hint="math.ceil rounds up",
)


def inside(c, t):
    return c[0] <= t[0] and c[1] <= t[1] and c[2] >= t[2] and c[3] >= t[3]


def large(c, t, v, r):
    return (t[3] - t[1]) * v / (c[2] - c[0]) >= r


def middle(t):
    return 2 * ((t[0] + t[2]) / 2, (t[1] + t[3]) / 2)


LETTER = (200, 100, 216, 112)  # 12 px high

# Exercise 3. attempt(crop_px, letter_px, view, readable) -> can the letter be read in the crop?
shows = Exercise(
    cases=[
        ((180, 80, 240, 140), LETTER, 96, 8),  # inside, 19 px
        ((150, 50, 294, 194), LETTER, 96, 8),  # inside, exactly 8 px
        ((150, 50, 295, 195), LETTER, 96, 8),  # inside, a little less
        ((200, 100, 230, 130), LETTER, 96, 8),  # in the corner
        ((150, 60, 205, 115), LETTER, 96, 8),  # cut off on the right
        ((170, 80, 212, 122), LETTER, 96, 8),  # cut off, its middle inside
        ((180, 104, 240, 164), LETTER, 96, 8),  # cut off above
        ((20, 200, 80, 260), LETTER, 96, 8),  # beside it
        ((20, 100, 300, 380), LETTER, 96, 8),  # inside, too wide
        ((204, 102, 212, 110), LETTER, 96, 8),  # within the letter
        ((0, 0, 300, 300), LETTER, 280, 8),  # a larger view
        ((180, 80, 240, 140), (200, 100, 212, 106), 96, 8),  # half as high
    ],
    solution=lambda c, t, v, r: inside(c, t) and large(c, t, v, r),
    mistakes={
        "only the place is looked at: in a wide crop the letter is small again": lambda c, t, v, r: (
            inside(c, t)
        ),
        "only the size is looked at: the letter has to be in the crop": large,
        "a letter that is cut off cannot be read: all of its box has to be in the crop": lambda c, t, v, r: (
            boxes.iou(c, t) > 0 and large(c, t, v, r)
        ),
        "the middle of the letter is not enough: all of its box has to be in the crop": lambda c, t, v, r: (
            inside(c, middle(t)) and large(c, t, v, r)
        ),
        "turned round: the letter is inside the crop, not the crop inside the letter": lambda c, t, v, r: (
            inside(t, c) and large(c, t, v, r)
        ),
        "exactly readable is readable: use >=": lambda c, t, v, r: (
            inside(c, t) and (t[3] - t[1]) * v / (c[2] - c[0]) > r
        ),
        "a letter on the edge of the crop is still inside: use <= and >=": lambda c, t, v, r: (
            inside((c[0] + 1, c[1] + 1, c[2] - 1, c[3] - 1), t) and large(c, t, v, r)
        ),
        "the scale is upside down: view / side of the crop": lambda c, t, v, r: (
            inside(c, t) and (t[3] - t[1]) * (c[2] - c[0]) / v >= r
        ),
        "this is the scale of the whole scene: a crop has its own, view / side of the crop": (
            lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * v / SCENE >= r
        ),
        "the crop is enlarged to the view: multiply the letter by view / side of the crop": (
            lambda c, t, v, r: inside(c, t) and t[3] - t[1] >= r
        ),
        "the height of the letter counts, and you took its width": lambda c, t, v, r: (
            inside(c, t) and (t[2] - t[0]) * v / (c[2] - c[0]) >= r
        ),
    },
    praise="the whole letter, and large enough",
)


def span(a, b, k):
    return min(a[k + 2], b[k + 2]) - max(a[k], b[k])


def overlap(a, b):
    return max(0, span(a, b, 0)) * max(0, span(a, b, 1))


def area(a):
    return (a[2] - a[0]) * (a[3] - a[1])


def union(a, b):
    return area(a) + area(b) - overlap(a, b)


def over_union(both, a, b):
    return both / (area(a) + area(b) - both)


def hull(a, b):
    return area((*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:])))


def sized(a):  # what (x1, y1, x2, y2) is, taken for x, y, width, height
    return (a[0], a[1], a[0] + a[2], a[1] + a[3])


# Exercise 4. attempt(a, b) -> IoU of two boxes of one frame, from 0 to 1.
iou = Exercise(
    cases=[
        ((0, 0, 10, 10), (0, 0, 10, 10)),
        ((0, 0, 10, 10), (5, 0, 15, 10)),
        ((0, 0, 10, 20), (4, 5, 8, 10)),
        ((4, 5, 8, 10), (0, 0, 10, 20)),
        ((0, 0, 10, 10), (20, 0, 30, 10)),  # apart in x
        ((0, 0, 10, 10), (20, 20, 30, 30)),  # apart in both
        ((10, 0, 30, 10), (20, 5, 50, 25)),
    ],
    solution=boxes.iou,
    mistakes={
        "the overlap is counted twice in the union: subtract it once": lambda a, b: (
            overlap(a, b) / (area(a) + area(b))
        ),
        "boxes that are apart have a negative span: cut it off at 0, in each direction": lambda a, b: (
            over_union(span(a, b, 0) * span(a, b, 1), a, b)
        ),
        "cut off at 0 in each direction: two negative spans make a positive product": lambda a, b: (
            over_union(max(0, span(a, b, 0) * span(a, b, 1)), a, b)
        ),
        "divided by the first box alone: the union belongs below": lambda a, b: (
            overlap(a, b) / area(a)
        ),
        "divided by the second box alone: the union belongs below": lambda a, b: (
            overlap(a, b) / area(b)
        ),
        "divided by the smaller box: a box that holds the target would always have 1": lambda a, b: (
            overlap(a, b) / min(area(a), area(b))
        ),
        "divided by the box around both: that is larger than their union": lambda a, b: (
            overlap(a, b) / hull(a, b)
        ),
        "the last two numbers are a corner, not width and height": lambda a, b: boxes.iou(
            sized(a), sized(b)
        ),
        "the intersection alone: divide by the union": overlap,
        "the union over the intersection is upside down": lambda a, b: (
            union(a, b) / overlap(a, b) if overlap(a, b) else inf
        ),
    },
    praise="1 for the same box, 0 for boxes that do not meet",
    hint="boxes that do not meet have an overlap of 0",
)
