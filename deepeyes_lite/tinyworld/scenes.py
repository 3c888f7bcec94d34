"""High-resolution scenes drawn from a seed: coloured shapes that carry letters.

The counterpart of V* Bench's photographs: the scene (384 x 384 px) is four times as wide as the view
that the model gets (96 x 96 px). A small letter is gone in the view and plain in a crop; a large one
can be read in both. ``legible`` says which it is, and ``World.legible_share`` sets the share: that is
what decides whether a policy needs the tool (the collapse inequality, `rewards.py`).
"""

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepeyes_lite.boxes import Box

COLORS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 200),
    "yellow": (230, 200, 30),
    "purple": (148, 60, 189),
    "orange": (255, 127, 14),
    "cyan": (23, 190, 207),
    "pink": (240, 120, 190),
}
LETTERS = "ABCDEFHKLMNP"  # 12 letters, so that a blind guess is right in 1 of 12
DIGITS = "123456789"  # on the bars of a chart
READABLE_PX = 8  # least font size, in pixels of a view, at which a letter is taken to be readable
# First scene index of each split. Indices of two splits never meet, so neither do their scenes.
SPLIT_STARTS = {"pretrain": 0, "train": 10_000_000, "validation": 20_000_000, "test": 30_000_000}
SPLIT_LENGTH = 10_000_000


@dataclass(frozen=True)
class World:
    """The dials of the tiny world. All lengths in pixels of the scene.

    Attributes:
        legible_share: probability that a letter is drawn large enough for the view.
        canvas: side of the scene.
        view: side of the model's view, in pixels of the view.
        objects: least and greatest number of objects in a scene.
        radius: half the side of an object, least and greatest.
        legible_px: font size of a letter that the view shows (on a canvas of 384 px).
        illegible_px: font size of a letter that only a crop shows.
        pairs: which pairs of colour and shape there are: "all", "seen" or "unseen" (`unseen`).
        twins: probability that two of the objects carry the same letter.
        distractors: least and greatest number of small shapes without a letter.
        distractor_radius: half the side of a distractor, least and greatest.
        chart: probability that a bar chart is in the scene.
        shift: how far off an object's middle its letter may be, as a share of the radius.
    """

    legible_share: float = 0.5
    canvas: int = 384
    view: int = 96
    objects: tuple[int, int] = (3, 6)
    radius: tuple[int, int] = (27, 33)
    legible_px: tuple[int, int] = (42, 50)
    illegible_px: tuple[int, int] = (11, 14)
    pairs: str = "all"
    twins: float = 0.0
    distractors: tuple[int, int] = (0, 0)
    distractor_radius: tuple[int, int] = (7, 9)
    chart: float = 0.0
    shift: float = 0.0


@dataclass(frozen=True)
class SceneObject:
    """One shape with its letter; ``box_px`` bounds the shape in pixels of the scene.

    A distractor has no letter; a bar of a chart has a digit, which stands above it inside ``box_px``.
    """

    color: str
    shape: str
    letter: str
    letter_px: int
    legible: bool
    box_px: Box
    shift_px: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def letter_xy(self) -> tuple[float, float]:
        """Where the letter's middle is; a triangle has its room below the centre, a bar on top."""
        x1, y1, x2, y2 = self.box_px
        if self.shape == BAR:
            return (x1 + x2) / 2, y1 + LABEL_PX / 2
        down = (y2 - y1) // 6 if self.shape == "triangle" else 0
        return (x1 + x2) / 2 + self.shift_px[0], (y1 + y2) / 2 + down + self.shift_px[1]


@dataclass(frozen=True)
class Scene:
    """A drawn scene. ``image`` is RGB, ``World.canvas`` pixels a side; ``bars`` are those of a chart."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    distractors: tuple[SceneObject, ...] = ()
    bars: tuple[SceneObject, ...] = ()


def _circle(box: Box) -> list:
    return [box]


def _square(box: Box) -> list:
    x1, y1, x2, y2 = box
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def _triangle(box: Box) -> list:
    x1, y1, x2, y2 = box
    return [((x1 + x2) / 2, y1), (x1, y2), (x2, y2)]


def _diamond(box: Box) -> list:
    x1, y1, x2, y2 = box
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    return [(cx, y1), (x1, cy), (cx, y2), (x2, cy)]


# A shape is its outline in a box; a new shape is a new line here.
SHAPES = {"circle": _circle, "square": _square, "triangle": _triangle, "diamond": _diamond}
BAR = "bar"
LABEL_PX = 18  # room for the digit above a bar
CHART_PX = (112, 100)  # width and height of a chart's panel
PANEL, AXIS, LABEL_INK = (250, 250, 250), (90, 90, 90), (0, 0, 0)


def unseen(color: str, shape: str) -> bool:
    """Whether the pair is one of the eight that are kept out of a world of "seen" pairs.

    Every colour and every shape is still seen, only not together.

    >>> unseen("red", "circle"), unseen("red", "square")
    (True, False)
    """
    return list(COLORS).index(color) % len(SHAPES) == list(SHAPES).index(shape)


@lru_cache(maxsize=128)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships DejaVu, so every machine draws the same letters; finding its folder without
    # importing it keeps this module fast to import.
    folder = Path(find_spec("matplotlib").origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), size)


def _background(canvas: int, rng: np.random.Generator) -> Image.Image:
    """A pale tone with coarse blotches and fine grain."""
    tone = rng.integers(150, 235, size=3).astype(np.float32)
    cell = 16
    cells = -(-canvas // cell)
    blotches = tone + 8 * rng.standard_normal((cells, cells, 3), dtype=np.float32)
    texture = blotches.repeat(cell, axis=0).repeat(cell, axis=1)[:canvas, :canvas]
    texture += 6 * rng.standard_normal((canvas, canvas, 1), dtype=np.float32)
    return Image.fromarray(np.clip(texture, 0, 255, out=texture).astype(np.uint8))


def draw_object(draw: ImageDraw.ImageDraw, thing: SceneObject) -> None:
    fill = COLORS[thing.color]
    outline = SHAPES[thing.shape](thing.box_px)
    if thing.shape == "circle":
        draw.ellipse(outline[0], fill=fill)
    else:
        draw.polygon(outline, fill=fill)
    if not thing.letter:
        return
    ink = (255, 255, 255) if sum(fill) < 420 else (0, 0, 0)
    draw.text(thing.letter_xy, thing.letter, font=_font(thing.letter_px), anchor="mm", fill=ink)


def draw_scene(split: str, index: int, world: World = World()) -> Scene:
    """Draw scene ``index`` of a split; the same arguments give the same pixels.

    Colours are unique within a scene, so that "the red circle" names one object.

    Args:
        split: a key of ``SPLIT_STARTS``.
        index: 0 <= index < ``SPLIT_LENGTH``.
        world: the dials.

    Raises:
        ValueError: for an unknown split, an index outside it, or unknown ``pairs``.

    >>> scene = draw_scene("test", 0)
    >>> scene.image.size, 3 <= len(scene.objects) <= 6
    ((384, 384), True)
    """
    if split not in SPLIT_STARTS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLIT_STARTS)}")
    if not 0 <= index < SPLIT_LENGTH:
        raise ValueError(f"scene index {index} is outside 0..{SPLIT_LENGTH - 1}")
    if world.pairs not in ("all", "seen", "unseen"):
        raise ValueError(f"pairs must be all, seen or unseen, got {world.pairs!r}")
    seed = SPLIT_STARTS[split] + index
    rng = random.Random(f"scene {seed}")
    # What a plain world does not have is drawn from a generator of its own, so that its scenes stay.
    extras = random.Random(f"extras {seed}")
    image = _background(world.canvas, np.random.default_rng(seed))
    panel = _chart_place(world, extras) if extras.random() < world.chart else None
    objects = _objects(world, panel, rng, extras)
    distractors = _distractors(world, panel, objects, extras)
    bars = _bars(panel, extras) if panel else []
    draw = ImageDraw.Draw(image)
    for thing in (*objects, *distractors):
        draw_object(draw, thing)
    if panel:
        _draw_chart(draw, panel, bars)
    return Scene(image, tuple(objects), tuple(distractors), tuple(bars))


def _objects(
    world: World, panel: Box | None, rng: random.Random, extras: random.Random
) -> list[SceneObject]:
    objects: list[SceneObject] = []
    taken = [panel] if panel else []
    for color in rng.sample(list(COLORS), rng.randint(*world.objects)):
        r = rng.randint(*world.radius)
        box = _free_place(r, taken, world.canvas, rng)
        if box is None:  # crowded: one object fewer
            continue
        large = rng.random() < world.legible_share
        shape = rng.choice([shape for shape in SHAPES if _allowed(color, shape, world.pairs)])
        letter = rng.choice(LETTERS)
        letter_px = rng.randint(*(world.legible_px if large else world.illegible_px))
        shift = round(world.shift * r)
        thing = SceneObject(
            color=color,
            shape=shape,
            letter=letter,
            letter_px=letter_px,
            legible=letter_px * world.view / world.canvas >= READABLE_PX,
            box_px=box,
            shift_px=(extras.randint(-shift, shift), extras.randint(-shift, shift)),
        )
        objects.append(thing)
        taken.append(box)
    if len(objects) > 1 and extras.random() < world.twins:
        one, other = extras.sample(range(len(objects)), 2)
        objects[one] = replace(objects[one], letter=objects[other].letter)
    return objects


def _allowed(color: str, shape: str, pairs: str) -> bool:
    return pairs == "all" or unseen(color, shape) == (pairs == "unseen")


def _distractors(
    world: World, panel: Box | None, objects: list[SceneObject], rng: random.Random
) -> list[SceneObject]:
    """Small shapes of colours that no object has."""
    free = [color for color in COLORS if color not in {thing.color for thing in objects}]
    taken = [thing.box_px for thing in objects] + ([panel] if panel else [])
    distractors = []
    for color in rng.sample(free, min(len(free), rng.randint(*world.distractors))):
        box = _free_place(rng.randint(*world.distractor_radius), taken, world.canvas, rng)
        shape = rng.choice([shape for shape in SHAPES if _allowed(color, shape, world.pairs)])
        if box is not None:
            distractors.append(SceneObject(color, shape, "", 0, False, box))
            taken.append(box)
    return distractors


def _chart_place(world: World, rng: random.Random) -> Box:
    (width, height), edge = CHART_PX, 6
    x = rng.randint(edge, world.canvas - width - edge)
    y = rng.randint(edge, world.canvas - height - edge)
    return (x, y, x + width, y + height)


def _bars(panel: Box, rng: random.Random) -> list[SceneObject]:
    """Three bars on the panel's floor, as high as their values: the tallest fills it."""
    width, gap = 26, 8
    values = [rng.choice(DIGITS) for _ in range(3)]
    room = panel[3] - panel[1] - LABEL_PX - 2 * gap
    bars = []
    for i, (color, digit) in enumerate(zip(rng.sample(list(COLORS), 3), values)):
        x = panel[0] + gap + i * (width + gap)
        top = panel[3] - gap - round(room * int(digit) / max(map(int, values)))
        box = (x, top - LABEL_PX, x + width, panel[3] - gap)
        bars.append(SceneObject(color, BAR, digit, rng.randint(12, 14), False, box))
    return bars


def _draw_chart(draw: ImageDraw.ImageDraw, panel: Box, bars: list[SceneObject]) -> None:
    draw.rectangle(panel, fill=PANEL)
    for bar in bars:
        x1, y1, x2, y2 = bar.box_px
        draw.rectangle((x1, y1 + LABEL_PX, x2, y2), fill=COLORS[bar.color])
        draw.text(bar.letter_xy, bar.letter, font=_font(bar.letter_px), anchor="mm", fill=LABEL_INK)
    floor = bars[0].box_px[3]
    draw.line((panel[0] + 4, floor, panel[2] - 4, floor), fill=AXIS, width=2)


def _free_place(r: int, taken: list[Box], canvas: int, rng: random.Random) -> Box | None:
    gap = 6
    for _ in range(40):
        x, y = (rng.randint(r + 4, canvas - r - 4) for _ in range(2))
        box = (x - r, y - r, x + r, y + r)
        if all(
            box[0] > other[2] + gap
            or box[2] < other[0] - gap
            or box[1] > other[3] + gap
            or box[3] < other[1] - gap
            for other in taken
        ):
            return box
    return None
