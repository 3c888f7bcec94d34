"""One function per figure; each returns a matplotlib Figure and opens no window.

No figure relies on colour alone: lines differ in style and carry their label, boxes carry their number.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import BLUE, GREEN, GREY, ORANGE, html

STYLES = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (GREY, ":")]


def smooth(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Centred moving mean that passes over NaN.

    >>> smooth([0.0, 1.0, float("nan"), 3.0], window=3).tolist()
    [0.5, 0.5, 2.0, 3.0]
    """
    data = np.asarray(values, float)
    half = window // 2
    windows = [data[max(0, i - half) : i + half + 1] for i in range(len(data))]
    windows = [part[~np.isnan(part)] for part in windows]
    return np.array([part.mean() if len(part) else np.nan for part in windows])


# --- runs -----------------------------------------------------------------------------------------

# The panels of `curves`: title, unit of the y axis, columns of the history.
PANELS = [
    ("Accuracy", "share of episodes", ["accuracy", "accuracy_legible", "accuracy_illegible"]),
    ("Call rate", "share of episodes", ["call_rate"]),
    ("Boxes", "best IoU with the target", ["best_iou"]),
    ("Why it zooms", "probability of a correct answer", ["p_zoom", "p_direct"]),
]
LABELS = {
    "accuracy": "all",
    "accuracy_legible": "legible in the view",
    "accuracy_illegible": "illegible in the view",
    "call_rate": "with a zoom",
    "best_iou": "episodes with a call",
    "p_zoom": "given a zoom",
    "p_direct": "given none",
}


def curves(history: list[dict]) -> Figure:
    """The training curves, a thin line a step and a thick one smoothed over five steps."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    steps = [row["step"] for row in history]
    for axes, (title, unit, columns) in zip(figure.subplots(1, len(PANELS)), PANELS):
        for column, (color, style) in zip(columns, STYLES):
            values, looks = [row[column] for row in history], {"color": color, "linewidth": 2}
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            axes.plot(steps, smooth(values), style, label=LABELS[column], **looks)
        axes.set(title=title, xlabel="step", ylabel=unit, ylim=(-0.03, 1.03))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, loc="best")
    return figure


def accuracy_bars(report: dict) -> Figure:
    """Accuracy of every condition of an evaluation, by legible and illegible, with 95 % intervals."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    conditions = report["conditions"]
    width = 0.38
    for half, color, hatch, shift in (
        ("legible", BLUE, "", -0.5),
        ("illegible", ORANGE, "//", 0.5),
    ):
        shares = [figures[f"accuracy_{half}"] for figures in conditions.values()]
        mean, low, high = (np.array([s[end] for s in shares]) for end in ("mean", "low", "high"))
        looks = {"color": color, "hatch": hatch, "edgecolor": "white", "capsize": 4}
        x, errors = np.arange(len(shares)) + shift * width, [mean - low, high - mean]
        axes.bar(x, mean, width, yerr=errors, label=f"{half} in the view", **looks)
        for place, value, top in zip(x, mean, high):
            axes.text(place, top + 0.02, f"{100 * value:.0f} %", ha="center", fontsize=10)
    axes.axhline(1 / 12, color=GREY, linestyle=":", label="a blind guess (1 of 12)")
    axes.set_xticks(range(len(conditions)), [name.replace(", ", ",\n") for name in conditions])
    axes.set(ylabel="accuracy", ylim=(0, 1.25))
    axes.legend(fontsize=9, loc="upper center", ncols=3)
    return figure


def pass_rate_bars(rates: Sequence[float]) -> Figure:
    """How many questions have which pass rate, and which of them the difficulty filter keeps."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    values, counts = np.unique([rate for rate in rates if rate == rate], return_counts=True)
    width = 0.8 * min(np.diff(values), default=1.0)
    kept = (values > 0) & (values < 1)
    dropped = "dropped: no gradient in a group of equals"
    for which, color, hatch, label in ((kept, BLUE, "", "kept"), (~kept, ORANGE, "//", dropped)):
        looks = {"color": color, "hatch": hatch, "edgecolor": "white"}
        label = f"{label} ({counts[which].sum()})"
        axes.bar(values[which], counts[which], width, label=label, **looks)
    axes.set(xlabel="pass rate of the base model", ylabel="questions", xlim=(-0.1, 1.1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9)
    return figure


# --- figures by name ------------------------------------------------------------------------------


def _rows(names: Sequence[str], height: float, xlabel: str):
    """A figure with a named row for each name, and its axes."""
    figure = Figure(figsize=(9, height + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), list(names))
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(labelsize=12)
    axes.set_xlabel(xlabel, fontsize=12)
    return figure, axes


def intervals(figures: dict[str, dict], xlabel: str, line: float = 0.0) -> Figure:
    """Figures one below the other, each a dot on its interval, with mean and ends in numbers beside it.

    Args:
        figures: by name, as `evaluation.share` and `evaluation.average` give them; NaN is "not measured".
        xlabel: of the axis, with its unit.
        line: a value to compare with, drawn as a vertical line.
    """
    figure, axes = _rows(figures, 1.1, xlabel)
    for place, values in enumerate(figures.values()):
        mean, low, high = (values[name] for name in ("mean", "low", "high"))
        axes.plot([low, high], [place, place], color=BLUE, linewidth=2.5)
        axes.plot(mean, place, "o", color=BLUE, markersize=8)
        text = f"{mean:.2f} [{low:.2f}, {high:.2f}]" if mean == mean else "not measured"
        axes.text(1.02, place, text, va="center", transform=axes.get_yaxis_transform(), fontsize=12)
    axes.axvline(line, color="black", linewidth=1)
    axes.grid(axis="x", alpha=0.3)
    return figure


PART_COLORS = ["#DDDDDD", GREY, "#E69F00", ORANGE, "#56B4E9", "#CC79A7", BLUE]
PART_HATCHES = ["", "", "//", "", "..", "xx", ""]


def parts(rows: dict[str, dict[str, int]], xlabel: str) -> Figure:
    """Bars cut into parts, one below the other; a part of more than 5 % has its number in it.

    Args:
        rows: for each bar's name the counts of its parts, up to seven, the same names in every bar.
        xlabel: of the axis.
    """
    figure, axes = _rows(rows, 1.5, xlabel)
    starts = np.zeros(len(rows))
    total = max(sum(counts.values()) for counts in rows.values())
    mark = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    for name, color, hatch in zip(next(iter(rows.values())), PART_COLORS, PART_HATCHES):
        widths = [counts[name] for counts in rows.values()]
        looks = {"color": color, "hatch": hatch, "edgecolor": "white", "label": name}
        axes.barh(range(len(rows)), widths, left=starts, **looks)
        for place, (width, start) in enumerate(zip(widths, starts)):
            if width > 0.05 * total:
                axes.text(start + width / 2, place, width, ha="center", va="center", bbox=mark)
        starts = starts + widths
    axes.set(xlim=(0, total))
    figure.legend(fontsize=11, ncols=4, loc="outside upper center")
    return figure


def bonus_lines(
    shares: Sequence[float], least: Sequence, low: Sequence, high: Sequence, bonuses: dict
) -> Figure:
    """The least bonus over the share of legible details, against the bonuses that reward variants pay.

    Args:
        shares: (N,) shares of legible details.
        least: (N,) b* at each of them.
        low: (N,) lower ends of its interval.
        high: (N,) upper ends; an infinite one is drawn at the edge.
        bonuses: the bonus of each variant, a float by its name.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    finite = [end for end in (*least, *bonuses.values()) if np.isfinite(end)]
    floor, top = min(finite) - 0.3, max(finite) + 0.3
    low, least, high = (np.clip(values, floor, top) for values in (low, least, high))
    looks = {"color": BLUE, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(shares, low, high, label="its 95 % interval", **looks)
    axes.plot(shares, least, color=BLUE, linewidth=2.5, label="least bonus b*")
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


# --- episodes -------------------------------------------------------------------------------------


def draw_boxes(axes, trajectory: Trajectory, title: str = "", fontsize: float = 9) -> None:
    """The first image with its target (green, dashed) and the numbered crops of the calls (orange).

    Where the box that was asked for is another one, it is drawn into its crop, dotted.
    """
    draw_image(axes, trajectory.images[0], title, fontsize + 1, "auto")
    boxes = [(box, GREEN, "--") for box in trajectory.sample.get("boxes_px") or []]
    zooms = [zoom for turn in trajectory.turns for zoom in turn.zooms]
    boxes += [(crop, ORANGE, "-") for _, crop in zooms]
    boxes += [(box, ORANGE, ":") for box, crop in zooms if box != crop]
    for (x1, y1, x2, y2), color, style in boxes:
        looks = {"fill": False, "color": color, "linestyle": style, "linewidth": 2.5}
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **looks))
    for number, (_, (x1, y1, _, _)) in enumerate(zooms, 1):
        inside = y1 < 0.08 * trajectory.images[0].height  # no room above the box
        axes.text(
            x1 + 2,
            y1 + 4 if inside else y1 - 4,
            f"zoom {number}",
            color="white",
            fontsize=fontsize,
            va="top" if inside else "baseline",
            bbox={"facecolor": ORANGE, "edgecolor": "none", "pad": 1.5},
            clip_on=True,
        )


def draw_image(
    axes, image: Image.Image, title: str, fontsize: float = 10, interpolation: str = "nearest"
) -> None:
    """An image without a scale."""
    axes.imshow(image, interpolation=interpolation)
    axes.set_title(title, fontsize=fontsize)
    axes.set_axis_off()


def draw_episode(places: Sequence, trajectory: Trajectory, fontsize: float = 9) -> None:
    """One episode in axes: scene with boxes, what the model sees of it, then its crops.

    Args:
        places: axes; those for which there is no crop stay empty.
        trajectory: an episode with its images.
        fontsize: of the names of the boxes, in points.
    """
    draw_boxes(places[0], trajectory, "scene", fontsize)
    for number, axes in enumerate(places[1:]):
        axes.set_axis_off()
        if number < len(trajectory.images):
            view = html.view(trajectory.images[number])
            title = f"zoom {number}" if number else "the model's view"
            draw_image(axes, view, title, fontsize + 1)


def episode_strip(trajectory: Trajectory, crops: int = 1, title: str = "") -> Figure:
    """One episode as a strip: scene with boxes, what the model sees of it, its crops, its answer.

    Args:
        trajectory: an episode with its images.
        crops: places for crops; empty ones stay empty, so that strips align.
        title: above the strip.
    """
    return _strips({title: trajectory}, crops)


def episode_strips(episodes: dict[str, Trajectory]) -> Figure:
    """`episode_strip` of several policies, one below the other; the keys are their titles."""
    crops = max(1, *(len(trajectory.images) - 1 for trajectory in episodes.values()))
    return _strips({f"{plain(name, 30)}: ": t for name, t in episodes.items()}, crops)


def _strips(episodes: dict[str, Trajectory], crops: int) -> Figure:
    size = (2.3 * (2 + crops), 2.75 * len(episodes))
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subfigures(len(episodes), 1, squeeze=False)[:, 0]
    for row, (title, trajectory) in zip(rows, episodes.items()):
        draw_episode(row.subplots(1, 2 + crops), trajectory)
        question, answer = trajectory.sample["question"], html.answer_text(trajectory, 20)
        row.suptitle(f"{title}{plain(question, 80)}  {plain(answer)}", fontsize=10.5)
    return figure


# --- out of matplotlib ----------------------------------------------------------------------------


def plain(text: object, limit: int = 200) -> str:
    """Somebody else's text for a figure: `html.line` without mathematics.

    >>> print(plain("K$" * 30, 4))
    K\\$K\\$…
    """
    return html.line(text, limit).replace("$", r"\$")


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


def image_tag(figure: Figure, alt: str, dpi: int = 110) -> Markup:
    """The figure as a self-contained HTML image; ``alt`` says what one should see."""
    data = base64.b64encode(png(figure, dpi)).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(data, alt)


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook with a description for those who cannot see it."""
    from IPython.display import Image as Shown
    from IPython.display import display

    display(Shown(png(figure, dpi=80)), metadata={"image/png": {"alt": alt}})
    print(f"Figure: {alt}")
