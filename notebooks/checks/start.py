"""Exercises of notebook 00: does a box hold its target, and which questions need a zoom?"""

from functools import cache

from checks.exercise import Exercise

START, SHOWN = 52, 6  # the validation scenes that notebook 00 shows


def inside(x, y, b):
    return b[0] <= x <= b[2] and b[1] <= y <= b[3]


def middle(t):
    return (t[0] + t[2]) / 2, (t[1] + t[3]) / 2


TARGET = (100, 200, 140, 260)  # its middle is (120, 230)

# Exercise 1. attempt(box, target) -> does the box hold the middle of the target? One frame for both.
hit = Exercise(
    cases=[
        ((90, 190, 150, 270), TARGET),  # around it
        ((110, 220, 130, 240), TARGET),  # within it
        ((115, 225, 300, 350), TARGET),  # a part of it, with the middle
        ((130, 240, 300, 350), TARGET),  # a part of it, without
        ((90, 190, 112, 215), TARGET),  # its corner
        ((100, 300, 140, 360), TARGET),  # below it
        ((200, 200, 240, 260), TARGET),  # beside it
        ((200, 110, 260, 150), TARGET),  # there with x and y swapped
        ((90, 240, 150, 300), TARGET),  # right in x, not in y
    ],
    solution=lambda b, t: inside(*middle(t), b),
    mistakes={
        "all of the target is asked for: its middle is enough": lambda b, t: (
            inside(*t[:2], b) and inside(*t[2:], b)
        ),
        "any overlap counts with you: the middle has to be in the box": lambda b, t: (
            b[0] < t[2] and t[0] < b[2] and b[1] < t[3] and t[1] < b[3]
        ),
        "turned round: the middle of the target in the box, not that of the box in the target": (
            lambda b, t: inside(*middle(b), t)
        ),
        "only x is looked at: y has to be right, too": lambda b, t: b[0] <= middle(t)[0] <= b[2],
        "only y is looked at: x has to be right, too": lambda b, t: b[1] <= middle(t)[1] <= b[3],
        "x and y are swapped: a box is (x1, y1, x2, y2)": lambda b, t: inside(*middle(t)[::-1], b),
        "this is the corner of the target, not its middle": lambda b, t: inside(*t[:2], b),
        "x or y is not enough: both have to be right": lambda b, t: (
            b[0] <= middle(t)[0] <= b[2] or b[1] <= middle(t)[1] <= b[3]
        ),
    },
    praise="the middle, in x and in y",
)

EVERYONE = set(range(1, SHOWN + 1))


@cache
def needed() -> frozenset[int]:
    """Numbers of the questions that cannot be answered from the view."""
    from deepeyes_lite.tinyworld.dataset import tiny_world

    legible = tiny_world("validation", SHOWN, start=START)["legible"]
    return frozenset(number for number, seen in enumerate(legible, 1) if not seen)


def numbers(guess) -> list[int] | None:
    """A guess without order and repetition."""
    numbers = guess()
    return None if numbers is None else sorted({int(number) for number in numbers})


def part_right(values: list) -> str | None:
    guessed, right = set(values[0]), needed()
    if not guessed <= EVERYONE:
        return f"the pictures are numbered from 1 to {SHOWN}, got {sorted(map(int, guessed))}"
    if wasted := guessed - right:
        return f"{len(wasted)} of yours can be read in the view as it is"
    return f"right so far, but {len(right - guessed)} more cannot be read"


# Exercise 2. attempt() -> numbers, from 1 to 6, of the questions that cannot be answered from the view.
needs_zoom = Exercise(
    cases=[()],
    solution=needed,
    mistakes={
        "counted from 0: the pictures are numbered from 1": lambda: [n - 1 for n in needed()],
        "all of them? Some letters can be read at once; a zoom there is wasted": lambda: EVERYONE,
        "none of them? Look for letters that are a smudge of a few pixels": lambda: [],
        "turned round: these are the ones that can be read at once": lambda: EVERYONE - needed(),
    },
    praise="these are the ones that need a zoom, and nobody needed the answer for it",
    hint=f"give a list of numbers, such as [1, {SHOWN}]",
    run=numbers,
    explain=part_right,
)
