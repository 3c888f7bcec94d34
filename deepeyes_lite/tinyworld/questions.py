"""Questions about a scene, with the answer and the boxes one has to look at.

A kind is a function from a scene and a random generator to a `Question`; ``KINDS`` names them. A new
kind is a new function and a new line there.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from deepeyes_lite.boxes import Box
from deepeyes_lite.tinyworld.scenes import COLORS, LETTERS, SHAPES, Scene


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: the key in ``KINDS``.
        text: the question as the policy gets it.
        answer: the exact answer.
        boxes_px: target boxes, in pixels of the scene; what a perfect zoom would show.
        legible: whether the view alone shows the detail.
    """

    kind: str
    text: str
    answer: str
    boxes_px: tuple[Box, ...]
    legible: bool


def read(scene: Scene, rng: random.Random) -> Question:
    """What letter is on a named object? Counterpart: V* Bench's attribute questions."""
    target = rng.choice(scene.objects)
    return Question(
        kind="read",
        text=f"What letter is on the {target.name}?",
        answer=target.letter,
        boxes_px=(target.box_px,),
        legible=target.legible,
    )


KINDS: dict[str, Callable[[Scene, random.Random], Question]] = {"read": read}


def wrong_label(question: Question, scene: Scene, rng: random.Random) -> Question:
    """The same question with another letter for its answer, as a careless annotator would leave it."""
    others = [letter for letter in LETTERS if letter != question.answer]
    return replace(question, answer=rng.choice(others))


def unanswerable(question: Question, scene: Scene, rng: random.Random) -> Question:
    """A question about an object that is not in the scene; the answer is made up."""
    there = {thing.name for thing in scene.objects}
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    name = rng.choice([name for name in names if name not in there])
    text = f"What letter is on the {name}?"
    return replace(question, text=text, answer=rng.choice(LETTERS))


# What a filter should find: ways to spoil a question on purpose, and the source they are marked with.
SPOILS: dict[str, Callable[[Question, Scene, random.Random], Question]] = {
    "wrong label": wrong_label,
    "unanswerable": unanswerable,
}
