"""Questions about a scene, with the answer and the boxes one has to look at.

A kind is a function from a scene and a random generator to a `Question`; ``KINDS`` names them. A new
kind is a new function and a new line there.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, permutations

from deepeyes_lite.boxes import Box
from deepeyes_lite.tinyworld.scenes import COLORS, LETTERS, SHAPES, Scene, SceneObject


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: the key in ``KINDS``.
        text: the question as the policy gets it.
        answer: the exact answer.
        boxes_px: target boxes, in pixels of the scene; what a perfect zoom would show.
        legible: whether the view alone shows the detail.
        targets: the things whose detail the answer hangs on.
    """

    kind: str
    text: str
    answer: str
    boxes_px: tuple[Box, ...]
    legible: bool
    targets: tuple[SceneObject, ...] = ()


def read(scene: Scene, rng: random.Random) -> Question:
    """What letter is on a named object? Counterpart: V* Bench's attribute questions."""
    target = rng.choice(scene.objects)
    return Question(
        kind="read",
        text=f"What letter is on the {target.name}?",
        answer=target.letter,
        boxes_px=(target.box_px,),
        legible=target.legible,
        targets=(target,),
    )


def compare(scene: Scene, rng: random.Random) -> Question:
    """Do two objects carry the same letter? Counterpart: the paper's *visual comparison* pattern."""
    pairs = list(combinations(scene.objects, 2))
    same = rng.random() < 0.5
    one, other = rng.choice([p for p in pairs if (p[0].letter == p[1].letter) == same] or pairs)
    return Question(
        kind="compare",
        text=f"Do the {one.name} and the {other.name} carry the same letter?",
        answer=_yes(one.letter == other.letter),
        boxes_px=(one.box_px, other.box_px),
        legible=one.legible and other.legible,
        targets=(one, other),
    )


def exists(scene: Scene, rng: random.Random) -> Question:
    """Is there a red star? Counterpart: POPE's adversarial questions (hallucination).

    Something of that colour is always there; if the answer is no, its shape is another. The shape of a
    distractor cannot be seen in the view.
    """
    thing = rng.choice(scene.distractors or scene.objects)
    there = rng.random() < 0.5
    others = [shape for shape in SHAPES if shape != thing.shape]
    shape = thing.shape if there else rng.choice(others)
    return Question(
        kind="exists",
        text=f"Is there {'an' if thing.color[0] in 'aeiou' else 'a'} {thing.color} {shape}?",
        answer=_yes(there),
        boxes_px=(thing.box_px,),
        legible=thing not in scene.distractors,
        targets=(thing,),
    )


def relation(scene: Scene, rng: random.Random) -> Question:
    """Is one object left of, or above, another? Counterpart: V* Bench's spatial split. Needs no zoom."""
    pairs = list(permutations(scene.objects, 2))
    axis, word = rng.choice([(0, "left of"), (1, "above")])
    gaps = {pair: pair[1].box_px[axis] - pair[0].box_px[axis] for pair in pairs}
    clear = [pair for pair in pairs if abs(gaps[pair]) >= 40] or pairs
    one, other = rng.choice(clear)
    return Question(
        kind="relation",
        text=f"Is the {one.name} {word} the {other.name}?",
        answer=_yes(gaps[one, other] > 0),
        boxes_px=(one.box_px, other.box_px),
        legible=True,
    )


def count(scene: Scene, rng: random.Random) -> Question:
    """How many objects are there? Counterpart: the share of reasoning data. Needs no zoom."""
    return Question(
        kind="count",
        text="How many objects are there?",
        answer=str(len(scene.objects)),
        boxes_px=(),
        legible=True,
    )


def chart(scene: Scene, rng: random.Random) -> Question:
    """What number is on a bar? Counterpart: ArxivQA's charts.

    The bars' heights show their ratios only; the number is too small for the view.
    """
    bar = rng.choice(scene.bars)
    return Question(
        kind="chart",
        text=f"What number is on the {bar.name}?",
        answer=bar.letter,
        boxes_px=(bar.box_px,),
        legible=bar.legible,
        targets=(bar,),
    )


def nested(scene: Scene, rng: random.Random) -> Question:
    """A letter so small that a crop of its object does not show it: a zoom into a zoom.

    Counterpart: HR-Bench's 8K images. The target box is the letter's surroundings, not the object.
    """
    question = read(scene, rng)
    return replace(question, kind="nested", boxes_px=(letter_box(question.targets[0]),))


def letter_box(thing: SceneObject) -> Box:
    """The 60 x 60 px around an object's letter, as wide as a small object."""
    x, y = thing.letter_xy
    return (x - 30, y - 30, x + 30, y + 30)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


KINDS: dict[str, Callable[[Scene, random.Random], Question]] = {
    "read": read,
    "compare": compare,
    "exists": exists,
    "relation": relation,
    "count": count,
    "chart": chart,
    "nested": nested,
}
# The dials that a kind needs to have something to ask about, and both answers equally often.
NEEDS: dict[str, dict] = {
    "compare": {"twins": 1.0},
    "exists": {"distractors": (2, 2), "objects": (3, 5)},
    "chart": {"chart": 1.0, "objects": (3, 4)},
    "nested": {"canvas": 1536, "radius": (100, 120), "shift": 0.4, "legible_share": 0.0},
}


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


# What a filter should find: ways to corrupt a question on purpose, and the source they are marked with.
CORRUPTIONS: dict[str, Callable[[Question, Scene, random.Random], Question]] = {
    "wrong label": wrong_label,
    "unanswerable": unanswerable,
}


def label_of(sample: dict, number: int = 0) -> str:
    """The name of a thing that a question asks about, by which tiny-eyes calls the zoom.

    Args:
        sample: with a ``question`` of the tiny world.
        number: which thing, where the question names several.

    >>> label_of({"question": "What letter is on the red star?"})
    'red star'
    """
    names = re.findall(r"\b(?:the|an?) (\w+ \w+)", sample["question"]) or ["target"]
    return names[min(number, len(names) - 1)]
