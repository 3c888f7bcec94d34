"""Tools beside the zoom; a tool of one's own is a class here, or anywhere, and a line in ``EXTRA_TOOLS``.

Such a class has one public method. TRL shows the model its name, its arguments and its docstring; it
takes the number of an image of the conversation and answers with that image, changed. The frame around
it is `ZoomTool`'s, so that numbers are checked, calls counted and images bounded as they are there. What
else it takes is model output, too: check it, and raise a `ToolError` that says what was wrong.

``RunConfig.extra_tool`` names the second tool of a run; `models.offer` offers it to a model at hand.
Episodes read from JSONL have their crops cut again, which knows the zoom alone: there, a call of another
tool shows as the part of the original that it was about, unchanged.
"""

from PIL import Image, ImageOps

from deepeyes_lite.tools import ZoomTool, tool_names


class ContrastTool:
    """A second tool, beside the zoom: `with_extra` puts the two together."""

    def image_contrast_tool(self, image: int = 0) -> list:
        """Stretch the contrast of an image, so that what is faint stands out.

        Args:
            image: Which image: 0 is the original, 1 the first answer of a tool, and so on.

        Returns:
            The image, from black to white.
        """
        return self._changed(image, stretched)


def stretched(image: Image.Image) -> Image.Image:
    """The image with its darkest tone black and its brightest white; its colours keep their hue.

    >>> faint = Image.linear_gradient("L").point(lambda v: 100 + v // 32).convert("RGB")
    >>> faint.getextrema()[0], stretched(faint).getextrema()[0]
    ((100, 107), (0, 255))
    """
    return ImageOps.autocontrast(image.convert("RGB"), preserve_tone=True)


# What ``RunConfig.extra_tool`` can name; a tool of one's own is put in here.
EXTRA_TOOLS = {"contrast": ContrastTool}


def extra_tool(name: str) -> type:
    """The tool of that name.

    Raises:
        ValueError: naming the tools there are.
    """
    if name not in EXTRA_TOOLS:
        raise ValueError(f"unknown tool {name!r}; there are {', '.join(EXTRA_TOOLS)}")
    return EXTRA_TOOLS[name]


def with_extra(kind: type[ZoomTool], extra: type) -> type[ZoomTool]:
    """The zoom tool ``kind`` with the public method of ``extra`` beside its own.

    Raises:
        ValueError: if ``extra`` has no tool, or one that is there already.

    >>> tool_names(with_extra(ZoomTool, ContrastTool))
    ['image_contrast_tool', 'image_zoom_in_tool']
    """
    added = tool_names(extra)
    if not added or set(added) & {*tool_names(kind), "reset"}:
        raise ValueError(
            f"{extra.__name__} must have a public method with a name of its own; it has {added or 'none'}"
        )
    return type(extra.__name__ + kind.__name__, (extra, kind), {})
