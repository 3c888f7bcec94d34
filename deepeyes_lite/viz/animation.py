"""A recorded run as a short animation: one scene, the policy's zoom as it learns, and the curves.

Made of the records alone (``config.json``, ``history.csv``, ``snapshots/``); the scene is drawn again.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deepeyes_lite.files import atomic_write
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz.html import answer_text
from deepeyes_lite.viz.plots import STYLES, draw_boxes, draw_episode, plain, png, smooth
from deepeyes_lite.viz.snapshots import read_run

LINES = {"accuracy": "right", "call_rate": "zooms", "best_iou": "IoU of the box"}
FIRST_MS, STEP_MS, LAST_MS = 2500, 400, 4000
COLORS = 128  # of the whole animation: the noise of a scene does not compress, so size follows them


@dataclass(frozen=True)
class Story:
    """What an animation shows of a run.

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

    @property
    def question(self) -> str:
        """What is asked, for a figure."""
        return plain(self.episodes[self.last].sample["question"], 60)

    def answer(self, step: int) -> str:
        """The answer at a recorded step, for a figure."""
        return plain(answer_text(self.episodes[step], 8))

    def iou(self, step: int) -> float:
        """The best IoU at a recorded step."""
        return self.episodes[step].best_iou or 0.0


def story(folder: str | Path) -> Story:
    """The scene that tells most: wrong after the first zoom and right at the end, if there is one.

    Among several, one with an early first zoom, then one whose box improved most. So the scene is chosen
    by how it went and shows what can be learned; the curves show how often that is.

    Args:
        folder: of a run or of its record.

    Raises:
        FileNotFoundError: if it lacks a record.
        ValueError: if it holds no step yet, or no zoom.
    """
    history, snapshots = read_run(folder)
    scenes = zip(*snapshots.values())
    stories = [Story(history, dict(zip(snapshots, episodes))) for episodes in scenes]
    stories = [s for s in stories if any(t.called and t.images for t in s.episodes.values())]
    if not stories:
        raise ValueError(f"the run in {folder} never zoomed on the scenes of its snapshots")

    def worth(story: Story) -> tuple[bool, int, float]:
        before, after = story.episodes[story.first], story.episodes[story.last]
        gain = story.iou(story.last) - story.iou(story.first)
        return after.correct and not before.correct, -story.first, gain

    return max(stories, key=worth)


def frame(story: Story, step: int) -> Figure:
    """The scene with the zooms of one step, what the model sees of it and of its zoom, and the curves.

    Places are fixed, and the scene is shown pixel by pixel, so that frames differ only where they should.
    """
    figure = Figure(figsize=(8, 4.5), dpi=100)
    episode = story.episodes[step]
    figure.text(0.02, 0.925, story.question, fontsize=15, weight="bold")
    figure.text(0.985, 0.925, f"step {step}: {story.answer(step)}", fontsize=15, ha="right")
    corners = [(0.02, 0.03, 384), (0.54, 0.47, 168), (0.775, 0.47, 168)]  # the side in px
    places = [figure.add_axes((x, y, side / 800, side / 450)) for x, y, side in corners]
    draw_episode(places, episode, fontsize=13)
    titles = ("", "its view", "its zoom" if episode.called else "no zoom")
    for axes, title in zip(places, titles):
        axes.set_title(title, fontsize=14, pad=3)
    _draw_curves(figure.add_axes((0.585, 0.125, 0.385, 0.25)), story, step)
    return figure


def still(story: Story) -> Figure:
    """The first zoom, the last one and the curves side by side, for readers who want no motion."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    places = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    figure.suptitle(story.question, fontsize=20, weight="bold")
    for axes, step in zip(places, (story.first, story.last)):
        draw_boxes(axes, story.episodes[step], f"step {step}: {story.answer(step)}", fontsize=16)
    _draw_curves(places[2], story, story.last)
    return figure


def _draw_curves(axes, story: Story, step: int) -> None:
    steps = [row["step"] for row in story.history if row["step"] <= step]
    for (column, label), (color, style) in zip(LINES.items(), STYLES):
        # Smoothed first and cut then, or the line would move behind the cursor.
        values = smooth([row[column] for row in story.history])[: len(steps)]
        axes.plot(steps, values, style, color=color, linewidth=3, label=label)
    axes.set(xlim=(0, story.last), ylim=(0, 1.04), yticks=[0, 0.5, 1])
    axes.set_xticks([0, story.last // 2, story.last])
    axes.tick_params(labelsize=14)
    axes.set_xlabel("training step", fontsize=14)
    axes.grid(alpha=0.3)
    tight = {"handlelength": 1.4, "handletextpad": 0.4, "columnspacing": 0.9, "borderpad": 0}
    place = {"loc": "lower right", "bbox_to_anchor": (1.03, 0.98)}
    axes.legend(fontsize=13, ncols=3, frameon=False, **place, **tight)


def alt(story: Story) -> str:
    """What one sees, for those who cannot."""
    moments = [
        f"at step {step} the zoom has IoU {story.iou(step):.2f} with it, "
        f"and the answer is {story.answer(step)}"
        for step in (story.first, story.last)
    ]
    changes = []
    for column, label in LINES.items():
        ends = [story.history[end][column] for end in (0, -1)]
        ends = [f"{value:.2f}" if value == value else "not measured" for value in ends]
        changes.append(f"{label} {' → '.join(ends)}")
    return (
        f"{story.question} A scene with the detail in a dashed box: {'; '.join(moments)}. "
        f"Curves from the first step to the last: {', '.join(changes)}."
    )


def write(folder: str | Path, out: str | Path) -> str:
    """Draw a run as ``zoom.gif``, which loops, and as ``zoom.png``.

    Args:
        folder: of a run or of its record.
        out: folder to write.

    Returns:
        The description of both.
    """
    run, out = story(folder), Path(out)
    frames = [pixels(frame(run, step)) for step in run.episodes]
    # One palette for all, or the whole picture would change from frame to frame.
    both = Image.fromarray(np.concatenate([np.asarray(frames[0]), np.asarray(frames[-1])]))
    palette = both.quantize(COLORS, method=Image.Quantize.FASTOCTREE)
    frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    times = [FIRST_MS, *[STEP_MS] * (len(frames) - 2), LAST_MS][: len(frames)]
    with atomic_write(out / "zoom.gif") as tmp:
        first, *others = frames
        first.save(tmp, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    with atomic_write(out / "zoom.png") as tmp:
        tmp.write_bytes(png(still(run), dpi=80))
    return alt(run)


def pixels(figure: Figure) -> Image.Image:
    """A figure as an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
