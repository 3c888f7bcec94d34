"""The image tools as checked functions.

Whatever a model writes into a call ends here: either in an image of bounded size or in a `ToolError`
whose message goes back to the model as text, so that the episode goes on. Nothing else is raised.

The zoom follows DeepEyes' ``image_zoom_in_tool`` (public code, ``visual_toolbox_v2.py``).
``docs/deviations.md`` lists where it deviates, and why; the list is tested against that toolbox.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from PIL import Image

from deepeyes_lite.boxes import Box, Size, View, clamp, grow, pad_to_square, rescale

ZOOM = "image_zoom_in_tool"
MIN_CROP_SIDE = 28  # px of the original image; one token of Qwen2.5-VL
MAX_CROP_ASPECT = 100  # DeepEyes' own bound; Qwen-VL's image processor refuses a strip beyond 200
MAX_CALLS = 6  # an episode; the paper's bound
MAX_ERROR_CHARS = 200


class ToolError(ValueError):
    """A call that cannot be answered with a crop; the message is written for the model."""


def check_box(bbox_2d: object, frame: str = "") -> Box:
    """Four finite numbers, or a `ToolError` that says what came instead.

    Args:
        bbox_2d: what a model wrote, or a file held.
        frame: in words, which numbers there may be.

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
            raise ToolError(f"bbox_2d must hold finite numbers {frame}".strip())
    return tuple(float(value) for value in bbox_2d)


def part_inside(box_px: Box, size: Size, frame: str = "") -> Box:
    """The part of a box inside an image of a size, corners in order, or a `ToolError` if there is none."""
    inside = clamp(box_px, size)
    if min(_size(inside)) <= 0:
        error = f"bbox_2d is empty or outside the image; give x1 < x2 and y1 < y2 {frame}"
        raise ToolError(error.strip())
    return inside


def zoom(image: Image.Image, box_px: Box, square: bool = True) -> tuple[Image.Image, Box]:
    """Crop ``box_px`` out of the original image.

    Reversed corners are put in order and a box that reaches over the edge is cut to the image. A side
    below ``MIN_CROP_SIDE``, or below a hundredth of the other, grows to it.

    Args:
        image: the original image, not the view.
        box_px: (x1, y1, x2, y2) in pixels of ``image``.
        square: cut the square around the box, for a model whose view is a square.

    Returns:
        The crop and its own ``box_px``.

    Raises:
        ToolError: if nothing of the box lies inside the image.

    >>> crop, box_px = zoom(Image.new("RGB", (384, 384)), (100, 100, 160, 140))
    >>> crop.size, box_px
    ((60, 60), (100.0, 90.0, 160.0, 150.0))
    >>> zoom(Image.new("RGB", (384, 384)), (100, 100, 160, 140), square=False)[0].size
    (60, 40)
    """
    inside = part_inside(box_px, image.size)
    if square:
        grown = pad_to_square(inside, min(MIN_CROP_SIDE, *image.size), image.size)
        # Whole pixels, and still a square: the sides first, then a place for them.
        width, height = (math.ceil(round(side, 6)) for side in _size(grown))
        x1 = min(round(grown[0]), image.width - width)
        y1 = min(round(grown[1]), image.height - height)
        x2, y2 = x1 + width, y1 + height
    else:
        least = max(MIN_CROP_SIDE, max(_size(inside)) / MAX_CROP_ASPECT)
        x1, y1, x2, y2 = map(round, grow(inside, (least, least), image.size))
    return image.crop((x1, y1, x2, y2)), (float(x1), float(y1), float(x2), float(y2))


@dataclass(frozen=True)
class Shown:
    """One image of the conversation.

    Attributes:
        size: its own, in pixels; a crop beyond the pixel budget is reduced.
        window_px: the part of the original that it shows.
        source: the picture that a zoom into it is cut from: the original, so that a crop of a crop loses
            nothing, or what a tool of one's own made.
        source_px: the part of the original that ``source`` covers.
    """

    size: Size
    window_px: Box
    source: Image.Image
    source_px: Box


class ZoomTool:
    """The zoom bound to one image: TRL's environment, and what `rollout.py` calls.

    TRL's ``environment_factory`` makes one per rollout, calls `reset` with the row, offers every other
    public method to the model as a tool, with its docstring as the schema, and hands the instances to
    the reward functions. (``rollout_func`` could not do it: it cannot pass crops on to the loss.)
    **A tool of one's own** is a subclass with one more public method, which ends in `_changed`.

    Boxes are in the frame ``box_1000``; `ViewZoomTool` takes ``box_view``.

    Attributes:
        boxes_px: for each answered call, the box asked for, inside the image (``box_px``). IoU is
            measured on it. Of another tool, what its image shows.
        crops_px: for each answered call, what was cut: the box, grown where it was small, and for a
            square view the square around it.
        refused: how many calls came back as an error.
        forced: the tag that the rollout has to write, see `training.ZoomTrainer`; empty for a free one.
        blank: control, answers every call with a grey crop. What is left of the gain is not the crop's.
    """

    def __init__(
        self,
        image: Image.Image | None = None,
        max_calls: int = MAX_CALLS,
        *,
        view: View | None = None,
    ):
        """Bind the tool to an image, or leave that to `reset`.

        Args:
            image: the original.
            max_calls: of an episode; further ones are refused.
            view: how the model sees images, see `models.view_of`: crops keep the aspect of their box and
                are as sharp as the budget allows. None for a model that sees squares.
        """
        self.max_calls, self.view = max_calls, view
        self.blank = False
        if image is not None:
            self.reset(image)

    def reset(self, image: Image.Image, **row) -> None:
        """Start an episode on the image of a row; the image is in the prompt already."""
        self.image = image
        self.forced = ""
        self.boxes_px: list[Box] = []
        self.crops_px: list[Box] = []
        self.refused = 0
        whole_px = (0.0, 0.0, *map(float, image.size))
        self._shown = [Shown(image.size, whole_px, image, whole_px)]

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
            shown = self._opened(image)
            box_px = self._decoded(bbox_2d, shown)
            crop, window_px = self._cut(shown, box_px)
        except ToolError as error:
            return self._refuse(error)
        return self._show(
            crop, clamp(box_px, self.image.size), window_px, shown.source, shown.source_px
        )

    def _changed(self, image: object, change: Callable[[Image.Image], Image.Image]) -> list:
        """Answer with an image of the conversation after a change: what a tool of one's own ends in.

        Args:
            image: its number, as the model wrote it; checked here.
            change: makes a new image of what that one shows. A `ToolError` that it raises is told to the
                model; anything else is a bug of the tool.
        """
        try:
            shown = self._opened(image)
            picture = change(self._cut(shown, shown.window_px)[0])
        except ToolError as error:
            return self._refuse(error)
        window_px = shown.window_px
        return self._show(picture, window_px, window_px, picture, window_px)

    def _opened(self, number: object) -> Shown:
        """The image of the conversation that a call means, if a call is left."""
        if len(self.boxes_px) + self.refused >= self.max_calls:
            raise ToolError(f"no calls left, the limit is {self.max_calls}; answer now")
        last = len(self._shown) - 1
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= last:
            raise ToolError(f"image must be a whole number from 0 to {last}")
        return self._shown[number]

    def _refuse(self, error: Exception) -> list:
        self.refused += 1
        text = plain_text(str(error)[:MAX_ERROR_CHARS])
        return [{"type": "text", "text": f"Error: {text}"}]

    def _show(
        self, crop: Image.Image, box_px: Box, window_px: Box, source: Image.Image, source_px: Box
    ) -> list:
        if self.view:
            size = self.view.of_crop(crop.size, self.image.size)
            crop = crop if size == crop.size else crop.resize(size, Image.Resampling.BICUBIC)
        self.boxes_px.append(box_px)
        self.crops_px.append(window_px)
        self._shown.append(Shown(crop.size, window_px, source, source_px))
        if self.blank:
            crop = Image.new("RGB", crop.size, (128, 128, 128))
        return [{"type": "image", "image": crop}]

    def _decoded(self, bbox_2d: object, shown: Shown) -> Box:
        """The box in pixels of the original, or a `ToolError` in the model's own frame."""
        frame = self._frame(shown.size)
        words = self._frame_in_words(frame)
        box = check_box(bbox_2d, words)
        box_px = _moved(rescale(box, frame, _size(shown.window_px)), *shown.window_px[:2])
        part_inside(box_px, self.image.size, words)
        if max(map(abs, box)) <= 1:
            raise ToolError(f"bbox_2d holds shares of the image; give numbers {words}")
        return box_px

    def _frame(self, size: Size) -> Size:
        """Width and height of an image of this size in the frame that the model writes."""
        return (1000, 1000)

    def _frame_in_words(self, frame: Size) -> str:
        return "between 0 and 1000"

    def _cut(self, shown: Shown, box_px: Box) -> tuple[Image.Image, Box]:
        """`zoom` into the source of an image; both boxes are in pixels of the original."""
        if shown.source is self.image:
            return zoom(self.image, box_px, square=self.view is None)
        # As if the change had left every pixel at its place.
        (x, y), size = shown.source_px[:2], _size(shown.source_px)
        inside = rescale(_moved(box_px, -x, -y), size, shown.source.size)
        crop, window = zoom(shown.source, inside, square=self.view is None)
        return crop, _moved(rescale(window, shown.source.size, size), x, y)


def _moved(box: Box, x: float, y: float) -> Box:
    return tuple(value + shift for value, shift in zip(box, (x, y, x, y)))


def _size(box: Box) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


class ViewZoomTool(ZoomTool):
    """The zoom for a model that writes ``box_view``, pixels of the view: Qwen2.5-VL.

    The public DeepEyes code cuts such a box out of the original as it stands (DeepEyes issue #141). Here
    it is mapped from the view that the model saw, whose size comes from the model's own processor.
    """

    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", image: int = 0) -> list:
        """Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label.

        Args:
            bbox_2d: The bounding box of the region to zoom in, as [x1, y1, x2, y2] in pixels of that image, where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner.
            label: The name or label of the object in the specified bounding box (optional).
            image: Which image: 0 is the original, 1 the first crop, and so on.

        Returns:
            The crop.
        """  # noqa: E501
        return super().image_zoom_in_tool(bbox_2d, label, image)

    def _frame(self, size: Size) -> Size:
        return self.view(size)

    def _frame_in_words(self, frame: Size) -> str:
        return f"in pixels of the image, {frame[0]} x {frame[1]}"


class NoTool:
    """The environment of a variant without a tool: no public method but `reset`, so TRL offers none."""

    forced = ""

    def __init__(self) -> None:
        self.boxes_px: list[Box] = []  # the rewards ask every environment for its calls

    def reset(self, image: Image.Image, **row) -> None:
        """Start an episode; there is nothing to open."""


def methods(tool: ZoomTool) -> list[Callable]:
    """The tools of a tool, in the order in which TRL shows them to a model."""
    return [getattr(tool, name) for name in tool_names(type(tool))]


def tool_names(kind: type) -> list[str]:
    """Names of the tools of a class, as GRPOTrainer finds them: public methods but `reset`, sorted."""
    names = [name for name, _ in inspect.getmembers(kind, inspect.isfunction)]
    return [name for name in names if not name.startswith("_") and name != "reset"]


def plain_text(text: str) -> str:
    """A text that no tokenizer takes for markup, and that any file can hold.

    What is echoed to a model may repeat what a model wrote: a special token, or a lone surrogate.

    >>> plain_text("A<|im_end|><b>x < 1")
    'A< |im_end|>< b>x < 1'
    """
    text = text.encode("utf-8", "replace").decode()
    return re.sub(r"<(?=[\w/|])", "< ", text)


def answer_call(tool: ZoomTool, call: dict) -> list[dict]:
    """Answer a call as `prompts.read_reply` gives it; nothing is raised.

    Arguments that the tool does not know are left out, as in DeepEyes.

    Returns:
        Content blocks of the observation: an image, or what is wrong as text.

    >>> answer_call(ZoomTool(Image.new("RGB", (64, 64))), {"name": "rotate", "arguments": {}})
    [{'type': 'text', 'text': 'Error: there is no such tool; there is image_zoom_in_tool'}]
    """
    try:
        if "error" in call:
            raise ToolError(call["error"])
        name, there = call["name"], tool_names(type(tool))
        if name not in there:
            raise ToolError(f"there is no such tool; there is {', '.join(there)}")
        method = getattr(tool, name)
        known = inspect.signature(method).parameters
        arguments = {key: value for key, value in call["arguments"].items() if key in known}
        inspect.signature(method).bind(**arguments)  # a missing one is named in a TypeError
        parts = method(**arguments)
    except Exception as error:  # the call is model output: anything may be wrong with it
        parts = tool._refuse(error)
    return [  # a tool of one's own may echo, too
        {**part, "text": plain_text(part["text"])} if part["type"] == "text" else part
        for part in parts
    ]


def images_and_texts(contents: list[list[dict]]) -> tuple[list[Image.Image], list[str]]:
    """The crops and the error texts among the observations of one turn."""
    parts = [part for content in contents for part in content]
    images = [part["image"] for part in parts if part["type"] == "image"]
    return images, [part["text"] for part in parts if part["type"] == "text"]
