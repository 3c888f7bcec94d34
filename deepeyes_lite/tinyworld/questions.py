"""Questions about a scene, with the answer and the boxes one has to look at.

A kind is a function from a scene and a random generator to a `Question`; ``KINDS`` names them. A new
kind is a new function and a new line there.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from deepeyes_lite.boxes import Box
from deepeyes_lite.tinyworld.scenes import Scene


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
