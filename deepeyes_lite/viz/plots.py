"""One function per figure; each returns a matplotlib Figure and opens no window.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and no figure relies on colour
alone: lines differ in style and carry their label, boxes carry their number.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deepeyes_lite.trajectories import Trajectory

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
STYLES = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (GREY, ":")]


def smooth(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Centred moving mean that passes over NaN.

    >>> smooth([0.0, 1.0, float("nan"), 3.0], window=3).tolist()
    [0.5, 0.5, 2.0, 3.0]
    """
    data = np.asarray(values, float)
    half = window // 2
    means = []
    for i in range(len(data)):
        part = data[max(0, i - half) : i + half + 1]
        part = part[~np.isnan(part)]
        means.append(part.mean() if len(part) else np.nan)
    return np.array(means)


# What the panels of `curves` show: title, unit of the y axis, (column, label) of each line.
PANELS = [
    (
        "Accuracy",
        "share of episodes",
        [
            ("accuracy", "all"),
            ("accuracy_legible", "legible in the view"),
            ("accuracy_illegible", "illegible in the view"),
        ],
    ),
    ("Call rate", "share of episodes", [("call_rate", "with a zoom")]),
    ("Boxes", "best IoU with the target", [("best_iou", "episodes with a call")]),
    (
        "Why it zooms",
        "probability of a correct answer",
        [("p_zoom", "given a zoom"), ("p_direct", "given none")],
    ),
]


def curves(history: list[dict], window: int = 5) -> Figure:
    """The training curves, a thin line a step and a thick one smoothed over ``window`` steps."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    draw_curves(figure, history, window)
    return figure


def draw_curves(figure, history: list[dict], window: int = 5, cursor: int | None = None) -> None:
    """`curves` in a figure or a part of one, with a line at the step ``cursor``."""
    steps = [row["step"] for row in history]
    for axes, (title, unit, lines) in zip(figure.subplots(1, len(PANELS)), PANELS):
        for (column, label), (color, style) in zip(lines, STYLES):
            values = [row[column] for row in history]
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            axes.plot(steps, smooth(values, window), style, color=color, linewidth=2, label=label)
        axes.set(title=title, xlabel="step", ylabel=unit, ylim=(-0.03, 1.03))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
        if cursor is not None:
            axes.axvline(cursor, color="black", linewidth=2)
        axes.legend(fontsize=9, loc="best")


def accuracy_bars(report: dict) -> Figure:
    """Accuracy of every condition of an evaluation, by legible and illegible, with 95 % intervals."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(report["conditions"])
    width = 0.38
    halves = [
        ("accuracy_legible", "legible in the view", BLUE, ""),
        ("accuracy_illegible", "illegible in the view", ORANGE, "//"),
    ]
    for k, (column, label, color, hatch) in enumerate(halves):
        shares = [report["conditions"][name][column] for name in names]
        x = np.arange(len(names)) + (k - 0.5) * width
        means = [s["mean"] for s in shares]
        error = [[s["mean"] - s["low"] for s in shares], [s["high"] - s["mean"] for s in shares]]
        axes.bar(
            x,
            means,
            width,
            yerr=error,
            capsize=4,
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=label,
        )
        for place, share in zip(x, shares):
            axes.text(
                place,
                share["high"] + 0.02,
                f"{100 * share['mean']:.0f} %",
                ha="center",
                fontsize=10,
            )
    axes.axhline(1 / 12, color=GREY, linestyle=":", label="a blind guess (1 of 12)")
    axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes.set(ylabel="accuracy", ylim=(0, 1.18))
    axes.legend(fontsize=9, loc="upper center", ncols=3)
    return figure


def pass_rate_bars(rates: Sequence[float]) -> Figure:
    """How many questions have which pass rate, and which of them the difficulty filter keeps."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    measured = [rate for rate in rates if rate == rate]
    values, counts = np.unique(measured, return_counts=True)
    width = 0.8 * min(np.diff(values), default=1.0)
    for keep, color, hatch, label in (
        (True, BLUE, "", "kept"),
        (False, ORANGE, "//", "dropped: no gradient in a group of equals"),
    ):
        which = ((values > 0) & (values < 1)) == keep
        axes.bar(
            values[which],
            counts[which],
            width,
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=f"{label} ({counts[which].sum()})",
        )
    axes.set(xlabel="pass rate of the base model", ylabel="questions", xlim=(-0.1, 1.1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9)
    return figure


def intervals(figures: dict[str, dict], xlabel: str, line: float = 0.0) -> Figure:
    """Figures one below the other, each a dot on its interval, with mean and ends in numbers beside it.

    Args:
        figures: by name, as `evaluation.share` and `evaluation.average` give them; NaN is "not measured".
        xlabel: of the axis, with its unit.
        line: a value to compare with, drawn as a vertical line.
    """
    figure = Figure(figsize=(9, 1.1 + 0.42 * len(figures)), layout="constrained")
    axes = figure.subplots()
    for place, figure_ in enumerate(figures.values()):
        mean, low, high = (figure_[name] for name in ("mean", "low", "high"))
        axes.plot([low, high], [place, place], color=BLUE, linewidth=2.5)
        axes.plot(mean, place, "o", color=BLUE, markersize=8)
        told = f"{mean:.2f} [{low:.2f}, {high:.2f}]" if mean == mean else "not measured"
        axes.text(1.02, place, told, va="center", transform=axes.get_yaxis_transform(), fontsize=12)
    axes.axvline(line, color="black", linewidth=1)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.set(ylim=(len(figures) - 0.5, -0.5))
    axes.tick_params(labelsize=12)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    return figure


def parts(rows: dict[str, dict[str, int]], xlabel: str) -> Figure:
    """Bars cut into parts, one below the other; a part of more than 5 % has its number in it.

    Args:
        rows: for each bar's name the counts of its parts, up to seven, the same names in every bar.
        xlabel: of the axis.
    """
    looks = [
        ("#DDDDDD", ""),
        (GREY, ""),
        ("#E69F00", "//"),
        (ORANGE, ""),
        ("#56B4E9", ".."),
        ("#CC79A7", "xx"),
        (BLUE, ""),
    ]
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    starts = np.zeros(len(rows))
    total = max(sum(counts.values()) for counts in rows.values())
    for name, (color, hatch) in zip(next(iter(rows.values())), looks):
        widths = [counts[name] for counts in rows.values()]
        axes.barh(
            range(len(rows)),
            widths,
            left=starts,
            color=color,
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        for place, (width, start) in enumerate(zip(widths, starts)):
            if width > 0.05 * total:
                mark = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
                axes.text(start + width / 2, place, width, ha="center", va="center", bbox=mark)
        starts = starts + widths
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlim=(0, total), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(labelsize=12)
    axes.set_xlabel(xlabel, fontsize=12)
    figure.legend(fontsize=11, ncols=4, loc="outside upper center")
    return figure


def bonus_lines(
    shares: Sequence[float],
    least: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    bonuses: dict[str, float],
) -> Figure:
    """The least bonus over the share of legible details, against the bonuses that arms pay.

    Args:
        shares: (N,) shares of legible details.
        least: (N,) b* at each of them.
        low: (N,) lower ends of its interval.
        high: (N,) upper ends; an infinite one is drawn at the edge.
        bonuses: the bonus of each arm, by its name.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    ends = [*least, *bonuses.values()]
    floor, top = min(ends) - 0.3, max([e for e in ends if np.isfinite(e)]) + 0.3
    axes.fill_between(
        shares,
        np.clip(low, floor, top),
        np.clip(high, floor, top),
        color=BLUE,
        alpha=0.15,
        linewidth=0,
        label="its 95 % interval",
    )
    axes.plot(shares, np.clip(least, floor, top), color=BLUE, linewidth=2.5, label="least bonus b*")
    for (name, bonus), (color, style) in zip(bonuses.items(), [*STYLES[1:], STYLES[0]]):
        axes.axhline(bonus, color=color, linestyle=style, linewidth=2)
        label = f"{name}, b = {bonus:g}"  # on the right: on the left b* crosses low bonuses
        axes.text(0.99, bonus + 0.03, label, color=color, fontsize=12, ha="right")
    axes.set(xlim=(0, 1), ylim=(floor, top))
    axes.set_xlabel("share of details that are legible in the view", fontsize=12)
    axes.set_ylabel("bonus", fontsize=12)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=12, loc="lower right")
    return figure


def draw_boxes(axes, trajectory: Trajectory, fontsize: float = 9) -> None:
    """The scene with its target (green, dashed) and the numbered boxes of the calls (orange)."""
    axes.imshow(trajectory.images[0])
    for box in trajectory.sample.get("boxes_px") or []:
        axes.add_patch(_rectangle(box, GREEN, "--"))
    for number, box in enumerate(trajectory.boxes_px, 1):
        axes.add_patch(_rectangle(box, ORANGE, "-"))
        inside = box[1] < 0.08 * trajectory.images[0].height  # no room above the box
        axes.text(
            box[0] + 2,
            box[1] + 4 if inside else box[1] - 4,
            f"zoom {number}",
            color="white",
            fontsize=fontsize,
            va="top" if inside else "baseline",
            bbox={"facecolor": ORANGE, "edgecolor": "none", "pad": 1.5},
            clip_on=True,
        )
    axes.set_axis_off()


def _rectangle(box, color: str, style: str) -> Rectangle:
    x1, y1, x2, y2 = box
    return Rectangle(
        (x1, y1), x2 - x1, y2 - y1, fill=False, color=color, linestyle=style, linewidth=2.5
    )


def episode_strip(trajectory: Trajectory, crops: int = 1, title: str = "") -> Figure:
    """One episode as a strip: scene with boxes, what the model sees of it, its crops, its answer.

    Args:
        trajectory: an episode with its images.
        crops: places for crops; empty ones stay empty, so that strips align.
        title: above the strip.
    """
    figure = Figure(figsize=(2.3 * (2 + crops), 2.75), layout="constrained")
    _strip(figure, trajectory, crops, title)
    return figure


def episode_strips(episodes: dict[str, Trajectory]) -> Figure:
    """`episode_strip` of several policies, one below the other; the keys are their titles."""
    crops = max(1, *(len(trajectory.images) - 1 for trajectory in episodes.values()))
    height = 2.75 * len(episodes)
    figure = Figure(figsize=(2.3 * (2 + crops), height), layout="constrained")
    parts = figure.subfigures(len(episodes), 1, squeeze=False)[:, 0]
    for part, (name, trajectory) in zip(parts, episodes.items()):
        _strip(part, trajectory, crops, f"{plain(name, 30)}: ")
    return figure


def _strip(figure, trajectory: Trajectory, crops: int, title: str) -> None:
    places = figure.subplots(1, 2 + crops)
    draw_boxes(places[0], trajectory)
    places[0].set_title("scene", fontsize=10)
    view = trajectory.images[0].resize((96, 96))
    places[1].imshow(view, interpolation="nearest")
    places[1].set_title("the model's view", fontsize=10)
    for number, axes in enumerate(places[2:], 1):
        if number < len(trajectory.images):
            axes.imshow(trajectory.images[number].resize((96, 96)), interpolation="nearest")
            axes.set_title(f"zoom {number}", fontsize=10)
    for axes in places:
        axes.set_axis_off()
    truth = plain(trajectory.sample["answer"], 20)
    verdict = "right" if trajectory.correct else f"wrong, it is {truth}"
    said = trajectory.answer if trajectory.answer is not None else "no answer"
    question = plain(trajectory.sample["question"], 80)
    figure.suptitle(f"{title}{question}  {plain(said, 20)} ({verdict})", fontsize=10.5)


def plain(text: str, limit: int = 200) -> str:
    """Somebody else's text for a figure: one line of at most ``limit`` characters, no mathematics.

    >>> plain("K" * 30, 5), plain("a\\nb")
    ('KKKKK…', 'a b')
    """
    text = text if len(text) <= limit else text[:limit] + "…"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.replace("$", r"\$")


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG of 256 colours: the noise of the scenes would make it four times as large.

    By octree: the median cut gives the noise so many colours that red becomes orange.
    """
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    Image.open(buffer).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def image_tag(figure: Figure, alt: str, dpi: int = 110) -> str:
    """The figure as a self-contained HTML image; ``alt`` says what one should see."""
    data = base64.b64encode(png(figure, dpi)).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt, quote=True)}">'


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook with a description for those who cannot see it."""
    from IPython.display import Image as Shown
    from IPython.display import display

    display(Shown(png(figure, dpi=80)), metadata={"image/png": {"alt": alt}})
    print(f"Figure: {alt}")


def token_strip(pieces: Sequence[tuple[str, int]], limit: int = 400) -> str:
    """Tokens coloured by their loss mask, as HTML; runs of image placeholders are counted, not shown.

    Args:
        pieces: (token as text, mask) pairs; mask 1 is written by the model.
        limit: tokens shown at most.
    """
    spans, run = [], 0
    for text, mask in [*pieces[:limit], ("", 0)]:
        if text == "<|image_pad|>":
            run += 1
            continue
        if run:
            spans.append(_span(f"<|image_pad|> × {run}", 0))
            run = 0
        if text:
            spans.append(_span(text.replace("\n", "⏎"), mask))
    if len(pieces) > limit:
        spans.append(f"… and {len(pieces) - limit} more")
    return (
        '<div style="line-height:2;font-family:monospace;font-size:13px">'
        + " ".join(spans)
        + "</div>"
    )


def _span(text: str, mask: int) -> str:
    style = (
        f"background:{BLUE};color:white;font-weight:bold"
        if mask
        else "background:#e8e8e8;color:#333;text-decoration:none"
    )
    return (
        f'<span style="{style};padding:1px 4px;border-radius:3px">{html.escape(text[:200])}</span>'
    )
