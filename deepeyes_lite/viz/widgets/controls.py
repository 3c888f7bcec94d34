"""What `ZoomByHand` needs beside ipywidgets: a panel with its picture, a picture to drag a box on.

ipywidgets has no mouse events, and its controls lose their keys to JupyterLab; both are a few lines of
JavaScript for anywidget. Texts are set as text, never as markup.
"""

import base64
from pathlib import Path

import anywidget
import traitlets
from ipywidgets import HBox, Layout, VBox

from deepeyes_lite.viz.plots import png

STATIC = Path(__file__).parent / "static"


class _OwnKeys(anywidget.AnyWidget):
    """Keeps for a panel the keys that are pressed in it; shows nothing.

    JupyterLab takes arrow keys for its cells, even out of a list or a slider, unless the focused element
    itself says otherwise (an element around it may not); ipywidgets has no way to say it.
    """

    _esm = STATIC / "own_keys.js"


class Panel(VBox):
    """A widget with a picture of its state, which a notebook keeps for readers without a kernel.

    A subclass has ``picture()``, what the widget shows now as a figure, and ``alt``, what one sees there.
    """

    def __init__(self, children):
        """Lay out a panel.

        Args:
            children: what the panel shows, from top to bottom.
        """
        super().__init__([*children, _OwnKeys(layout=Layout(display="none"))])
        self.add_class("eyes-panel")

    def _repr_mimebundle_(self, **kwargs):
        data = super()._repr_mimebundle_(**kwargs)
        data["text/plain"] = self.alt
        data["image/png"] = base64.b64encode(png(self.picture(), dpi=80)).decode()
        return data, {"image/png": {"alt": self.alt}}


def wrapped(*children, gap: str = "16px") -> HBox:
    """Controls beside each other, and below each other where the window is narrow."""
    return HBox(children, layout=Layout(flex_flow="row wrap", grid_gap=gap))


class BoxPicture(anywidget.AnyWidget):
    """A picture on which the mouse, a finger or a pen drags a box.

    Attributes:
        src: the picture as a data URI.
        alt: what it shows.
        box: x1, y1, x2, y2 in 0-1000 of the picture (``box_1000``).
        running: whether the clock below the picture runs.
    """

    src = traitlets.Unicode().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    box = traitlets.List(traitlets.Int(), [375, 375, 625, 625]).tag(sync=True)
    running = traitlets.Bool(False).tag(sync=True)
    _esm = STATIC / "box_picture.js"
    _css = STATIC / "box_picture.css"
