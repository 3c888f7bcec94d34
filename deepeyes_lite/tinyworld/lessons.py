"""What tiny-eyes is taught: views and crops with dense labels, and conversations as text.

Everything here is a function of a scene and a random generator. `pretrain.py` makes batches of it.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box, clamp, px_to_1000
from deepeyes_lite.tinyworld.model import MERGE, PATCH
from deepeyes_lite.tinyworld.scenes import (
    COLORS,
    LETTERS,
    READABLE_PX,
    SHAPES,
    Scene,
    SceneObject,
    World,
    draw_scene,
)
from deepeyes_lite.tools import zoom

WORLD = World()
CELLS = WORLD.view // PATCH // MERGE  # merged visual tokens a side
LEGIBLE_TARGETS = 0.85  # share of legible targets when a question is asked about the view
THOUGHTS = {"look": "I can see it.", "zoom": "I need to zoom in.", "crop": "I can read it."}


# --- images: a window of the scene, reduced or enlarged to a view -------------------------------


def to_view(image: Image.Image) -> np.ndarray:
    """The (side, side, 3) uint8 view of a scene or crop, as the image processor would make it."""
    return np.asarray(image.resize((WORLD.view, WORLD.view), Image.Resampling.BICUBIC))


def readable(thing: SceneObject, window_px: Box) -> bool:
    """Whether a view of the window shows the object's letter: inside, and large enough."""
    x, y = thing.letter_xy
    reach = 0.45 * thing.letter_px  # a little more than the ink takes, so within the object's box
    left, top, right, bottom = thing.box_px
    x1, y1, x2, y2 = window_px
    inside_x = x1 <= max(left, x - reach) and min(right, x + reach) <= x2
    inside_y = y1 <= max(top, y - reach) and min(bottom, y + reach) <= y2
    return inside_x and inside_y and thing.letter_px * WORLD.view / (x2 - x1) >= READABLE_PX


def around(thing: SceneObject, rng: random.Random, margin: int, shake: int) -> Box:
    """A box around the object: a random margin up to ``margin``, each side off by ``shake`` px."""
    m = rng.uniform(0, margin)
    x1, y1, x2, y2 = thing.box_px
    box = [v + rng.uniform(-shake, shake) for v in (x1 - m, y1 - m, x2 + m, y2 + m)]
    return clamp(tuple(box), (WORLD.canvas, WORLD.canvas))


def anywhere(rng: random.Random) -> Box:
    """A box of any place and size: the clumsy guess."""
    w, h = rng.uniform(56, 176), rng.uniform(56, 176)
    x, y = rng.uniform(0, WORLD.canvas - w), rng.uniform(0, WORLD.canvas - h)
    return (x, y, x + w, y + h)


def speak(box_px: Box) -> list[int]:
    """``box_px`` as the model says it: ``box_1000`` in steps of 10."""
    return [round(v / 10) * 10 for v in px_to_1000(box_px, (WORLD.canvas, WORLD.canvas))]


# --- dense labels ----------------------------------------------------------------------


@dataclass
class DenseLabels:
    """Labels of the merged visual tokens of one view, row by row; -100 is "no label"."""

    color: np.ndarray = field(default_factory=lambda: np.zeros(CELLS * CELLS, np.int64))
    shape: np.ndarray = field(default_factory=lambda: np.zeros(CELLS * CELLS, np.int64))
    letter: np.ndarray = field(default_factory=lambda: np.full(CELLS * CELLS, -100, np.int64))
    box: np.ndarray = field(default_factory=lambda: np.zeros((CELLS * CELLS, 4), np.float32))


def dense_labels(scene: Scene, window_px: Box) -> DenseLabels:
    """Colour, shape (0 is background), letter and box (in cells) of the object under each token."""
    labels = DenseLabels()
    best = np.zeros(CELLS * CELLS)
    x0, y0, side = window_px[0], window_px[1], window_px[2] - window_px[0]
    for thing in scene.objects:
        x1, y1, x2, y2 = ((v - o) * CELLS / side for v, o in zip(thing.box_px, (x0, y0, x0, y0)))
        letter = LETTERS.index(thing.letter) if readable(thing, window_px) else -100
        letter_x, letter_y = ((v - o) * CELLS / side for v, o in zip(thing.letter_xy, (x0, y0)))
        for row in range(max(0, math.floor(y1)), min(CELLS, math.ceil(y2))):
            for col in range(max(0, math.floor(x1)), min(CELLS, math.ceil(x2))):
                overlap = (min(x2, col + 1) - max(x1, col)) * (min(y2, row + 1) - max(y1, row))
                cell = row * CELLS + col
                if overlap <= max(0.15, best[cell]):
                    continue
                best[cell] = overlap
                labels.color[cell] = list(COLORS).index(thing.color) + 1
                labels.shape[cell] = list(SHAPES).index(thing.shape) + 1
                labels.box[cell] = [x1, y1, x2, y2]
                near = abs(col + 0.5 - letter_x) <= 1 and abs(row + 0.5 - letter_y) <= 1
                labels.letter[cell] = letter if near else -100
    return labels


# --- conversations as text -------------------------------------------------------------------


@dataclass
class Sample:
    """One training conversation: ``parts`` are (text, weight of its tokens in the loss)."""

    views: list[int]  # indices into the step's images, in order of their placeholders
    parts: list[tuple[str, float]]


def _prompt(question: str, tools: bool) -> str:
    system = f"<|im_start|>system\nTools: {prompts.ZOOM}.{prompts.TURN_END}\n" if tools else ""
    user = f"<|im_start|>user\n{prompts.IMAGE}{question}{prompts.TURN_END}\n"
    return system + user + prompts.GENERATION_PROMPT


def _reply(thought: str, text: str, weight: float = 3.0) -> list[tuple[str, float]]:
    """A reply whose answer weighs more than its frame, in which there is nothing to learn for long."""
    before, after = prompts.answer(thought, "\0").split("\0")
    return [(before, 1.0), (text, weight), (after + prompts.TURN_END, 1.0)]


class Images:
    """The images of one step, each with its dense labels."""

    def __init__(self) -> None:
        self.views: list[np.ndarray] = []
        self.labels: list[DenseLabels] = []

    def add(self, scene: Scene, box_px: Box | None = None) -> tuple[int, Box]:
        """Add the whole scene, or the tool's crop of a box; returns its index and window."""
        if box_px is None:
            image, window = scene.image, (0.0, 0.0, float(WORLD.canvas), float(WORLD.canvas))
        else:
            image, window = zoom(scene.image, box_px)
        self.views.append(to_view(image))
        self.labels.append(dense_labels(scene, window))
        return len(self.views) - 1, window


def short_sample(
    scene: Scene,
    view: int,
    images: Images,
    rng: random.Random,
    grounding: float = 0.2,
    crops: float = 0.15,
) -> Sample:
    """Single-turn grounding, reading a crop, or reading from the view."""
    kind = rng.random()
    thing = rng.choice(scene.objects)
    if kind < grounding:
        box = str(speak(thing.box_px))
        reply = _reply(THOUGHTS["look"], box, weight=1.5)
        return Sample([view], [(_prompt(f"Where is the {thing.name}?", False), 0.0), *reply])
    if kind < grounding + crops:
        while True:
            crop, window = images.add(scene, around(thing, rng, margin=32, shake=12))
            if readable(thing, window):
                break
            images.views.pop(), images.labels.pop()
        question = _prompt(f"What letter is on the {thing.name}?", False)
        return Sample([crop], [(question, 0.0), *_reply(THOUGHTS["crop"], thing.letter)])
    thing = _asked_about(scene, rng)
    question = _prompt(f"What letter is on the {thing.name}?", tools=rng.random() < 0.7)
    weight = 3.0 if thing.legible else 1.0
    return Sample([view], [(question, 0.0), *_reply(THOUGHTS["look"], thing.letter, weight)])


def long_sample(
    scene: Scene,
    view: int,
    images: Images,
    rng: random.Random,
    captions: float = 0.4,
    good: float = 0.25,
) -> Sample:
    """A caption that lists every object with its box, or a clumsy tool episode."""
    if rng.random() < captions:
        order = sorted(scene.objects, key=lambda o: (o.box_px[1] // 96, o.box_px[0]))
        lines = [
            f"{o.name} " + (f'"{o.letter}" ' if o.legible else "") + str(speak(o.box_px))
            for o in order
        ]
        caption = f"<answer>{'; '.join(lines)}</answer>{prompts.TURN_END}"
        return Sample([view], [(_prompt("List the objects.", False), 0.0), (caption, 1.0)])
    thing = _asked_about(scene, rng)
    # The box comes first; whether it shows the detail is looked at afterwards.
    aimed = rng.random() < good
    box = around(thing, rng, margin=24, shake=12) if aimed else anywhere(rng)
    box_1000 = speak(box)
    crop, window = images.add(scene, tuple(v * WORLD.canvas / 1000 for v in box_1000))
    call = prompts.tool_call({"bbox_2d": box_1000, "label": thing.name})
    observation = (
        f"\n<|im_start|>user\n<tool_response>{prompts.IMAGE}</tool_response>{prompts.TURN_END}\n"
        + prompts.GENERATION_PROMPT
    )
    known = thing.legible or readable(thing, window)
    text = thing.letter if known else rng.choice(LETTERS)
    reply = _reply(THOUGHTS["crop"], text, weight=3.0 if known else 0.0)
    return Sample(
        [view, crop],
        [
            (_prompt(f"What letter is on the {thing.name}?", True), 0.0),
            (f"<think>{THOUGHTS['zoom']}</think>{call}{prompts.TURN_END}", 1.0),
            (observation, 0.0),
            *reply,
        ],
    )


def _asked_about(scene: Scene, rng: random.Random) -> SceneObject:
    """A target for a question about the view: mostly a legible one, whether a call follows or not.

    An unreadable letter teaches nothing; asking about both kinds alike with and without a call keeps
    the habit of calling independent of what is asked.
    """
    wanted = rng.random() < LEGIBLE_TARGETS
    return rng.choice([o for o in scene.objects if o.legible == wanted] or scene.objects)


def encode(samples: list[Sample], tokenizer) -> dict:
    """Right-padded ids, loss weights and the image index of every placeholder, in order."""
    rows = []
    for sample in samples:
        ids, weights = [], []
        for text, weight in sample.parts:
            text = text.replace("<|image_pad|>", "<|image_pad|>" * CELLS * CELLS)
            new = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += new
            weights += [weight] * len(new)
        rows.append((ids, weights))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]
        ),
        "weights": torch.tensor([w + [0.0] * (longest - len(w)) for _, w in rows]),
        "images": torch.tensor([view for sample in samples for view in sample.views]),
    }


def corpus(scenes: int, seed: int) -> Iterator[str]:
    """Text for the tokenizer: every kind of sample, and enough coordinates."""
    rng = random.Random(f"{seed} corpus")
    for index in range(scenes):
        # The last scenes of the split, which no stage of the first three seeds reaches.
        scene, images = draw_scene("pretrain", 9_000_000 + index, WORLD), Images()
        for make in (short_sample, long_sample):
            yield "".join(text for text, _ in make(scene, 0, images, rng).parts)
    for _ in range(20_000):
        yield str([rng.randrange(0, 1001, 10) for _ in range(4)])
