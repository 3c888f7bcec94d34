"""Move through a recorded run step by step: its curves, and what its policy did on the same scenes."""

from pathlib import Path

from ipywidgets import HTML, Dropdown, Layout
from markupsafe import Markup
from matplotlib.figure import Figure

from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import draw_boxes, draw_curves, image_tag, plain
from deepeyes_lite.viz.snapshots import read_run
from deepeyes_lite.viz.widgets.controls import Panel, Slider, wrapped


class TrainingScrubber(Panel):
    """One slider over the steps of a run."""

    def __init__(self, *folders: str | Path):
        """Open runs.

        Args:
            folders: run folders as `train` leaves them; ``history.csv`` is needed, and ``snapshots/`` shows
                scenes.

        Raises:
            FileNotFoundError: for a folder without ``history.csv`` or ``config.json``.
            ValueError: without a folder, or with one whose history is empty.
        """
        if not folders:
            raise ValueError("give the folder of at least one run, such as runs/demo-conditional-0")
        self._runs = {str(folder): read_run(folder) for folder in folders}
        names = [(html.line(name, 60), name) for name in self._runs]
        self.run = Dropdown(options=names, description="run", layout=Layout(width="420px"))
        self.step = Slider(label="step", step=1)
        self.step.layout = Layout(flex="1 1 320px", max_width="640px")
        self._figure, self._texts = HTML(), HTML()
        self._figures: dict[tuple[str, int], str] = {}
        self.run.observe(lambda _: self._open(), "value")
        self.step.observe(lambda _: self._show(), "value")
        self._open()
        super().__init__([wrapped(self.run, self.step), self._figure, self._texts])

    def _open(self) -> None:
        self.history, self.snapshots = self._runs[self.run.value]
        last = float(self.history[-1]["step"])
        self.step.min, self.step.max = float(min([1, *self.snapshots])), last
        if self.step.value == last:
            self._show()
        self.step.value = last

    @property
    def row(self) -> dict:
        """The history at the step of the slider; step 0, before training, has the figures of step 1."""
        rows = [row for row in self.history if row["step"] <= self.step.value]
        return rows[-1] if rows else self.history[0]

    @property
    def episodes(self) -> list[Trajectory]:
        """What the policy did at the last recorded step up to the slider's."""
        return self.snapshots.get(self._recorded, [])

    @property
    def _recorded(self) -> int:
        return max((step for step in self.snapshots if step <= self.step.value), default=-1)

    def _show(self) -> None:
        key = (self.run.value, int(self.step.value))
        if key not in self._figures:
            self._figures[key] = image_tag(self.picture(), self.alt, dpi=80)
        self._figure.value = self._figures[key]
        if not self.snapshots:
            self._texts.value = "<p>This run recorded no scenes (its folder has no snapshots/).</p>"
            return
        fold = Markup("<details><summary>{} {}</summary>{}</details>")
        self._texts.value = Markup("").join(
            fold.format(
                html.excerpt(t.sample.get("question", ""), 100),
                html.excerpt(html.verdict(t), 200),
                html.turns(t),
            )
            for t in self.episodes
        )

    def picture(self) -> Figure:
        """The curves with a cursor at the step, and the six scenes with the boxes of that policy."""
        episodes = [t for t in self.episodes if t.images]
        figure = Figure(figsize=(12, 5.9 if episodes else 3.2), layout="constrained")
        above = figure
        if episodes:
            above, below = figure.subfigures(2, 1, height_ratios=[3.2, 2.7])
            title = f"what the policy did after step {self._recorded}, on the same scenes"
            below.suptitle(title, fontsize=12)
            for axes, t in zip(below.subplots(1, len(episodes), squeeze=False)[0], episodes):
                draw_boxes(axes, t, plain(html.answer_text(t, 12)))
        draw_curves(above, self.history, cursor=int(self.step.value))
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        row = self.row
        figures = ", ".join(
            f"{name.replace('_', ' ')} {row[name]:.2f}"
            for name in ("accuracy", "call_rate", "best_iou", "p_zoom", "p_direct")
        )
        step, last = int(self.step.value), self.history[-1]["step"]
        text = f"Training curves with a line at step {step} of {last}: {figures}."
        if self.episodes:
            correct = sum(t.correct for t in self.episodes)
            calls = sum(t.called for t in self.episodes)
            text += f" Below, {len(self.episodes)} scenes after step {self._recorded}: "
            text += f"{correct} right, {calls} with a zoom."
        return text
