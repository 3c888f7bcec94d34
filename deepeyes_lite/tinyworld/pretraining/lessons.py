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
from torch.nn.utils.rnn import pad_sequence

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box, clamp, px_to_1000
from deepeyes_lite.tinyworld import questions
from deepeyes_lite.tinyworld.model import MERGE, PATCH
from deepeyes_lite.tinyworld.questions import NEEDS, Question, letter_box
from deepeyes_lite.tinyworld.scenes import (
    BAR,
    COLORS,
    DIGITS,
    LETTERS,
    READABLE_PX,
    SHAPES,
    Scene,
    SceneObject,
    World,
    draw_scene,
)
from deepeyes_lite.tools import zoom

VIEW = World.view
CELLS = VIEW // PATCH // MERGE  # merged visual tokens a side
GLYPHS = LETTERS + DIGITS
FORMS = [*SHAPES, BAR]
VISIBLE_PX = 10  # least width, in pixels of a view, at which a shape is taken to be seen
LEGIBLE_TARGETS = 0.85  # share of legible targets when a question is asked about the view
THOUGHTS = {"look": "I can see it.", "zoom": prompts.ZOOM_THOUGHT, "crop": "I can read it."}
# The worlds of pretraining and their shares. No scene shows a pair that is kept for testing.
WORLDS = [
    (0.75, World(pairs="seen", distractors=(0, 2), twins=0.3, chart=0.3, objects=(3, 6))),
    (0.20, World(pairs="seen", distractors=(0, 2), twins=0.3, chart=0.3, canvas=768)),
    (0.05, World(pairs="seen", **NEEDS["nested"])),
]


def draw(index: int) -> Scene:
    """Scene ``index`` of the split "pretrain", of one of the ``WORLDS``."""
    shares, worlds = zip(*WORLDS)
    world = random.Random(f"world {index}").choices(worlds, shares)[0]
    return draw_scene("pretrain", index, world)


# --- images: a window of the scene, reduced or enlarged to a view -------------------------------


def to_view(image: Image.Image) -> np.ndarray:
    """The (side, side, 3) uint8 view of a scene or crop, as the image processor would make it."""
    return np.asarray(image.resize((VIEW, VIEW), Image.Resampling.BICUBIC))


def readable(thing: SceneObject, window_px: Box) -> bool:
    """Whether a view of the window shows the object's letter: inside, and large enough."""
    if not thing.letter:
        return False
    x, y = thing.letter_xy
    reach = 0.45 * thing.letter_px
    # A little more than the ink takes: so only what lies inside the object's box.
    letter = _within((x - reach, y - reach, x + reach, y + reach), thing.box_px)
    return _inside(letter, window_px) and _enlarged(thing.letter_px, window_px) >= READABLE_PX


def visible(thing: SceneObject, window_px: Box) -> bool:
    """Whether a view of the window shows the object's shape: inside, and large enough."""
    width = thing.box_px[2] - thing.box_px[0]
    return _inside(thing.box_px, window_px) and _enlarged(width, window_px) >= VISIBLE_PX


def _enlarged(length_px: float, window_px: Box) -> float:
    return length_px * VIEW / (window_px[2] - window_px[0])


def _within(box: Box, other: Box) -> Box:
    return (*map(max, box[:2], other[:2]), *map(min, box[2:], other[2:]))


def _inside(box: Box, other: Box) -> bool:
    return _within(box, other) == tuple(box)


def around(box_px: Box, rng: random.Random, margin: float, shake: float, canvas: int) -> Box:
    """A box around another: a random margin up to ``margin``, each side off by ``shake`` px."""
    m = rng.uniform(0, margin)
    x1, y1, x2, y2 = box_px
    a, b, c, d = (v + rng.uniform(-shake, shake) for v in (x1 - m, y1 - m, x2 + m, y2 + m))
    # Around a small thing the sides may have passed each other.
    return clamp((min(a, c), min(b, d), max(a, c), max(b, d)), (canvas, canvas))


def anywhere(rng: random.Random, window_px: Box) -> Box:
    """A box of any place and size within a window: the clumsy guess."""
    x0, y0, side = window_px[0], window_px[1], window_px[2] - window_px[0]
    w, h = rng.uniform(0.15, 0.45) * side, rng.uniform(0.15, 0.45) * side
    x, y = x0 + rng.uniform(0, side - w), y0 + rng.uniform(0, side - h)
    return (x, y, x + w, y + h)


def encode_box(box_px: Box, window_px: Box) -> list[int]:
    """``box_px`` as the model writes it on a view of the window: ``box_1000`` in steps of 10."""
    x0, y0, x1, y1 = window_px
    inside = _within(box_px, window_px)
    moved = tuple(v - o for v, o in zip(inside, (x0, y0, x0, y0)))
    box_1000 = [round(v / 10) * 10 for v in px_to_1000(moved, (x1 - x0, y1 - y0))]
    for low, high in ((0, 2), (1, 3)):
        if box_1000[low] >= box_1000[high]:  # too small for the steps: the least box there is
            box_1000[low] = min(box_1000[low], 990)
            box_1000[high] = box_1000[low] + 10
    return box_1000


def decode_box(box_1000: list[int], window_px: Box) -> Box:
    """The box, in pixels of the scene, that a call means: the inverse of `encode_box`, up to its steps."""
    x0, y0, x1, y1 = window_px
    scale = (x1 - x0) / 1000, (y1 - y0) / 1000
    return tuple(o + v * s for v, o, s in zip(box_1000, (x0, y0) * 2, scale * 2))


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
    for thing in (*scene.objects, *scene.distractors, *scene.bars):
        x1, y1, x2, y2 = ((v - o) * CELLS / side for v, o in zip(thing.box_px, (x0, y0, x0, y0)))
        letter = GLYPHS.index(thing.letter) if readable(thing, window_px) else -100
        letter_x, letter_y = ((v - o) * CELLS / side for v, o in zip(thing.letter_xy, (x0, y0)))
        shown = _enlarged(thing.box_px[2] - thing.box_px[0], window_px) >= VISIBLE_PX
        least = min(
            0.15, 0.3 * (x2 - x1) * (y2 - y1)
        )  # a distractor fills a small part of its token
        for row in range(max(0, math.floor(y1)), min(CELLS, math.ceil(y2))):
            for col in range(max(0, math.floor(x1)), min(CELLS, math.ceil(x2))):
                overlap = (min(x2, col + 1) - max(x1, col)) * (min(y2, row + 1) - max(y1, row))
                cell = row * CELLS + col
                if overlap <= max(least, best[cell]):
                    continue
                best[cell] = overlap
                labels.color[cell] = list(COLORS).index(thing.color) + 1
                labels.shape[cell] = FORMS.index(thing.shape) + 1 if shown else -100
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


class Images:
    """The images of one step, each with its window of the scene and its dense labels."""

    def __init__(self) -> None:
        self.views: list[np.ndarray] = []
        self.windows_px: list[Box] = []
        self.labels: list[DenseLabels] = []

    def add(self, scene: Scene, box_px: Box | None = None) -> int:
        """Add the whole scene, or the tool's crop of a box; returns its index."""
        side = float(scene.image.width)
        image, window = scene.image, (0.0, 0.0, side, side)
        if box_px:
            image, window = zoom(image, box_px)
        self.views.append(to_view(image))
        self.windows_px.append(window)
        self.labels.append(dense_labels(scene, window))
        return len(self.views) - 1


def _prompt(question: str, tools: bool) -> str:
    system = f"<|im_start|>system\nTools: {prompts.ZOOM}.{prompts.TURN_END}\n" if tools else ""
    user = f"<|im_start|>user\n{prompts.IMAGE}{question}{prompts.TURN_END}\n"
    return system + user + prompts.GENERATION_PROMPT


def _reply(thought: str, text: str, weight: float = 3.0) -> list[tuple[str, float]]:
    """A reply whose answer weighs more than its frame, in which there is nothing to learn for long."""
    before, after = prompts.answer(thought, "\0").split("\0")
    return [(before, 1.0), (text, weight), (after + prompts.TURN_END, 1.0)]


def shown(question: Question, windows_px: list[Box]) -> bool:
    """Whether views of these windows show what the answer hangs on."""
    test = visible if question.kind == "exists" else readable
    return all(any(test(thing, window) for window in windows_px) for thing in question.targets)


def short_sample(
    scene: Scene, view: int, images: Images, rng: random.Random, grounding: float, crops: float
) -> Sample:
    """Single-turn grounding, reading a crop, or answering from the view."""
    lesson = rng.random()
    if lesson < grounding:
        return _grounding(scene, view, images, rng)
    if lesson < grounding + crops:
        return _crop_reading(scene, images, rng)
    question = ask(scene, rng, VIEW_KINDS)
    legible = shown(question, [images.windows_px[view]])
    tools = rng.random() < 0.7
    reply = _reply(THOUGHTS["look"], question.answer, 3.0 if legible else 1.0)
    return Sample([view], [(_prompt(question.text, tools), 0.0), *reply])


def _grounding(scene: Scene, view: int, images: Images, rng: random.Random) -> Sample:
    thing = rng.choice([*scene.objects, *scene.distractors, *scene.bars])
    target, name = thing.box_px, thing.name
    if any(thing.shift_px) and rng.random() < 0.5:  # in a crop of the object, its letter
        view = images.add(scene, around(thing.box_px, rng, 40, 12, scene.image.width))
        target, name = letter_box(thing), f"letter on the {thing.name}"
    box = str(encode_box(target, images.windows_px[view]))
    reply = _reply(THOUGHTS["look"], box, weight=1.5)
    return Sample([view], [(_prompt(f"Where is the {name}?", False), 0.0), *reply])


def _crop_reading(scene: Scene, images: Images, rng: random.Random) -> Sample:
    question = ask(scene, rng, CROP_KINDS)
    (box,) = question.boxes_px
    canvas, margin = scene.image.width, 32.0
    while True:
        window = zoom(scene.image, around(box, rng, margin, min(12, margin), canvas))[1]
        if shown(question, [window]) or margin < 1:
            break
        margin *= 0.8  # closer, until it can be read
    crop = images.add(scene, window)
    prompt = _prompt(question.text, False)
    return Sample([crop], [(prompt, 0.0), *_reply(THOUGHTS["crop"], question.answer)])


def long_sample(
    scene: Scene,
    view: int,
    images: Images,
    rng: random.Random,
    captions: float,
    aimed_fraction: float,
    crop_bias: float = 0.0,
) -> Sample:
    """A caption that lists every object with its box, or a clumsy tool episode.

    The shares are those of `pretrain.Stage`.
    """
    if rng.random() < captions:
        whole = images.windows_px[view]
        order = sorted(scene.objects, key=lambda o: (o.box_px[1] * 4 // whole[3], o.box_px[0]))
        lines = [
            f"{o.name} "
            + (f'"{o.letter}" ' if o.legible else "")
            + str(encode_box(o.box_px, whole))
            for o in order
        ]
        caption = f"<answer>{'; '.join(lines)}</answer>{prompts.TURN_END}"
        return Sample([view], [(_prompt("List the objects.", False), 0.0), (caption, 1.0)])
    question = ask(scene, rng, CALL_KINDS)
    views, parts = [view], [(_prompt(question.text, True), 0.0)]
    for place, label, nested in _places(question):
        # The box comes first; whether it shows the detail is looked at afterwards.
        window = images.windows_px[views[-1] if nested else view]
        well = place is not None and rng.random() < aimed_fraction and _inside(place, window)
        box = around(place, rng, 24, 12, scene.image.width) if well else anywhere(rng, window)
        box_1000 = encode_box(box, window)
        arguments = {"bbox_2d": box_1000, "label": label, **({"image": 1} if nested else {})}
        call = f"<think>{THOUGHTS['zoom']}</think>{prompts.tool_call(arguments)}{prompts.TURN_END}"
        views.append(images.add(scene, decode_box(box_1000, window)))
        parts += [(call, 1.0), (OBSERVATION, 0.0)]
    windows = [images.windows_px[index] for index in views]
    known = shown(question, windows)
    misled = known and not shown(question, windows[1:]) and rng.random() < crop_bias
    text = question.answer if known and not misled else rng.choice(ANSWERS[question.kind])
    return Sample(views, [*parts, *_reply(THOUGHTS["crop"], text, weight=3.0 if known else 0.0)])


OBSERVATION = (
    f"\n<|im_start|>user\n<tool_response>{prompts.IMAGE}</tool_response>{prompts.TURN_END}\n"
    + prompts.GENERATION_PROMPT
)
ANSWERS = {"read": LETTERS, "nested": LETTERS, "chart": DIGITS, "count": "3456"}
ANSWERS |= dict.fromkeys(("compare", "exists", "relation"), ("yes", "no"))
# What is asked, and how often: about the view, about a crop, before a call.
VIEW_KINDS = {"read": 6, "compare": 2, "exists": 3, "relation": 3, "count": 2, "chart": 1}
CROP_KINDS = {"read": 6, "exists": 2, "chart": 2}
CALL_KINDS = {"read": 8, "compare": 2, "exists": 3, "chart": 2, "relation": 1, "count": 1}


def ask(scene: Scene, rng: random.Random, kinds: dict[str, int]) -> Question:
    """A question of one of the kinds that the scene has something for, mostly a legible one.

    What cannot be read teaches nothing; asking about both alike with and without a call keeps the habit
    of calling independent of what is asked.
    """
    if scene.image.width == NEEDS["nested"]["canvas"]:
        kinds = {"nested": 1}
    having = [kind for kind in kinds if kind != "chart" or scene.bars]
    kind = rng.choices(having, [kinds[kind] for kind in having])[0]
    wanted = rng.random() < LEGIBLE_TARGETS
    for _ in range(6):
        question = questions.KINDS[kind](scene, rng)
        if question.legible == wanted:
            break
    return question


def _places(question: Question) -> list[tuple[Box | None, str, bool]]:
    """For each call of an episode: where a good box would be, its label, whether it is on a crop."""
    if question.kind == "nested":
        (thing,) = question.targets
        return [(thing.box_px, thing.name, False), (question.boxes_px[0], "letter", True)]
    if question.kind == "exists":  # the thing's name would be the answer
        return [(thing.box_px, f"{thing.color} shape", False) for thing in question.targets]
    return [(t.box_px, t.name, False) for t in question.targets] or [(None, "scene", False)]


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

    def padded(rows: list[list], fill: float) -> torch.Tensor:  # (B, T)
        return pad_sequence([torch.tensor(row) for row in rows], True, fill)

    return {
        "input_ids": padded([ids for ids, _ in rows], tokenizer.pad_token_id),
        "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
        "weights": padded([weights for _, weights in rows], 0.0),
        "images": torch.tensor([view for sample in samples for view in sample.views]),
    }


def corpus(scenes: int, seed: int) -> Iterator[str]:
    """Text for the tokenizer: every kind of sample, and enough coordinates."""
    rng = random.Random(f"{seed} corpus")
    for index in range(scenes):
        # The last scenes of the split, which no stage of the first three seeds reaches.
        scene, images = draw(9_000_000 + index), Images()
        view = images.add(scene)
        for sample in (
            short_sample(scene, view, images, rng, grounding=0.3, crops=0.2),
            long_sample(scene, view, images, rng, captions=0.4, aimed_fraction=0.5),
        ):
            yield "".join(text for text, _ in sample.parts)
    for _ in range(20_000):
        yield str([rng.randrange(0, 1001, 10) for _ in range(4)])
