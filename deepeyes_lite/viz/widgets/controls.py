"""What the four widgets share: the panel with its picture, a slider, a picture to drag a box on.

What ipywidgets lacks is written for anywidget, in a few lines of JavaScript: it has no mouse events, its
slider has no name for a screen reader, and its lists lose their arrow keys to JupyterLab. Texts are set as
text, never as markup.
"""

import base64

import anywidget
import traitlets
from ipywidgets import Layout, VBox
from matplotlib.figure import Figure

from deepeyes_lite.viz.plots import png


class _OwnKeys(anywidget.AnyWidget):
    """Keeps for a panel the keys that are pressed in it; shows nothing.

    JupyterLab takes arrow keys for its cells, even out of a list or a slider, unless the focused element
    itself says otherwise (an element around it may not); ipywidgets has no way to say it.
    """

    _esm = """
    function render({ el }) {
      let frames = 600;
      const own = (event) => { event.target.dataset.lmSuppressShortcuts = "true"; };
      const find = () => {
        const panel = el.closest(".eyes-panel");
        if (panel) panel.addEventListener("focusin", own);
        else if (frames--) requestAnimationFrame(find);  // not in the page yet
      };
      find();
    }
    export default { render };
    """


class Panel(VBox):
    """A widget with a picture of its state, which a notebook keeps for readers without a kernel."""

    def __init__(self, children):
        """Args: what the panel shows, from top to bottom."""
        super().__init__([*children, _OwnKeys(layout=Layout(display="none"))])
        self.add_class("eyes-panel")

    def picture(self) -> Figure:
        """What the widget shows now, as a figure."""
        raise NotImplementedError

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        data = super()._repr_mimebundle_(**kwargs)
        data["text/plain"] = self.alt
        data["image/png"] = base64.b64encode(png(self.picture(), dpi=80)).decode()
        return data, {"image/png": {"alt": self.alt}}


class Slider(anywidget.AnyWidget):
    """A range input with its label and its value; arrow keys, Home and End move it.

    Attributes:
        label: its name, for screen readers, too.
        value: the number.
        min, max, step: its scale.
    """

    label = traitlets.Unicode().tag(sync=True)
    value = traitlets.Float().tag(sync=True)
    min = traitlets.Float(0.0).tag(sync=True)
    max = traitlets.Float(1.0).tag(sync=True)
    step = traitlets.Float(0.05).tag(sync=True)

    _esm = """
    function render({ model, el }) {
      const label = document.createElement("label");
      const name = document.createElement("span");
      const input = document.createElement("input");
      const output = document.createElement("output");
      label.className = "eyes-slider";
      input.type = "range";
      label.append(name, input, output);
      el.append(label);
      const show = () => {
        name.textContent = model.get("label");
        for (const key of ["min", "max", "step"]) input[key] = model.get(key);
        input.value = model.get("value");
        output.textContent = String(Math.round(model.get("value") * 1000) / 1000);
      };
      input.addEventListener("input", () => { output.textContent = input.value; });
      input.addEventListener("change", () => {
        model.set("value", Number(input.value));
        model.save_changes();
      });
      for (const key of ["label", "min", "max", "step", "value"]) model.on(`change:${key}`, show);
      show();
    }
    export default { render };
    """
    _css = """
    .eyes-slider { display: flex; gap: .6em; align-items: center; font-size: 14px; }
    .eyes-slider span { flex: 0 0 11em; }
    .eyes-slider input { flex: 1 1 8em; min-width: 6em; }
    .eyes-slider output { flex: 0 0 3em; font-variant-numeric: tabular-nums; }
    """


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

    _esm = """
    function render({ model, el }) {
      const frame = document.createElement("div");
      const image = document.createElement("img");
      const shape = document.createElement("div");
      const clock = document.createElement("div");
      frame.className = "eyes-frame";
      shape.className = "eyes-box";
      clock.className = "eyes-clock";
      image.draggable = false;
      frame.append(image, shape);
      el.append(frame, clock);

      const draw = ([x1, y1, x2, y2]) => {
        shape.style.left = `${Math.min(x1, x2) / 10}%`;
        shape.style.top = `${Math.min(y1, y2) / 10}%`;
        shape.style.width = `${Math.abs(x2 - x1) / 10}%`;
        shape.style.height = `${Math.abs(y2 - y1) / 10}%`;
      };
      const place = (event) => {
        const { left, top, width, height } = frame.getBoundingClientRect();
        const part = (value, length) =>
          Math.round(1000 * Math.min(1, Math.max(0, value / length)));
        return [part(event.clientX - left, width), part(event.clientY - top, height)];
      };
      let start = null;
      const box = (event) => {
        const [x, y] = place(event);
        return [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
      };
      frame.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        frame.setPointerCapture(event.pointerId);
        start = place(event);
      });
      frame.addEventListener("pointermove", (event) => start && draw(box(event)));
      frame.addEventListener("pointerup", (event) => {
        if (!start) return;
        const found = box(event);
        start = null;
        // A click is no box.
        if (found[2] - found[0] < 10 || found[3] - found[1] < 10) return draw(model.get("box"));
        model.set("box", found);
        model.save_changes();
      });
      frame.addEventListener("pointercancel", () => { start = null; draw(model.get("box")); });

      let timer = null;
      const run = () => {
        clearInterval(timer);
        if (!model.get("running")) return;
        const began = Date.now();
        const tick = () => { clock.textContent = `${Math.floor((Date.now() - began) / 1000)} s`; };
        tick();
        timer = setInterval(tick, 1000);
      };
      const show = () => {
        image.src = model.get("src");
        image.alt = model.get("alt");
      };
      model.on("change:src change:alt", show);
      model.on("change:box", () => draw(model.get("box")));
      model.on("change:running", run);
      show();
      draw(model.get("box"));
      run();
      return () => clearInterval(timer);
    }
    export default { render };
    """
    _css = """
    .eyes-frame { position: relative; width: 384px; max-width: 100%; cursor: crosshair; touch-action: none; }
    .eyes-frame img { display: block; width: 100%; image-rendering: pixelated; user-select: none; }
    .eyes-box { position: absolute; border: 3px solid #D55E00; outline: 1px solid white;
                box-sizing: border-box; pointer-events: none; }
    .eyes-clock { font-size: 14px; min-height: 1.5em; font-variant-numeric: tabular-nums; }
    """
