"""plots.py: every function gives a Figure, and no text of a model breaks one."""

import html
import io
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.evaluation import CONDITIONS, share
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.scenes import COLORS, draw_scene
from deepeyes_lite.training import HISTORY_COLUMNS
from deepeyes_lite.viz.plots import (
    PANELS,
    accuracy_bars,
    bonus_lines,
    curves,
    episode_strip,
    image_tag,
    intervals,
    pass_rate_bars,
    plain,
    png,
    show,
    smooth,
    token_strip,
)

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})
HOSTILE = [
    "<img onerror=alert(1) src=x>",
    '"><script>alert(1)</script>',
    "$x^$",
    "$\\frac{1}{0$",
    "\\$\\$",
    "$$$",
    "K" * 100_000,
    "\n" * 1000,
    "\x00\x1b[31m\u202e",
    "\U0001f600 漢字",
    "{curly} %s %(x)s {0}",
    "",
]


def shown(figure, dpi=30):
    """The figure as pixels, having checked that it is a PNG."""
    data = png(figure, dpi)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def history(n, **changes):
    rows = [dict.fromkeys(HISTORY_COLUMNS, 0.5) for _ in range(n)]
    return [{**row, "step": i, **changes} for i, row in enumerate(rows, 1)]


@pytest.fixture
def episode(processor, samples):
    """A function that rolls out a script on the first sample."""

    def episode(*script):
        policy = ScriptedPolicy(processor, list(script))
        (found,) = rollout([samples[0]], policy, progress=False)
        return found

    return episode


# --- curves and bars ----------------------------------------------------------------------------


def test_curves_have_a_panel_for_each_question_and_a_label_for_each_line():
    figure = curves(history(20))
    assert isinstance(figure, Figure) and shown(figure).size
    for axes, (title, unit, lines) in zip(figure.axes, PANELS, strict=True):
        assert axes.get_title() == title and axes.get_ylabel() == unit
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == [label for _, label in lines]
        styles = [line.get_linestyle() for line in axes.get_lines()[1::2]]
        assert len(set(styles)) == len(styles)  # lines differ without their colours, too


def test_curves_show_the_values():
    rows = history(6, accuracy=0.25)
    figure = curves(rows, window=1)
    thin, thick = figure.axes[0].get_lines()[:2]
    assert list(thin.get_ydata()) == [0.25] * 6 and list(thin.get_xdata()) == list(range(1, 7))
    assert list(thick.get_ydata()) == [0.25] * 6


@pytest.mark.parametrize("rows", [[], history(1), history(3, p_zoom=math.nan, best_iou=math.nan)])
def test_curves_of_little_or_nothing(rows):
    assert shown(curves(rows)).size


def test_smoothing():
    nan = math.nan
    assert smooth([1.0, 2.0, 3.0, 4.0, 5.0], 5).tolist() == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert smooth([1.0, 2.0], 1).tolist() == [1.0, 2.0]
    assert np.isnan(smooth([nan, nan], 3)).all() and smooth([], 5).tolist() == []


def report(legible, illegible):
    figures = {"accuracy_legible": legible, "accuracy_illegible": illegible}
    return {"conditions": {name: figures for name in CONDITIONS}}


def test_bars_have_the_height_of_the_accuracies():
    figure = accuracy_bars(report(share(80, 100), share(10, 40)))
    assert isinstance(figure, Figure) and shown(figure).size
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [0.8] * 5 + [0.25] * 5
    names = [t.get_text().replace("\n", " ") for t in figure.axes[0].get_xticklabels()]
    assert names == list(CONDITIONS)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["80 %"] * 5 + ["25 %"] * 5


@pytest.mark.parametrize("n", [1, 4, 10, 29, 150, 303])
def test_bars_at_the_ends_of_the_scale(n):
    assert shown(accuracy_bars(report(share(n, n), share(0, n)))).size


def test_bars_of_a_half_without_samples():
    assert shown(accuracy_bars(report(share(5, 10), share(0, 0)))).size


# --- episodes -----------------------------------------------------------------------------------


def test_a_strip_has_scene_view_and_crops_with_numbered_boxes(episode):
    found = episode(CALL, CALL, prompts.answer("!", "K"))
    figure = episode_strip(found, crops=3, title="After: ")
    assert [axes.get_title() for axes in figure.axes] == [
        "scene",
        "the model's view",
        "zoom 1",
        "zoom 2",
        "",
    ]
    scene = figure.axes[0]
    assert [text.get_text() for text in scene.texts] == ["zoom 1", "zoom 2"]
    target, *calls = scene.patches
    assert target.get_linestyle() == "--" and [c.get_linestyle() for c in calls] == ["-", "-"]
    x1, y1, x2, y2 = found.sample["boxes_px"][0]
    assert target.get_bbox().bounds == (x1, y1, x2 - x1, y2 - y1)
    x1, y1, x2, y2 = found.boxes_px[0]
    assert calls[0].get_bbox().bounds == pytest.approx((x1, y1, x2 - x1, y2 - y1))
    assert len(figure.axes[2].get_images()) == 1 and not figure.axes[4].get_images()
    assert shown(figure).std() > 10


def test_a_strip_says_how_it_went(episode, samples):
    truth = samples[0]["answer"]
    right = episode_strip(episode(prompts.answer("!", truth))).get_suptitle()
    wrong = episode_strip(episode(prompts.answer("!", "?"))).get_suptitle()
    silent = episode_strip(episode("<think>")).get_suptitle()
    assert right == f"{samples[0]['question']}  {truth} (right)"
    assert wrong.endswith(f"  ? (wrong, it is {truth})")
    assert silent.endswith(f"  no answer (wrong, it is {truth})")


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_text_in_a_strip_is_text(episode, text):
    found = episode(prompts.answer("!", "K"))
    found.answer = text
    found.sample = {**found.sample, "question": text, "answer": text}
    figure = episode_strip(found)
    assert shown(figure).shape[1] < 400
    title = figure.get_suptitle()
    assert len(title) < 250 and "\n" not in title


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_plain_text_is_one_short_line_without_mathematics(text):
    made = plain(text, 20)
    assert len(made.replace("\\$", "$")) <= 21 and made.isprintable()
    assert made.count("$") == made.count("\\$")
    if text.isprintable() and len(text) <= 20:
        assert made.replace("\\$", "$") == text


def test_a_png_keeps_the_colours_of_a_noisy_scene():
    image = draw_scene("test", 3).image
    figure = Figure(figsize=(3.84, 3.84))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()
    seen = shown(figure, dpi=100).astype(int)
    for o in draw_scene("test", 3).objects:
        x, y = (int(o.box_px[0] + o.box_px[2]) // 2, int(o.box_px[1] + o.box_px[3]) // 2)
        part = seen[y - 20 : y + 20, x - 20 : x + 20].reshape(-1, 3)
        nearest = np.abs(part[:, None] - np.array(list(COLORS.values()))).sum(-1).argmin(-1)
        assert (nearest == list(COLORS).index(o.color)).mean() > 0.3, o.name


# --- HTML ---------------------------------------------------------------------------------------


def words(markup):
    """What a browser shows of it, piece by piece; fails on any markup that is not ours."""
    rest = re.sub(r'</?(span|div)( style="[^"<>]*")?>', "\ue000", markup)
    assert "<" not in rest and ">" not in rest
    return [html.unescape(word) for word in rest.split("\ue000") if word.strip()]


def test_tokens_are_coloured_by_their_mask():
    markup = token_strip([("<think>", 1), ("user\n", 0)])
    assert words(markup) == ["<think>", "user⏎"]
    first, second = markup.split("</span>")[:2]
    assert "bold" in first and "bold" not in second  # not by colour alone


def test_placeholders_are_counted():
    pieces = [("a", 1)] + [("<|image_pad|>", 0)] * 36 + [("b", 0)] + [("<|image_pad|>", 0)] * 2
    expected = ["a", "<|image_pad|> × 36", "b", "<|image_pad|> × 2"]
    assert words(token_strip(pieces)) == expected


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_tokens_are_text(text):
    markup = token_strip([(text, 1), ("end", 0)])
    found = words(markup)
    assert found[-1] == "end" and len(markup) < 3000
    if text.strip("\n"):
        assert found[0] == text[:200]


def test_many_tokens_are_cut():
    found = words(token_strip([("x", 1)] * 100_000, limit=50))
    assert found[:-1] == ["x"] * 50 and found[-1].strip() == "… and 99950 more"


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_text_in_the_description_of_an_image_is_text(text):
    tag = image_tag(curves(history(2)), text, dpi=20)
    match = re.fullmatch(r'<img src="data:image/png;base64,[\w+/=]+" alt="([^"<>]*)">', tag)
    assert html.unescape(match[1]) == text


def test_showing_a_figure_says_what_it_shows(capsys):
    show(curves(history(2)), "Two steps.")
    assert "Figure: Two steps." in capsys.readouterr().out


def test_pass_rates_are_counted_and_those_of_a_group_of_equals_are_dropped():
    figure = pass_rate_bars([0.0, 0.0, 0.25, 0.5, 0.5, 0.5, 1.0, math.nan])
    assert shown(figure).size
    heights = {
        round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height()
        for bar in figure.axes[0].patches
    }
    assert heights == {0.0: 2, 0.25: 1, 0.5: 3, 1.0: 1}
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == "kept (4)" and labels[1].endswith("(3)")


@pytest.mark.parametrize("rates", [[], [0.0], [math.nan], [1.0, 1.0]])
def test_pass_rates_that_are_all_alike_make_a_figure(rates):
    assert shown(pass_rate_bars(rates)).size


def test_intervals_say_what_they_draw():
    figure = intervals({"base": share(1, 20), "nobody": share(0, 0)}, "accuracy", line=1 / 12)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "nobody"]
    assert [text.get_text() for text in axes.texts] == ["0.05 [0.01, 0.24]", "not measured"]
    assert axes.get_xlabel() == "accuracy" and axes.lines[-1].get_xdata()[0] == 1 / 12
    shown(figure)


@pytest.mark.parametrize("end", [0.5, math.inf])
def test_bonus_lines_name_their_arms(end):
    figure = bonus_lines([0.0, 1.0], [-0.2, 0.4], [-0.5, 0.1], [0.1, end], {"none": 0.0})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["none, b = 0"]
    assert axes.get_ylim() == pytest.approx((-0.5, 0.7))
    shown(figure)
