"""plots.py: every function gives a Figure, and no text of a model breaks one."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepeyes_lite.evaluation import CONDITIONS, share
from deepeyes_lite.training import HISTORY_COLUMNS
from deepeyes_lite.viz import plots
from episodes import TEXTS, Reader, made


def pixels(figure, dpi=30):
    """The figure as pixels, having checked that it is a PNG."""
    data = plots.png(figure, dpi)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def history(n, **changes):
    rows = [dict.fromkeys(HISTORY_COLUMNS, 0.5) for _ in range(n)]
    return [{**row, "step": i, **changes} for i, row in enumerate(rows, 1)]


def texts(artists):
    return [artist.get_text() for artist in artists]


def test_curves_have_a_panel_for_each_question_and_a_label_for_each_line():
    figure = plots.curves(history(20, accuracy=0.25))
    assert isinstance(figure, Figure) and pixels(figure).size
    for axes, (title, unit, columns) in zip(figure.axes, plots.PANELS, strict=True):
        assert axes.get_title() == title and axes.get_ylabel() == unit
        assert texts(axes.get_legend().get_texts()) == [plots.LABELS[column] for column in columns]
        styles = [line.get_linestyle() for line in axes.get_lines()[1::2]]
        assert len(set(styles)) == len(styles)  # lines differ without their colours, too
    thin, thick = figure.axes[0].get_lines()[:2]
    assert list(thin.get_ydata()) == list(thick.get_ydata()) == [0.25] * 20
    assert list(thin.get_xdata()) == list(range(1, 21))


@pytest.mark.filterwarnings("ignore:Glyph")
def test_little_or_nothing_is_drawn_too(capsys):
    for rows in ([], history(1), history(3, p_zoom=math.nan, best_iou=math.nan)):
        plots.show(plots.curves(rows), f"{len(rows)} steps.")
        assert f"Figure: {len(rows)} steps." in capsys.readouterr().out
    for legible, illegible in (((1, 1), (0, 1)), ((5, 10), (0, 0))):
        assert pixels(plots.accuracy_bars(report(share(*legible), share(*illegible)))).size
    for rates in ([], [math.nan], [0.0, 0.25, 1.0]):
        assert pixels(plots.pass_rate_bars(rates)).size


def report(legible, illegible):
    figures = {"accuracy_legible": legible, "accuracy_illegible": illegible}
    return {"conditions": {name: figures for name in CONDITIONS}}


def test_bars_have_the_height_of_the_accuracies():
    figure = plots.accuracy_bars(report(share(80, 100), share(10, 40)))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.8] * 5 + [0.25] * 5
    assert [t.replace("\n", " ") for t in texts(axes.get_xticklabels())] == list(CONDITIONS)
    assert texts(axes.texts) == ["80 %"] * 5 + ["25 %"] * 5
    assert pixels(figure).size


def test_intervals_and_parts_say_what_they_draw():
    figure = plots.intervals({"base": share(1, 20), "nobody": share(0, 0)}, "accuracy", line=1 / 12)
    (axes,) = figure.axes
    assert texts(axes.get_yticklabels()) == ["base", "nobody"]
    assert texts(axes.texts) == ["0.05 [0.01, 0.24]", "not measured"]
    assert axes.get_xlabel() == "accuracy" and axes.lines[-1].get_xdata()[0] == 1 / 12
    figure = plots.parts(
        {"base": {"right": 90, "wrong": 10}, "trained": {"right": 98, "wrong": 2}}, "n"
    )
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [90, 98, 10, 2]
    assert texts(axes.texts) == ["90", "98", "10"]  # 2 % has no room for its number


def test_bonus_lines_name_their_variants():
    for end in (0.5, math.inf):
        figure = plots.bonus_lines([0.0, 1.0], [-0.2, 0.4], [-0.5, 0.1], [0.1, end], {"none": 0.0})
        (axes,) = figure.axes
        assert texts(axes.texts) == ["none, b = 0"]
        assert axes.get_ylim() == pytest.approx((-0.5, 0.7)) and pixels(figure).size


def test_a_strip_has_scene_view_and_crops_with_numbered_boxes():
    episode = made(3, scenes=3)[2]
    figure = plots.episode_strip(episode, crops=3, title="After: ")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["scene", "the model's view", "zoom 1", "zoom 2", ""]
    scene = figure.axes[0]
    assert texts(scene.texts) == ["zoom 1", "zoom 2"]
    target, *calls = scene.patches
    assert target.get_linestyle() == "--" and [c.get_linestyle() for c in calls] == ["-", "-"]
    for patch, (x1, y1, x2, y2) in zip(
        scene.patches, episode.sample["boxes_px"] + episode.boxes_px
    ):
        assert patch.get_bbox().bounds == pytest.approx((x1, y1, x2 - x1, y2 - y1))
    assert len(figure.axes[2].get_images()) == 1 and not figure.axes[4].get_images()
    assert pixels(figure).std() > 10


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_text_in_a_figure_is_text():
    (episode,) = made(1)
    for text in TEXTS:
        episode.answer = text
        episode.sample |= {"question": text, "answer": text}
        episode.correct = False
        figure = plots.episode_strip(episode)
        assert pixels(figure).shape[1] < 400
        title = figure.subfigs[0].get_suptitle()
        assert len(title) < 250 and "\n" not in title
        assert plots.plain(text, 20).count("$") == plots.plain(text, 20).count("\\$")
        ((tag, attributes),) = Reader(plots.image_tag(plots.curves(history(2)), text, dpi=20)).tags
        assert tag == "img" and attributes["alt"] == text
