"""Checks of notebook 01: tokens of a view, the cost of a larger one, what a crop shows, IoU."""

from math import ceil, floor

import torch

from checks import agrees, over
from deepeyes_lite import boxes

SCENE = 384  # px, the side of the notebook's scenes


def tokens(attempt) -> None:
    """Notebook 01, exercise 1: the visual tokens of a view.

    Args:
        attempt: takes ``width`` and ``height`` of the view, ``patch`` and ``merge``; gives their number.
    """
    cases = [(96, 96, 8, 2), (1148, 840, 14, 2), (1024, 768, 16, 2), (96, 48, 8, 3)]

    def table(rule):
        return torch.tensor([float(rule(*case)) for case in cases])

    mistakes = {
        "these are patches: merge of them, in each direction, become one token": table(
            lambda w, h, p, m: (w / p) * (h / p)
        ),
        "merged in one direction only: a token is merge x merge patches": table(
            lambda w, h, p, m: (w / p) * (h / p) / m
        ),
        "the sides are added: tokens lie in rows and columns, so multiply": table(
            lambda w, h, p, m: (w + h) / (p * m)
        ),
        "a square was assumed: a view has a width and a height": table(
            lambda w, h, p, m: (w / (p * m)) ** 2
        ),
        "the size of a patch is missing: a token is patch times merge pixels wide": table(
            lambda w, h, p, m: (w / m) * (h / m)
        ),
        "merged patches get fewer: divide by merge, do not multiply": table(
            lambda w, h, p, m: (w / p * m) * (h / p * m)
        ),
        "these are pixels of a token, not tokens of the view": table(
            lambda w, h, p, m: (p * m) ** 2
        ),
    }
    right = table(lambda w, h, p, m: (w / (p * m)) * (h / (p * m)))
    if agrees(over(attempt, cases), (), right, mistakes) is not None:
        print("[ok] width and height, each divided by what a token covers")


def cost(attempt) -> None:
    """Notebook 01, exercise 2: the tokens of the least square view in which a letter can be read.

    Args:
        attempt: takes ``scene_px``, ``letter_px``, ``readable_px`` and ``factor``; gives their number.
    """
    cases = [(384, 12, 8, 16), (384, 11, 8, 16), (768, 11, 8, 16), (1000, 35, 10, 28)]
    cases += [(384, 48, 8, 16), (4032, 40, 10, 28)]

    def table(rule):
        return torch.tensor([float(rule(*case)) for case in cases])

    def side(scene, letter, readable, factor):
        return scene * readable / letter / factor

    mistakes = {
        "rounded down: then the view is too small for the letter": table(
            lambda *case: floor(side(*case)) ** 2
        ),
        "rounded to the nearest: round up, or some views are too small": table(
            lambda *case: round(side(*case)) ** 2
        ),
        "not rounded: a side has whole tokens, so round it up": table(
            lambda *case: side(*case) ** 2
        ),
        "rounded too late: round the side up first, then square": table(
            lambda *case: ceil(side(*case) ** 2)
        ),
        "these are the tokens of one side: the view has two": table(
            lambda *case: ceil(side(*case))
        ),
        "this is the side in pixels: divide by factor, and square": table(
            lambda *case: ceil(side(*case)) * case[3]
        ),
        "these are pixels: factor x factor of them are one token": table(
            lambda *case: (ceil(side(*case)) * case[3]) ** 2
        ),
        "the ratio is upside down: the smaller the letter, the larger the view": table(
            lambda s, t, r, f: ceil(s * t / r / f) ** 2
        ),
        "readable_px is missing: one pixel for a letter is not enough": table(
            lambda s, t, r, f: ceil(s / t / f) ** 2
        ),
    }
    hint = "math.ceil rounds up"
    if (
        agrees(over(attempt, cases), (), table(lambda *c: ceil(side(*c)) ** 2), mistakes, hint)
        is not None
    ):
        print("[ok] half the letter, four times the tokens")


def shows(attempt) -> None:
    """Notebook 01, exercise 3: whether a letter can be read in a crop.

    Args:
        attempt: takes ``crop_px`` (a square), ``letter_px`` (both boxes), ``view`` and ``readable`` (both
            in pixels of the crop's view); gives True or False.
    """
    letter = (200, 100, 216, 112)  # 12 px high
    cases = [
        ((180, 80, 240, 140), letter, 96, 8),  # inside, 19 px
        ((150, 50, 294, 194), letter, 96, 8),  # inside, exactly 8 px
        ((150, 50, 295, 195), letter, 96, 8),  # inside, a little less
        ((200, 100, 230, 130), letter, 96, 8),  # in the corner
        ((150, 60, 205, 115), letter, 96, 8),  # cut off on the right
        ((170, 80, 212, 122), letter, 96, 8),  # cut off, its middle inside
        ((180, 104, 240, 164), letter, 96, 8),  # cut off above
        ((20, 200, 80, 260), letter, 96, 8),  # beside it
        ((20, 100, 300, 380), letter, 96, 8),  # inside, too wide
        ((204, 102, 212, 110), letter, 96, 8),  # within the letter
        ((0, 0, 300, 300), letter, 280, 8),  # a larger view
        ((180, 80, 240, 140), (200, 100, 212, 106), 96, 8),  # half as high
    ]

    def table(rule):
        return torch.tensor([float(rule(*case)) for case in cases])

    def inside(c, t):
        return c[0] <= t[0] and c[1] <= t[1] and c[2] >= t[2] and c[3] >= t[3]

    def large(c, t, v, r):
        return (t[3] - t[1]) * v / (c[2] - c[0]) >= r

    def meets(c, t):
        return boxes.iou(c, t) > 0

    mistakes = {
        "only the place is looked at: in a wide crop the letter is small again": table(
            lambda c, t, v, r: inside(c, t)
        ),
        "only the size is looked at: the letter has to be in the crop": table(large),
        "a letter that is cut off cannot be read: all of its box has to be in the crop": table(
            lambda c, t, v, r: meets(c, t) and large(c, t, v, r)
        ),
        "the middle of the letter is not enough: all of its box has to be in the crop": table(
            lambda c, t, v, r: (
                inside(c, 2 * ((t[0] + t[2]) / 2, (t[1] + t[3]) / 2)) and large(c, t, v, r)
            )
        ),
        "turned round: the letter is inside the crop, not the crop inside the letter": table(
            lambda c, t, v, r: inside(t, c) and large(c, t, v, r)
        ),
        "exactly readable is readable: use >=": table(
            lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * v / (c[2] - c[0]) > r
        ),
        "a letter on the edge of the crop is still inside: use <= and >=": table(
            lambda c, t, v, r: (
                inside((c[0] + 1, c[1] + 1, c[2] - 1, c[3] - 1), t) and large(c, t, v, r)
            )
        ),
        "the scale is upside down: view / side of the crop": table(
            lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * (c[2] - c[0]) / v >= r
        ),
        "this is the scale of the whole scene: a crop has its own, view / side of the crop": table(
            lambda c, t, v, r: inside(c, t) and (t[3] - t[1]) * v / SCENE >= r
        ),
        "the crop is enlarged to the view: multiply the letter by view / side of the crop": table(
            lambda c, t, v, r: inside(c, t) and t[3] - t[1] >= r
        ),
        "the height of the letter counts, and you took its width": table(
            lambda c, t, v, r: inside(c, t) and (t[2] - t[0]) * v / (c[2] - c[0]) >= r
        ),
    }
    right = table(lambda c, t, v, r: inside(c, t) and large(c, t, v, r))
    if agrees(over(attempt, cases), (), right, mistakes) is not None:
        print("[ok] the whole letter, and large enough")


def iou(attempt) -> None:
    """Notebook 01, exercise 4: intersection over union.

    Args:
        attempt: takes two boxes of one frame, gives a number from 0 to 1.
    """
    cases = [
        ((0, 0, 10, 10), (0, 0, 10, 10)),
        ((0, 0, 10, 10), (5, 0, 15, 10)),
        ((0, 0, 10, 20), (4, 5, 8, 10)),
        ((4, 5, 8, 10), (0, 0, 10, 20)),
        ((0, 0, 10, 10), (20, 0, 30, 10)),  # apart in x
        ((0, 0, 10, 10), (20, 20, 30, 30)),  # apart in both
        ((10, 0, 30, 10), (20, 5, 50, 25)),
    ]

    def table(rule):
        return torch.tensor([float(rule(a, b)) for a, b in cases])

    def span(a, b, k):
        return min(a[k + 2], b[k + 2]) - max(a[k], b[k])

    def overlap(a, b):
        return max(0, span(a, b, 0)) * max(0, span(a, b, 1))

    def area(a):
        return (a[2] - a[0]) * (a[3] - a[1])

    def union(a, b):
        return area(a) + area(b) - overlap(a, b)

    def hull(a, b):
        corners = (*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:]))
        return area(corners)

    def sized(a):  # what (x1, y1, x2, y2) is, taken for x, y, width, height
        return (a[0], a[1], a[0] + a[2], a[1] + a[3])

    def unclipped(a, b):
        return span(a, b, 0) * span(a, b, 1)

    mistakes = {
        "the overlap is counted twice in the union: subtract it once": table(
            lambda a, b: overlap(a, b) / (area(a) + area(b))
        ),
        "boxes that are apart have a negative span: cut it off at 0, in each direction": table(
            lambda a, b: unclipped(a, b) / (area(a) + area(b) - unclipped(a, b))
        ),
        "cut off at 0 in each direction: two negative spans make a positive product": table(
            lambda a, b: max(0, unclipped(a, b)) / (area(a) + area(b) - max(0, unclipped(a, b)))
        ),
        "divided by the first box alone: the union belongs below": table(
            lambda a, b: overlap(a, b) / area(a)
        ),
        "divided by the second box alone: the union belongs below": table(
            lambda a, b: overlap(a, b) / area(b)
        ),
        "divided by the smaller box: a box that holds the target would always have 1": table(
            lambda a, b: overlap(a, b) / min(area(a), area(b))
        ),
        "divided by the box around both: that is larger than their union": table(
            lambda a, b: overlap(a, b) / hull(a, b)
        ),
        "the last two numbers are a corner, not width and height": table(
            lambda a, b: overlap(sized(a), sized(b)) / union(sized(a), sized(b))
        ),
        "the intersection alone: divide by the union": table(overlap),
        "the union over the intersection is upside down": table(
            lambda a, b: union(a, b) / overlap(a, b) if overlap(a, b) else float("inf")
        ),
    }
    right = table(lambda a, b: overlap(a, b) / union(a, b))
    hint = "boxes that do not meet have an overlap of 0"
    if agrees(over(attempt, cases), (), right, mistakes, hint) is not None:
        print("[ok] 1 for the same box, 0 for boxes that do not meet")
