"""A recorded run as a short animation: one scene, the policy's zoom as it learns, and the curves.

Made of the records alone (``config.json``, ``history.csv``, ``snapshots/``); the scene is drawn again.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deepeyes_lite.files import atomic_write
from deepeyes_lite.training import read_history
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import STYLES, draw_boxes, plain, png, smooth
from deepeyes_lite.viz.snapshots import read_snapshots, scenes

LINES = [("accuracy", "right"), ("call_rate", "zooms"), ("best_iou", "IoU of the box")]
FIRST_MS, STEP_MS, LAST_MS = 2500, 400, 4000
COLORS = 128  # of the whole animation: the noise of a scene does not compress, so size follows them


@dataclass(frozen=True)
class Story:
    """What is shown of a run.

    Attributes:
        history: a row a step.
        episodes: by step, what the policy did on the scene.
    """

    history: list[dict]
    episodes: dict[int, Trajectory]

    @property
    def first(self) -> int:
        """The first recorded step with a zoom."""
        return next(step for step, t in self.episodes.items() if t.called)

    @property
    def last(self) -> int:
        """The last recorded step."""
        return max(self.episodes)


def story(folder: str | Path) -> Story:
    """The watched scene that tells most: wrong after the first zoom and right at the end, if there is one.

    Among several, one with an early first zoom, then one whose box improved most. So it is chosen by how
    it went and shows what can be learned; the curves show how often it is.

    Args:
        folder: of a run or of its record.

    Raises:
        FileNotFoundError: if it lacks a record.
        ValueError: if it holds no step yet, or no zoom.
    """
    folder = Path(folder)
    for name in ("config.json", "history.csv", "snapshots"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"no {name} in {folder}; a run that `train` has made has it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    images = {row["id"]: row["image"] for row in scenes(config)}
    snapshots = read_snapshots(folder / "snapshots", images)
    history = read_history(folder / "history.csv")
    if not history:
        raise ValueError(f"{folder / 'history.csv'} has no steps yet")
    found = [
        Story(history, dict(zip(snapshots, map(html.checked, episodes))))
        for episodes in zip(*snapshots.values())
    ]
    found = [s for s in found if any(t.called and t.images for t in s.episodes.values())]
    if not found:
        raise ValueError(f"the run in {folder} never zoomed on its watched scenes")
    return max(found, key=_worth)


def _worth(shown: Story) -> tuple[bool, int, float]:
    before, after = shown.episodes[shown.first], shown.episodes[shown.last]
    gain = _overlap(shown, shown.last) - _overlap(shown, shown.first)
    return after.correct and not before.correct, -shown.first, gain


def _overlap(shown: Story, step: int) -> float:
    return shown.episodes[step].best_iou or 0.0


def frame(shown: Story, step: int) -> Figure:
    """The scene with the zooms of one step, what the model sees of it and of its zoom, and the curves.

    Places are fixed, and the scene is shown pixel by pixel, so that frames differ only where they should.
    """
    figure = Figure(figsize=(8, 4.5), dpi=100)
    episode = shown.episodes[step]
    question, said = plain(episode.sample["question"], 60), _said(episode)
    figure.text(0.02, 0.925, question, fontsize=15, weight="bold")
    figure.text(0.985, 0.925, f"step {step}: {said}", fontsize=15, ha="right")
    _scene(figure.add_axes((0.02, 0.03, 384 / 800, 384 / 450)), episode)
    _seen(figure.add_axes((0.54, 0.47, 168 / 800, 168 / 450)), episode.images[:1], "its view")
    _seen(figure.add_axes((0.775, 0.47, 168 / 800, 168 / 450)), episode.images[1:2], "its zoom")
    _curves(figure.add_axes((0.585, 0.125, 0.385, 0.25)), shown, step)
    return figure


def still(shown: Story) -> Figure:
    """The first zoom, the last one and the curves side by side, for readers who want no motion."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    places = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    question = plain(shown.episodes[shown.first].sample["question"], 60)
    figure.suptitle(question, fontsize=20, weight="bold")
    for axes, step in zip(places, (shown.first, shown.last)):
        episode = shown.episodes[step]
        _scene(axes, episode)
        axes.set_title(f"step {step}: {_said(episode)}", fontsize=18)
    _curves(places[2], shown, shown.last)
    return figure


def _said(episode: Trajectory) -> str:
    said = "no answer" if episode.answer is None else f"says {plain(episode.answer, 8)}"
    return f"{said}, {'right' if episode.correct else 'wrong'}"


def _scene(axes, episode: Trajectory) -> None:
    draw_boxes(axes, episode, fontsize=16)
    axes.images[0].set_interpolation("nearest")


def _seen(axes, images: list[Image.Image], title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title if images else "no zoom", fontsize=14, pad=3)
    for image in images:
        axes.imshow(image.resize((96, 96)), interpolation="nearest")


def _curves(axes, shown: Story, step: int) -> None:
    rows = [row for row in shown.history if row["step"] <= step]
    steps = [row["step"] for row in rows]
    for (column, label), (color, style) in zip(LINES, STYLES):
        # Smoothed first and cut then, or the line would move behind the cursor.
        values = smooth([row[column] for row in shown.history])[: len(rows)]
        axes.plot(steps, values, style, color=color, linewidth=3, label=label)
    axes.set(xlim=(0, shown.last), ylim=(0, 1.04), yticks=[0, 0.5, 1])
    axes.set_xticks([0, shown.last // 2, shown.last])
    axes.tick_params(labelsize=14)
    axes.set_xlabel("training step", fontsize=14)
    axes.grid(alpha=0.3)
    axes.legend(
        fontsize=13,
        loc="lower right",
        bbox_to_anchor=(1.03, 0.98),
        ncols=3,
        frameon=False,
        handlelength=1.4,
        handletextpad=0.4,
        columnspacing=0.9,
        borderpad=0,
    )


def alt(shown: Story) -> str:
    """What one sees, for those who cannot."""

    def told(step: int) -> str:
        t = shown.episodes[step]
        overlap = f"the zoom has IoU {_overlap(shown, step):.2f} with it"
        return f"at step {step} {overlap}, and the model {_said(t)}"

    def ends(column: str) -> str:
        found = (shown.history[end][column] for end in (0, -1))
        return " → ".join(f"{value:.2f}" if value == value else "not measured" for value in found)

    question = plain(shown.episodes[shown.first].sample["question"], 60)
    return (
        f"{question} A scene with the detail in a dashed box: {told(shown.first)}; {told(shown.last)}. "
        "Curves from the first step to the last: "
        f"{', '.join(f'{label} {ends(column)}' for column, label in LINES)}."
    )


def write(folder: str | Path, out: str | Path) -> str:
    """Draw a run as ``zoom.gif``, which loops, and as ``zoom.png``.

    Args:
        folder: of a run or of its record.
        out: folder to write.

    Returns:
        The description of both.
    """
    shown, out = story(folder), Path(out)
    frames = [_pixels(frame(shown, step)) for step in shown.episodes]
    # One palette for all, or the whole picture would change from frame to frame.
    both = Image.fromarray(np.concatenate([np.asarray(frames[0]), np.asarray(frames[-1])]))
    palette = both.quantize(COLORS, method=Image.Quantize.FASTOCTREE)
    frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    times = [FIRST_MS, *[STEP_MS] * (len(frames) - 2), LAST_MS][: len(frames)]
    with atomic_write(out / "zoom.gif") as tmp:
        first, *others = frames
        first.save(tmp, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    with atomic_write(out / "zoom.png") as tmp:
        tmp.write_bytes(png(still(shown), dpi=80))
    return alt(shown)


def _pixels(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
