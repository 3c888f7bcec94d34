"""High-resolution scenes drawn from a seed: coloured shapes that carry letters.

The counterpart of V* Bench's photographs: the scene (384 x 384 px) is four times as wide as the view
that the model gets (96 x 96 px). A small letter is gone in the view and plain in a crop; a large one
can be read in both. ``legible`` says which it is, and ``World.legible_share`` sets the share: that is
what decides whether a policy needs the tool (the collapse inequality, `rewards.py`).
"""

import random
from dataclasses import dataclass
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
        legible_px: font size of a letter that the view shows.
        illegible_px: font size of a letter that only a crop shows.
    """

    legible_share: float = 0.5
    canvas: int = 384
    view: int = 96
    objects: tuple[int, int] = (3, 6)
    radius: tuple[int, int] = (27, 33)
    legible_px: tuple[int, int] = (42, 50)
    illegible_px: tuple[int, int] = (11, 14)


@dataclass(frozen=True)
class SceneObject:
    """One shape with its letter; ``box_px`` bounds the shape in pixels of the scene."""

    color: str
    shape: str
    letter: str
    letter_px: int
    legible: bool
    box_px: Box

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def letter_xy(self) -> tuple[float, float]:
        """Where the letter's middle is; a triangle has its room below the centre."""
        x1, y1, x2, y2 = self.box_px
        return (x1 + x2) / 2, (y1 + y2) / 2 + ((y2 - y1) // 6 if self.shape == "triangle" else 0)


@dataclass(frozen=True)
class Scene:
    """A drawn scene. ``image`` is RGB, ``World.canvas`` pixels a side."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


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


def _draw_object(draw: ImageDraw.ImageDraw, thing: SceneObject) -> None:
    fill = COLORS[thing.color]
    outline = SHAPES[thing.shape](thing.box_px)
    if thing.shape == "circle":
        draw.ellipse(outline[0], fill=fill)
    else:
        draw.polygon(outline, fill=fill)
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
        ValueError: for an unknown split or an index outside it.

    >>> scene = draw_scene("test", 0)
    >>> scene.image.size, 3 <= len(scene.objects) <= 6
    ((384, 384), True)
    """
    if split not in SPLIT_STARTS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLIT_STARTS)}")
    if not 0 <= index < SPLIT_LENGTH:
        raise ValueError(f"scene index {index} is outside 0..{SPLIT_LENGTH - 1}")
    seed = SPLIT_STARTS[split] + index
    rng = random.Random(f"scene {seed}")
    image = _background(world.canvas, np.random.default_rng(seed))
    draw = ImageDraw.Draw(image)
    objects: list[SceneObject] = []
    for color in rng.sample(list(COLORS), rng.randint(*world.objects)):
        r = rng.randint(*world.radius)
        box = _free_place(r, objects, world.canvas, rng)
        if box is None:  # crowded: one object fewer
            continue
        legible = rng.random() < world.legible_share
        thing = SceneObject(
            color=color,
            shape=rng.choice(list(SHAPES)),
            letter=rng.choice(LETTERS),
            letter_px=rng.randint(*(world.legible_px if legible else world.illegible_px)),
            legible=legible,
            box_px=box,
        )
        _draw_object(draw, thing)
        objects.append(thing)
    return Scene(image, tuple(objects))


def _free_place(r: int, objects: list, canvas: int, rng: random.Random) -> Box | None:
    gap = 6
    for _ in range(40):
        x, y = (rng.randint(r + 4, canvas - r - 4) for _ in range(2))
        box = (x - r, y - r, x + r, y + r)
        if all(
            box[0] > o.box_px[2] + gap
            or box[2] < o.box_px[0] - gap
            or box[1] > o.box_px[3] + gap
            or box[3] < o.box_px[1] - gap
            for o in objects
        ):
            return box
    return None
