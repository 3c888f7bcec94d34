"""Scenes of low contrast, and questions of which some need one tool and some another.

Small letters need the zoom. A scene of low contrast, kind "faint", has all its tones squeezed into a few grey
levels, as in fog or an underexposed photo: its letters are large, but only `two_tools.ZoomAndContrast` brings
them back, and a crop has no more contrast than the scene. Plain scenes need no tool.
"""

import numpy as np
from datasets import Dataset
from PIL import Image

from deepeyes_lite.data import build, encode
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import World
from deepeyes_lite.tools import ZOOM

CONTRAST = "image_contrast_tool"
KINDS = ("plain", "small", "faint", "small and faint")
TRAINED = KINDS[:3]  # the last one needs both tools; it is only asked
HELPS = {"small": ZOOM, "faint": CONTRAST, "small and faint": f"{CONTRAST} + {ZOOM}"}
LEVELS = 14  # grey levels of 256 that a scene of low contrast has left


def lower_contrast(image: Image.Image) -> Image.Image:
    """The image with its tones squeezed into ``LEVELS`` grey levels around the middle, rounded for good.

    >>> lower_contrast(Image.linear_gradient("L").convert("RGB")).getextrema()[0]
    (122, 134)
    """
    tones = np.asarray(image.convert("RGB"), np.float32) / 255
    return Image.fromarray(np.round(128 + (LEVELS - 1) * (tones - 0.5)).astype(np.uint8))


def questions(split: str, n: int, kinds: tuple[str, ...] = TRAINED, start: int = 0) -> Dataset:
    """``n`` questions of each kind, taking turns; each has a scene of its own.

    Args:
        split: of `tiny_world`.
        n: questions of a kind.
        kinds: of ``KINDS``.
        start: index of the first scene.
    """

    def rows():
        for i in range(n * len(kinds)):
            kind = kinds[i % len(kinds)]
            world = World(legible_share=0.0 if "small" in kind else 1.0)
            row = tiny_world(split, 1, world, start + i)[0]
            image = lower_contrast(row["image"]) if "faint" in kind else row["image"]
            picture = {"bytes": encode(image, "BMP"), "path": None}
            yield {**row, "image": picture, "kind": kind, "legible": int(kind == "plain")}

    return build(rows())
