"""Exercises of notebook 07: the model's own tokens, what a crop shows, a pattern, a failure's share."""

from itertools import combinations, groupby

from checks.exercise import Exercise
from deepeyes_lite.boxes import iou
from deepeyes_lite.viz.patterns import covered as share_covered

OBSERVED = {5, 6, 8}  # ids that stand in observations alone


def runs(ids, mask, wanted=1):
    """Runs of ids whose mask is ``wanted``."""
    stretches = groupby(zip(ids, mask), key=lambda pair: pair[1])
    return [[token for token, _ in run] for value, run in stretches if value == wanted]


def split(ids, mask):
    """Turns with an empty one after each id of an observation."""
    turns = [[]]
    for token, own in zip(ids, mask):
        turns[-1].append(token) if own else turns.append([])
    return turns


def by_turn(attempt, ids, mask):
    """The turns, or what is wrong with one of them."""
    turns = attempt(ids, mask)
    if not turns or [] in turns:
        return turns and "an empty turn"
    mixed = {token in OBSERVED for turn in turns for token in turn} == {True, False}
    return "both the model's and observations'" if mixed else turns


# Exercise 1. attempt(ids, mask) -> the tokens that the model wrote, a list for each turn. The second
# completion was cut off after its first observation.
own_turns = Exercise(
    cases=[
        (
            [11, 12, 2, 5, 8, 8, 6, 13, 2, 5, 8, 6, 14, 15, 2],
            [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1],
        ),
        ([11, 2, 5, 8, 6], [1, 1, 0, 0, 0]),
    ],
    solution=runs,
    mistakes={
        "these are the observations: mask 1 is what the model wrote": lambda *x: runs(*x, wanted=0),
        "an empty turn: start one only where the model begins to write": split,
        "one turn for all: an observation ends a turn, the next begins after it": (
            lambda ids, mask: [[token for token, own in zip(ids, mask) if own]]
        ),
        "the last turn is missing: after the loop one may still be open": (
            lambda ids, mask: runs(ids, mask)[: -mask[-1] or None]
        ),
        "only the first turn: go on after the observation": lambda *x: runs(*x)[:1],
        "off by one: the first token of each turn is the model's, too": (
            lambda *x: [t[1:] for t in runs(*x)]
        ),
        "off by one: the end of turn (2) is the model's own token": (
            lambda *x: [t[:-1] for t in runs(*x)]
        ),
        "tokens of an observation are among them: their mask is 0": lambda ids, mask: [ids],
    },
    praise="what the model wrote, turn by turn; the loss sees these tokens and no others",
    hint="give a list of lists of ids",
    run=by_turn,
)

TARGET = (100, 100, 160, 160)
CROPS = [(90, 90, 200, 200), (130, 90, 230, 200), (110, 120, 140, 150), TARGET]
CROPS += [(200, 220, 300, 300), (0, 120, 90, 140)]  # these two do not meet it


def sides(box, target):
    return [min(box[i + 2], target[i + 2]) - max(box[i], target[i]) for i in (0, 1)]


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(box, target):
    return share_covered(box, target) * area(target)


# Exercise 2. attempt(box, target) -> share of the target that lies in the box; both are (x1, y1, x2, y2).
covered = Exercise(
    cases=[(crop, TARGET) for crop in CROPS],
    solution=share_covered,
    mistakes={
        "this is IoU: divide by the target's area alone": iou,
        "divide by the target's area, not by the box's": lambda b, t: overlap(b, t) / area(b),
        "boxes that do not meet: two negative sides make a positive area; cut each at 0": (
            lambda b, t: sides(b, t)[0] * sides(b, t)[1] / area(t)
        ),
        "boxes that do not meet give a negative area: cut each side at 0": (
            lambda b, t: min(0, *sides(b, t)) or share_covered(b, t)
        ),
        "this is an area in pixels: divide by the target's": overlap,
        "these are percent: give a share between 0 and 1": lambda b, t: 100 * share_covered(b, t),
        "that is yes or no: give the share itself": lambda b, t: overlap(b, t) > 0,
    },
    praise="a generous crop that holds the whole target has 1, whatever its size",
    hint="give one number, the share of the target's area inside the box",
)

TWO_TARGETS = [[{0}, {1}], [{0}, {0}], [{0, 1}, set()], [{0}, {0, 1}], [{0, 1}, {0, 1}]]
NOT_SHOWN = [[set(), set()], [{2}, set(), {1}], [{0}, set()], [{0}, {1}, set()]]
LOOKS = [*TWO_TARGETS, *NOT_SHOWN, [{0}], [{0, 1}], [{0}, {0}, {1}]]


def exists(looks):
    return any(i != j for a, b in combinations(looks, 2) for i in a for j in b)


# Exercise 3. attempt(looks) -> is there a comparison? looks has, for each target, the set of calls that show
# it.
comparison = Exercise(
    cases=[(looks,) for looks in LOOKS],
    solution=exists,
    mistakes={
        "one crop that shows both targets is one look: the calls have to differ": (
            lambda looks: sum(map(bool, looks)) >= 2
        ),
        "two calls on one target compare nothing: two targets have to be shown": (
            lambda looks: len(set().union(*looks)) >= 2
        ),
        "a call that shows both does not spoil a comparison: is there a pair of different calls?": (
            lambda looks: sum(map(bool, looks)) >= 2 and not set.intersection(*filter(None, looks))
        ),
        "two of three targets are a comparison, too: not all of them have to be shown": (
            lambda looks: all(looks) and exists(looks)
        ),
        "only the first two targets are looked at: there may be more": lambda ls: exists(ls[:2]),
        "sets that differ are not enough: one of them may be empty": (
            lambda looks: any(call != looks[0] for call in looks)
        ),
        "turned round: True where there is a comparison": lambda looks: not exists(looks),
    },
    praise="two targets, two different calls",
    hint="looks is a list of sets of call numbers, one set for each target",
)

KINDS = ["misread"] * 3 + ["wrong place"] * 6 + ["too wide"] * 2 + ["part of it"]
KINDS += ["never called"] * 5 + ["malformed"] * 3 + [None] * 20
WITHOUT = ("never called", "malformed", None)  # a zoom, or a mistake


def share_of(leave_out=WITHOUT, share=lambda misread, n: misread / n if n else 0.0):
    """The solution; the settings change what is left out, and the last line."""

    def attempt(kinds):
        kept = [kind for kind in kinds if kind not in leave_out]
        return share(kept.count("misread"), len(kept))

    return attempt


# Exercise 4. attempt(kinds) -> of the wrong answers after a zoom, the share that was misread; kinds are what
# `patterns.failure` says of each episode.
misread_share = Exercise(
    cases=[(KINDS,), ([None, "never called", "malformed"],), (["misread", None],)],
    solution=share_of(),
    mistakes={
        "right answers are in it: the share is of wrong answers after a zoom": share_of(()),
        "without a zoom nothing can be misread: leave out never called and malformed": (
            share_of([None])
        ),
        "never called is without a zoom: leave it out": share_of(["malformed", None]),
        "malformed episodes may have no zoom: leave them out": share_of(["never called", None]),
        "part of it and too wide are wrong answers after a zoom, too": (
            share_of([*WITHOUT, "part of it", "too wide"])
        ),
        "this is how many: divide by how many were wrong after a zoom": (
            share_of(share=lambda misread, n: misread)
        ),
        "this is the other share: of those that were not misread": (
            share_of(share=lambda misread, n: 1 - misread / n if n else 0.0)
        ),
    },
    praise="3 of 12: a share needs its denominator said",
    hint="give 0.0 where no answer after a zoom was wrong",
)
