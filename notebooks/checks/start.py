"""Checks of notebook 00: does a box hold its target, and which questions need a zoom?"""

import torch

from checks import agrees, over

START, SHOWN = 52, 6  # the validation scenes that notebook 00 shows


def hit(attempt) -> None:
    """Notebook 00, exercise 1: does a box hold the middle of its target?

    Args:
        attempt: takes ``box`` and ``target``, both (x1, y1, x2, y2) of one frame; gives True or False.
    """
    target = (100, 200, 140, 260)  # its middle is (120, 230)
    cases = [
        ((90, 190, 150, 270), target),  # around it
        ((110, 220, 130, 240), target),  # within it
        ((115, 225, 300, 350), target),  # a part of it, with the middle
        ((130, 240, 300, 350), target),  # a part of it, without
        ((90, 190, 112, 215), target),  # its corner
        ((100, 300, 140, 360), target),  # below it
        ((200, 200, 240, 260), target),  # beside it
        ((200, 110, 260, 150), target),  # there with x and y swapped
        ((90, 240, 150, 300), target),  # right in x, not in y
    ]

    def table(rule):
        return torch.tensor([float(rule(*case)) for case in cases])

    def inside(x, y, b):
        return b[0] <= x <= b[2] and b[1] <= y <= b[3]

    def middle(t):
        return (t[0] + t[2]) / 2, (t[1] + t[3]) / 2

    def holds(b, t):
        return inside(t[0], t[1], b) and inside(t[2], t[3], b)

    def meets(b, t):
        return b[0] < t[2] and t[0] < b[2] and b[1] < t[3] and t[1] < b[3]

    mistakes = {
        "all of the target is asked for: its middle is enough": table(holds),
        "any overlap counts with you: the middle has to be in the box": table(meets),
        "turned round: the middle of the target in the box, not that of the box in the target": table(
            lambda b, t: inside(*middle(b), t)
        ),
        "only x is looked at: y has to be right, too": table(
            lambda b, t: b[0] <= middle(t)[0] <= b[2]
        ),
        "only y is looked at: x has to be right, too": table(
            lambda b, t: b[1] <= middle(t)[1] <= b[3]
        ),
        "x and y are swapped: a box is (x1, y1, x2, y2)": table(
            lambda b, t: inside(*reversed(middle(t)), b)
        ),
        "this is the corner of the target, not its middle": table(
            lambda b, t: inside(t[0], t[1], b)
        ),
        "x or y is not enough: both have to be right": table(
            lambda b, t: b[0] <= middle(t)[0] <= b[2] or b[1] <= middle(t)[1] <= b[3]
        ),
    }
    right = table(lambda b, t: inside(*middle(t), b))
    if agrees(over(attempt, cases), (), right, mistakes) is not None:
        print("[ok] the middle, in x and in y")


def needs_zoom(attempt) -> None:
    """Notebook 00, exercise 2: which of six questions cannot be answered from the view?

    Args:
        attempt: takes nothing, gives a list of numbers from 1 to 6.
    """
    print("[{}] {}".format(*_judge_guess(attempt)))


def _judge_guess(attempt) -> tuple[str, str]:
    from deepeyes_lite.tinyworld.dataset import tiny_world

    legible = tiny_world("validation", SHOWN, start=START)["legible"]
    right = {number for number, seen in enumerate(legible, 1) if not seen}
    try:
        found = attempt()
        if found is None:
            return "todo", f"{attempt.__name__} returns nothing so far"
        numbers = {int(number) for number in found}
    except Exception as error:  # a learner's code: anything may go wrong in it
        message = f"{type(error).__name__}: {error}\ngive a list of numbers, such as [1, {SHOWN}]"
        return "not yet", message
    everyone = set(range(1, SHOWN + 1))
    if {number + 1 for number in numbers} == right:
        return "not yet", "counted from 0: the pictures are numbered from 1"
    if not numbers <= everyone:
        return "not yet", f"the pictures are numbered from 1 to {SHOWN}, got {sorted(numbers)}"
    if numbers == everyone:
        return "not yet", "all of them? Some letters can be read at once; a zoom there is wasted"
    if not numbers:
        return "not yet", "none of them? Look for letters that are a smudge of a few pixels"
    if numbers == everyone - right:
        return "not yet", "turned round: these are the ones that can be read at once"
    if wasted := numbers - right:
        return "not yet", f"{len(wasted)} of yours can be read in the view as it is"
    if numbers != right:
        return "not yet", f"right so far, but {len(right - numbers)} more cannot be read"
    return "ok", "these are the ones that need a zoom, and nobody needed the answer for it"
