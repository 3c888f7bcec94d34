"""Checks of notebook 07: the model's own tokens, what a crop shows, a pattern, a failure's share."""

import torch

from checks import agrees, over

# Ids of a completion with two calls, and one that a full budget cut off after its first observation.
_MASKED = [
    (
        [11, 12, 2, 5, 8, 8, 6, 13, 2, 5, 8, 6, 14, 15, 2],
        [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1],
    ),
    ([11, 2, 5, 8, 6], [1, 1, 0, 0, 0]),
]


def own_turns(attempt) -> None:
    """Notebook 07, exercise 1: the tokens that the model wrote, turn by turn.

    Args:
        attempt: takes ``ids`` and ``mask``, lists of one length; gives a list of lists of ids.
    """
    print("[{}] {}".format(*_judge_turns(attempt)))


def covered(attempt) -> None:
    """Notebook 07, exercise 2: the share of a target that a crop shows.

    Args:
        attempt: takes ``box`` and ``target``, (x1, y1, x2, y2) in one frame, gives a number.
    """
    target = (100, 100, 160, 160)
    boxes = [(90, 90, 200, 200), (130, 90, 230, 200), (110, 120, 140, 150), (200, 220, 300, 300)]
    boxes += [(0, 120, 90, 140), (100, 100, 160, 160)]
    cases = [(box, target) for box in boxes]

    def sides(box, target):
        return [min(box[i + 2], target[i + 2]) - max(box[i], target[i]) for i in (0, 1)]

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    def overlap(box, target):
        width, height = (max(0, side) for side in sides(box, target))
        return width * height

    def table(rule):
        return torch.tensor([rule(*case) for case in cases], dtype=torch.float32)

    mistakes = {
        "this is IoU: divide by the target's area alone": table(
            lambda b, t: overlap(b, t) / (area(b) + area(t) - overlap(b, t))
        ),
        "divide by the target's area, not by the box's": table(
            lambda b, t: overlap(b, t) / area(b)
        ),
        "boxes that do not meet: two negative sides make a positive area; cut each at 0": table(
            lambda b, t: sides(b, t)[0] * sides(b, t)[1] / area(t)
        ),
        "boxes that do not meet give a negative area: cut each side at 0": table(
            lambda b, t: min(0, *sides(b, t)) or overlap(b, t) / area(t)
        ),
        "this is an area in pixels: divide by the target's": table(overlap),
        "these are percent: give a share between 0 and 1": 100
        * table(lambda b, t: overlap(b, t) / area(t)),
        "that is yes or no: give the share itself": table(lambda b, t: overlap(b, t) > 0),
    }
    right = table(lambda b, t: overlap(b, t) / area(t))
    hint = "give one number, the share of the target's area inside the box"
    if agrees(over(attempt, cases), (), right, mistakes, hint) is not None:
        print("[ok] a generous crop that holds the whole target has 1, whatever its size")


def comparison(attempt) -> None:
    """Notebook 07, exercise 3: the query for visual comparison.

    Args:
        attempt: takes ``looks``, for each target the set of calls that show it; gives True or False.
    """
    looks = [
        [{0}, {1}],
        [{0}, {0}],
        [{0, 1}, set()],
        [{0}, {0, 1}],
        [{0, 1}, {0, 1}],
        [{0}],
        [{0, 1}],
        [set(), set()],
        [{2}, set(), {1}],
        [{0}, set()],
        [{0}, {1}, set()],
        [{0}, {0}, {1}],
    ]
    cases = [([set(found) for found in case],) for case in looks]

    def exists(looks):
        pairs = [(a, b) for n, a in enumerate(looks) for b in looks[n + 1 :]]
        return any(i != j for a, b in pairs for i in a for j in b)

    def table(rule):
        return torch.tensor([float(rule(case)) for (case,) in cases])

    mistakes = {
        "one crop that shows both targets is one look: the calls have to differ": table(
            lambda looks: sum(map(bool, looks)) >= 2
        ),
        "two calls on one target compare nothing: two targets have to be shown": table(
            lambda looks: len(set().union(*looks)) >= 2
        ),
        "a call that shows both does not spoil a comparison: is there a pair of different calls?": table(
            lambda looks: sum(map(bool, looks)) >= 2 and not set.intersection(*filter(None, looks))
        ),
        "two of three targets are a comparison, too: not all of them have to be shown": table(
            lambda looks: all(looks) and exists(looks)
        ),
        "only the first two targets are looked at: there may be more": table(
            lambda looks: exists(looks[:2])
        ),
        "sets that differ are not enough: one of them may be empty": table(
            lambda looks: len(looks) > 1 and any(a != looks[0] for a in looks)
        ),
        "turned round: True where there is a comparison": table(lambda looks: not exists(looks)),
    }
    hint = "looks is a list of sets of call numbers, one set for each target"
    if agrees(over(attempt, cases), (), table(exists), mistakes, hint) is not None:
        print("[ok] two targets, two different calls")


def misread_share(attempt) -> None:
    """Notebook 07, exercise 4: of the wrong answers after a zoom, the share that were misread.

    Args:
        attempt: takes ``kinds``, what `patterns.failure` says of each episode, gives a share.
    """
    kinds = ["misread"] * 3 + ["wrong place"] * 6 + ["too wide"] * 2 + ["part of it"]
    kinds += ["never called"] * 5 + ["malformed"] * 3 + [None] * 20
    cases = [(list(kinds),), ([None, "never called", "malformed"],), (["misread", None],)]
    looked = ("wrong place", "part of it", "too wide", "misread")

    def table(keep, share=lambda misread, n: misread / n if n else 0.0):
        found = [[kind for kind in case if keep(kind)] for (case,) in cases]
        return torch.tensor([float(share(c.count("misread"), len(c))) for c in found])

    mistakes = {
        "right answers are in it: the share is of wrong answers after a zoom": table(
            lambda k: True
        ),
        "without a zoom nothing can be misread: leave out never called and malformed": table(
            lambda k: k is not None
        ),
        "never called is without a zoom: leave it out": table(
            lambda k: k in (*looked, "never called")
        ),
        "malformed episodes may have no zoom: leave them out": table(
            lambda k: k in (*looked, "malformed")
        ),
        "part of it and too wide are wrong answers after a zoom, too": table(
            lambda k: k in ("wrong place", "misread")
        ),
        "this is how many: divide by how many were wrong after a zoom": table(
            lambda k: k in looked, lambda misread, n: misread
        ),
        "this is the other share: of those that were not misread": table(
            lambda k: k in looked, lambda misread, n: 1 - misread / n if n else 0.0
        ),
    }
    right = table(lambda k: k in looked)
    hint = "give 0.0 where no answer after a zoom was wrong"
    if agrees(over(attempt, cases), (), right, mistakes, hint) is not None:
        print("[ok] 3 of 12: a share needs its denominator said")


def _judge_turns(attempt) -> tuple[str, str]:
    for ids, mask in _MASKED:
        try:
            found = attempt(list(ids), list(mask))
            if found is None:
                return "todo", f"{attempt.__name__} returns nothing so far"
            found = [[int(token) for token in turn] for turn in found]
        except Exception as error:  # a learner's code: anything may go wrong in it
            return "not yet", f"{type(error).__name__}: {error}; give a list of lists of ids"
        right = _stretches(ids, mask, 1)
        if found == right:
            continue
        own = [token for token, m in zip(ids, mask) if m]
        flat = [token for turn in found for token in turn]
        if found == _stretches(ids, mask, 0):
            return "not yet", "these are the observations: mask 1 is what the model wrote"
        if [] in found:
            return "not yet", "an empty turn: start one only where the model begins to write"
        if found == [own]:
            return (
                "not yet",
                "one turn for all: an observation ends a turn, the next begins after it",
            )
        if found == right[:-1]:
            return "not yet", "the last turn is missing: after the loop one may still be open"
        if found == right[:1]:
            return "not yet", "only the first turn: go on after the observation"
        if found == [turn[1:] for turn in right if turn[1:]]:
            return "not yet", "off by one: the first token of each turn is the model's, too"
        if found == [turn[:-1] for turn in right if turn[:-1]]:
            return "not yet", "off by one: the end of turn (2) is the model's own token"
        if set(flat) - set(own):
            return "not yet", "tokens of an observation are among them: their mask is 0"
        return "not yet", f"expected {right}, got {found}"
    return "ok", "what the model wrote, turn by turn; the loss sees these tokens and no others"


def _stretches(ids: list, mask: list, wanted: int) -> list[list]:
    """Runs of ids whose mask is ``wanted``."""
    found, before = [], None
    for token, value in zip(ids, mask):
        if value == wanted:
            if before != wanted:
                found.append([])
            found[-1].append(token)
        before = value
    return found
