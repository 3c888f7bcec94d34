"""Move through a recorded run step by step: its curves, and what its policy did on the same scenes."""

import json
from pathlib import Path

from ipywidgets import HTML, Dropdown, HBox, Layout
from matplotlib.figure import Figure

from deepeyes_lite.training import read_history
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import draw_boxes, draw_curves, image_tag, plain
from deepeyes_lite.viz.snapshots import read_snapshots, scenes
from deepeyes_lite.viz.widgets.controls import Panel, Slider


class TrainingScrubber(Panel):
    """One slider over the steps of a run."""

    def __init__(self, *folders: str | Path):
        """Args: run folders as `train` leaves them; ``history.csv`` is needed, ``snapshots/`` shows scenes.

        Raises:
            FileNotFoundError: for a folder without ``history.csv`` or ``config.json``.
            ValueError: without a folder, or with one whose history is empty.
        """
        if not folders:
            raise ValueError("give the folder of at least one run, such as runs/demo-conditional-0")
        self.folders = {str(folder): Path(folder) for folder in folders}
        for folder in self.folders.values():
            for name in ("config.json", "history.csv"):
                if not (folder / name).exists():
                    raise FileNotFoundError(
                        f"no {name} in {folder}; start a run with `train --out {folder}`"
                    )
        names = [(html.line(name, 60), name) for name in self.folders]
        self.run = Dropdown(options=names, description="run", layout=Layout(width="420px"))
        self.step = Slider(label="step", step=1)
        self.step.layout = Layout(flex="1 1 320px", max_width="640px")
        self._figure, self._texts = HTML(), HTML()
        self._figures: dict[tuple[str, int], str] = {}
        self.run.observe(lambda _: self._open(), "value")
        self.step.observe(lambda _: self._show(), "value")
        self._open()
        wrap = Layout(flex_flow="row wrap", grid_gap="16px")
        super().__init__([HBox([self.run, self.step], layout=wrap), self._figure, self._texts])

    def _open(self) -> None:
        folder = self.folders[self.run.value]
        self.history = read_history(folder / "history.csv")
        if not self.history:
            raise ValueError(f"{folder / 'history.csv'} has no steps yet")
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.snapshots = {}
        if (folder / "snapshots").exists():
            images = {row["id"]: row["image"] for row in scenes(self._config)}
            found = read_snapshots(folder / "snapshots", images)
            self.snapshots = {step: list(map(html.checked, rows)) for step, rows in found.items()}
        last = self.history[-1]["step"]
        self.step.min, self.step.max = float(min([1, *self.snapshots])), float(last)
        if self.step.value == last:
            self._show()
        self.step.value = float(last)

    @property
    def row(self) -> dict:
        """The history at the step of the slider; step 0, before training, has the figures of step 1."""
        at = [row for row in self.history if row["step"] <= self.step.value]
        return at[-1] if at else self.history[0]

    @property
    def episodes(self) -> list[Trajectory]:
        """What the policy did at the last recorded step up to the slider's."""
        return self.snapshots.get(self._seen, [])

    @property
    def _seen(self) -> int:
        return max((step for step in self.snapshots if step <= self.step.value), default=-1)

    def _show(self) -> None:
        key = (self.run.value, int(self.step.value))
        if key not in self._figures:
            self._figures[key] = image_tag(self.picture(), self.alt, dpi=80)
        self._figure.value = self._figures[key]
        if not self.snapshots:
            self._texts.value = "<p>This run recorded no scenes (its folder has no watched/).</p>"
            return
        self._texts.value = "".join(
            f"<details><summary>{html.excerpt(t.sample.get('question', ''), 100)} "
            f"{html.excerpt(html.verdict(t), 200)}</summary>{html.turns(t)}</details>"
            for t in self.episodes
        )

    def picture(self) -> Figure:
        """The curves with a cursor at the step, and the six scenes with the boxes of that policy."""
        episodes = [t for t in self.episodes if t.images]
        figure = Figure(figsize=(12, 5.9 if episodes else 3.2), layout="constrained")
        if not episodes:
            draw_curves(figure, self.history, cursor=int(self.step.value))
            return figure
        above, below = figure.subfigures(2, 1, height_ratios=[3.2, 2.7])
        draw_curves(above, self.history, cursor=int(self.step.value))
        below.suptitle(
            f"what the policy did after step {self._seen}, on the same scenes", fontsize=12
        )
        for axes, t in zip(below.subplots(1, len(episodes), squeeze=False)[0], episodes):
            draw_boxes(axes, t)
            said = "no answer" if t.answer is None else plain(t.answer, 12)
            truth = plain(str(t.sample.get("answer", "?")), 12)
            axes.set_title(
                f"{said}: right" if t.correct else f"{said}: wrong, it is {truth}", fontsize=10
            )
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        row = self.row
        told = ", ".join(
            f"{name.replace('_', ' ')} {row[name]:.2f}"
            for name in ("accuracy", "call_rate", "best_iou", "p_zoom", "p_direct")
        )
        at, last = int(self.step.value), self.history[-1]["step"]
        text = f"Training curves with a line at step {at} of {last}: {told}."
        if self.episodes:
            right = sum(t.correct for t in self.episodes)
            calls = sum(t.called for t in self.episodes)
            text += f" Below, {len(self.episodes)} scenes after step {self._seen}: "
            text += f"{right} right, {calls} with a zoom."
        return text
