"""The image tools as checked functions.

Whatever a model writes into a call ends here: either in a crop of bounded size or in a `ToolError`
whose message goes back to the model as text, so that the episode goes on. Nothing else is raised.

The zoom follows DeepEyes' ``image_zoom_in_tool`` (public code, ``visual_toolbox_v2.py``) with three
deviations: the crop is cut from the original image in an explicit frame, the schema (made by TRL from
`ZoomTool`) requires ``bbox_2d`` (theirs requires ``bbox``, which does not exist), and a tiny box grows
instead of failing.
"""

import math
from numbers import Real

from PIL import Image

from deepeyes_lite.boxes import Box, clamp, pad_to_square, px_from_1000

ZOOM = "image_zoom_in_tool"
MIN_CROP_SIDE = 28  # px of the original image; DeepEyes' own lower bound (one Qwen2.5-VL token)
MAX_CALLS = 6  # an episode; the paper's bound
MAX_CROP_SIDE = 1024  # px; a larger crop is reduced, so that a hostile box cannot fill the context


class ToolError(ValueError):
    """A call that cannot be answered with a crop; the message is written for the model."""


def check_box(bbox_2d: object) -> Box:
    """Four finite numbers, or a `ToolError` that says what came instead.

    >>> check_box([1, 2, 3, 4])
    (1.0, 2.0, 3.0, 4.0)
    >>> check_box([1, 2, 3])
    Traceback (most recent call last):
    deepeyes_lite.tools.ToolError: bbox_2d must be four numbers [x1, y1, x2, y2], got 3 values
    """
    if not isinstance(bbox_2d, list | tuple):
        kind = type(bbox_2d).__name__
        raise ToolError(f"bbox_2d must be a list of four numbers [x1, y1, x2, y2], got {kind}")
    if len(bbox_2d) != 4:
        raise ToolError(f"bbox_2d must be four numbers [x1, y1, x2, y2], got {len(bbox_2d)} values")
    for value in bbox_2d:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ToolError(f"bbox_2d must hold numbers only, got a {type(value).__name__}")
        # An int of a thousand digits is a number, too: compare before converting to float.
        if not -1e6 <= value <= 1e6 or not math.isfinite(value):
            raise ToolError("bbox_2d must hold finite numbers between 0 and 1000")
    return tuple(float(value) for value in bbox_2d)


def zoom(image: Image.Image, box_px: Box) -> tuple[Image.Image, Box]:
    """Crop a square around ``box_px`` out of the original image.

    Reversed corners are put in order and a box that reaches over the edge is cut to the image. The
    crop is a square with the box in it, at least ``MIN_CROP_SIDE`` wide (less only where the image
    is), and reduced to ``MAX_CROP_SIDE`` where it is larger.

    Args:
        image: the original image, not the view.
        box_px: (x1, y1, x2, y2) in pixels of ``image``.

    Returns:
        The crop and its own ``box_px``.

    Raises:
        ToolError: if nothing of the box lies inside the image.

    >>> crop, box_px = zoom(Image.new("RGB", (384, 384)), (100, 100, 160, 140))
    >>> crop.size, box_px
    ((60, 60), (100.0, 90.0, 160.0, 150.0))
    """
    inside = clamp(box_px, image.size)
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise ToolError("bbox_2d is empty or outside the image; give x1 < x2 and y1 < y2")
    x1, y1, x2, y2 = pad_to_square(inside, min(MIN_CROP_SIDE, *image.size), image.size)
    # Whole pixels, and still a square: the sides first, then a place for them.
    width, height = (math.ceil(round(side, 6)) for side in (x2 - x1, y2 - y1))
    x1, y1 = min(round(x1), image.width - width), min(round(y1), image.height - height)
    x2, y2 = x1 + width, y1 + height
    crop = image.crop((x1, y1, x2, y2))
    scale = MAX_CROP_SIDE / max(crop.size)
    if scale < 1:
        # Rounded up: a strip that gets narrower than 1:200 is refused by Qwen-VL's image processor.
        reduced = [min(MAX_CROP_SIDE, math.ceil(side * scale)) for side in crop.size]
        crop = crop.resize(reduced, Image.Resampling.BICUBIC)
    return crop, (float(x1), float(y1), float(x2), float(y2))


class ZoomTool:
    """The tool bound to one image: what `rollout.py` and the TRL environment both call.

    TRL takes every public method for a tool and its docstring for the schema, so there is one.

    Attributes:
        boxes_px: for each answered call, the box asked for, inside the image (``box_px``). IoU is
            measured on it; the crop is a square around it.
        refused: how many calls came back as an error.
    """

    def __init__(self, image: Image.Image | None = None, max_calls: int = MAX_CALLS):
        self.max_calls = max_calls
        self._open(image)

    def _open(self, image: Image.Image | None) -> None:
        self.image = image
        self.boxes_px: list[Box] = []
        self.refused = 0
        # What each image of the conversation shows of the original: all of it, then the crops.
        self._windows_px = [(0.0, 0.0, *map(float, image.size))] if image else []

    def _alter(self, crop: Image.Image) -> Image.Image:
        """Hook for controls such as the blank crop; the tool itself alters nothing."""
        return crop

    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", image: int = 0) -> list:
        """Zoom in on a region of an image: returns the crop, enlarged.

        Args:
            bbox_2d: [x1, y1, x2, y2], 0-1000 of that image's width and height.
            label: What is in the region.
            image: Which image: 0 is the original, 1 the first crop, and so on.

        Returns:
            The crop.
        """
        try:
            if len(self.boxes_px) + self.refused >= self.max_calls:
                raise ToolError(f"no calls left, the limit is {self.max_calls}; answer now")
            box_px = self._in_original(check_box(bbox_2d), image)
            crop, window_px = zoom(self.image, box_px)
        except ToolError as error:
            self.refused += 1
            return [{"type": "text", "text": f"Error: {error}"}]
        self.boxes_px.append(clamp(box_px, self.image.size))
        self._windows_px.append(window_px)
        return [{"type": "image", "image": self._alter(crop)}]

    def _in_original(self, box_1000: Box, image: object) -> Box:
        """The box on one of the images, in pixels of the original; a crop has more to it than it shows."""
        last = len(self._windows_px) - 1
        if isinstance(image, bool) or not isinstance(image, int) or not 0 <= image <= last:
            raise ToolError(f"image must be a whole number from 0 to {last}")
        x1, y1, x2, y2 = self._windows_px[image]
        box_px = px_from_1000(box_1000, (x2 - x1, y2 - y1))
        return tuple(value + origin for value, origin in zip(box_px, (x1, y1, x1, y1)))


class BlankTool(ZoomTool):
    """Control: answers every call with a grey crop. What is left of the gain is not the crop's."""

    def _alter(self, crop: Image.Image) -> Image.Image:
        return Image.new("RGB", crop.size, (128, 128, 128))


def answer_call(tool: ZoomTool, function: dict) -> list[dict] | str:
    """Answer a parsed call, ``{"name": …, "arguments": …}``; nothing is raised.

    Does what TRL does around a tool (``GRPOTrainer._tool_call_loop``): an unknown name and arguments
    that do not fit the signature come back as ``{'error': …}``.

    Returns:
        Content blocks of the observation, or its text.

    >>> answer_call(ZoomTool(Image.new("RGB", (64, 64))), {"name": "rotate", "arguments": {}})
    "{'error': 'Tool rotate not found.'}"
    """
    try:
        if function["name"] != ZOOM:
            raise ValueError(f"Tool {function['name']} not found.")
        return tool.image_zoom_in_tool(**function["arguments"])
    except Exception as error:  # the arguments are model output: anything may be wrong with them
        return str({"error": str(error)})


def images_and_texts(contents: list[list[dict] | str]) -> tuple[list[Image.Image], list[str]]:
    """The crops and the error texts among the observations of one turn."""
    parts = [
        p for c in contents for p in ([{"type": "text", "text": c}] if isinstance(c, str) else c)
    ]
    images = [part["image"] for part in parts if part["type"] == "image"]
    return images, [part["text"] for part in parts if part["type"] == "text"]
