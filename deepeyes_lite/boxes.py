"""Boxes in their three frames, and the size of the view.

A box is ``(x1, y1, x2, y2)``. The name of a variable always says its frame:

- ``box_px``: pixels of the original image,
- ``box_view``: pixels of the view, the image as the model sees it (Qwen2.5-VL speaks this),
- ``box_1000``: 0-1000 of the image's width and height (Qwen3-VL speaks this).

The public DeepEyes code crops the raw image with numbers that the model gave for the resized one
(DeepEyes issue #141: 12 % off at 4032 x 4032). Here every change of frame is a function call.
"""

import math
from dataclasses import dataclass

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # (width, height), PIL's order


def view_size(size: Size, min_pixels: int, max_pixels: int, factor: int = 28) -> Size:
    """Size of the view: both sides multiples of ``factor``, area within the pixel budget.

    The rule is Qwen2-VL's ``smart_resize`` (transformers, ``image_processing_qwen2_vl.py``).

    Args:
        size: (width, height) of the image in pixels.
        min_pixels: least area of the view, in pixels.
        max_pixels: greatest area of the view, in pixels.
        factor: patch size times merge size, in pixels.

    Raises:
        ValueError: if a side is less than 1 px.

    >>> view_size((384, 384), 96 * 96, 96 * 96, factor=16)
    (96, 96)
    >>> view_size((4032, 3024), 56 * 56, 1280 * 28 * 28)
    (1148, 840)
    """
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least 1 x 1 px, got {width} x {height}")
    w, h = (round(side / factor) * factor for side in size)  # 0 for a strip: too small, see below
    if w * h > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        w, h = (max(factor, math.floor(side / scale / factor) * factor) for side in size)
    elif w * h < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        w, h = (math.ceil(side * scale / factor) * factor for side in size)
    return w, h


@dataclass(frozen=True)
class View:
    """How a model sees images: `view_size` with the pixel budget of its processor.

    Attributes:
        min_pixels, max_pixels, factor: see `view_size`.
    """

    min_pixels: int
    max_pixels: int
    factor: int = 28

    def __call__(self, size: Size) -> Size:
        """Size of the view of an image of this size."""
        return view_size(size, self.min_pixels, self.max_pixels, self.factor)

    def of_crop(self, crop: Size, image: Size) -> Size:
        """Size to which a crop is brought before the processor sees it; mostly its own.

        A crop beyond the budget is reduced to its view. Sides are rounded to whole tokens, by which a
        crop could lose what it gains; then it is enlarged, so that no crop is coarser than the view.

        Args:
            crop: (width, height) of the part of the image.
            image: (width, height) of the image.

        >>> View(56 * 56, 1280 * 28 * 28).of_crop((4000, 60), (4032, 3024))  # a line of text
        (4000, 60)
        >>> View(56 * 56, 1280 * 28 * 28).of_crop((2000, 2000), (4032, 3024))
        (980, 980)
        >>> View(56 * 56, 1280 * 28 * 28).of_crop((405, 405), (1000, 900))
        (420, 420)
        """
        own, side = self(crop), self.factor
        ratios = [seen / full for seen, full in zip(self(image), image)]
        # Tokens across and down; a grain of salt, for 3.0000000000000004 is 3.
        least = [math.ceil(px * ratio / side - 1e-9) for px, ratio in zip(crop, ratios)]
        if all(seen >= low * side for seen, low in zip(own, least)):
            return own if crop[0] * crop[1] > self.max_pixels and self(own) == own else crop
        scale = max(low * side / px for low, px in zip(least, crop))
        budget = self.max_pixels // side**2
        return tuple(
            side * max(low, min(round(px * scale / side), budget // other))
            for px, low, other in zip(crop, least, reversed(least))
        )


def rescale(box: Box, from_size: Size, to_size: Size) -> Box:
    """The same box in the frame of a resized image: ``box_px`` to ``box_view`` and back.

    >>> rescale((96, 0, 192, 384), (384, 384), (96, 96))
    (24.0, 0.0, 48.0, 96.0)
    """
    kx, ky = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return (box[0] * kx, box[1] * ky, box[2] * kx, box[3] * ky)


def px_to_1000(box_px: Box, size: Size) -> Box:
    """``box_px`` to ``box_1000``.

    >>> px_to_1000((96, 0, 192, 384), (384, 384))
    (250.0, 0.0, 500.0, 1000.0)
    """
    return rescale(box_px, size, (1000, 1000))


def px_from_1000(box_1000: Box, size: Size) -> Box:
    """``box_1000`` to ``box_px``.

    >>> px_from_1000((250, 0, 500, 1000), (384, 384))
    (96.0, 0.0, 192.0, 384.0)
    """
    return rescale(box_1000, (1000, 1000), size)


def clamp(box: Box, size: Size) -> Box:
    """The box with its corners in order and inside an image of ``size``.

    >>> clamp((300, 50, -10, 500), (384, 384))
    (0, 50, 300, 384)
    """
    (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    width, height = size
    return (
        min(max(x1, 0), width),
        min(max(y1, 0), height),
        min(max(x2, 0), width),
        min(max(y2, 0), height),
    )


def grow(box: Box, sides: tuple[float, float], size: Size) -> Box:
    """The box with at least these sides, around the same middle, shifted into the image.

    >>> grow((100, 100, 110, 140), (28, 28), (384, 384))
    (91.0, 100.0, 119.0, 140.0)
    """

    def span(low: float, high: float, side: float, limit: int) -> tuple[float, float]:
        length = min(max(side, high - low), limit)
        start = min(max((low + high) / 2 - length / 2, 0.0), limit - length)
        return start, start + length

    x1, x2 = span(box[0], box[2], sides[0], size[0])
    y1, y2 = span(box[1], box[3], sides[1], size[1])
    return (x1, y1, x2, y2)


def pad_to_square(box: Box, min_side: float, size: Size) -> Box:
    """The smallest square around the box with at least ``min_side``, shifted into the image.

    A side longer than the image is cut to it.

    >>> pad_to_square((100, 100, 110, 140), 28, (384, 384))
    (85.0, 100.0, 125.0, 140.0)
    >>> pad_to_square((0, 0, 10, 10), 28, (384, 384))
    (0.0, 0.0, 28.0, 28.0)
    """
    side = max(box[2] - box[0], box[3] - box[1], min_side)
    return grow(box, (side, side), size)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of one frame; 0 where either is empty.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    >>> iou((0, 0, 0, 0), (0, 0, 0, 0))
    0.0
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if overlap > 0 else 0.0
