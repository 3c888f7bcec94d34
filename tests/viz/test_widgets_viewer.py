"""TrajectoryViewer, driven in Python."""

import base64
import re
from urllib.parse import unquote

import pytest
from ipywidgets import Checkbox, Label, Select
from matplotlib.figure import Figure

from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import write_jsonl
from deepeyes_lite.viz.plots import png
from deepeyes_lite.viz.widgets import TrajectoryViewer
from deepeyes_lite.viz.widgets.trajectory_viewer import SORTS
from episodes import HOSTILE, Reader, button, hostile, made, parts, shown


@pytest.fixture
def viewer():
    """Twelve episodes of six scenes: every second right, with 0, 1 or 2 zooms in turn."""
    return TrajectoryViewer(made())


@pytest.fixture
def pair():
    return TrajectoryViewer({"base": made(6), "trained": made(6, right=lambda i: i < 4)})


def choose(viewer, index):
    (episodes,) = parts(viewer, Select)
    episodes.index = index


def test_everything_is_there_until_outcome_and_call_are_filtered(viewer):
    text = shown(viewer)
    assert len(viewer.passing) == 12 and "12 of 12 episodes" in text and "50 %" in text
    label, _ = parts(viewer, Select)[0].options[0]
    assert label == f"test-0: {viewer.passing[0].answer} (right), 0 zooms"
    assert "answers" in text and "reward" in text
    viewer.correct.value = "right"
    assert len(viewer.passing) == 6 and all(t.correct for t in viewer.passing)
    viewer.called.value = "with a zoom"
    assert viewer.passing and all(t.correct and t.called for t in viewer.passing)
    viewer.correct.value, viewer.called.value = "wrong", "without"
    assert viewer.passing and not any(t.correct or t.called for t in viewer.passing)


def test_filter_by_kind_and_text():
    others = made(3, text="Nothing of NOTE")
    for t in others:
        t.sample = {**t.sample, "id": "other " + t.sample["id"], "kind": "other"}
    viewer = TrajectoryViewer(made(6) + others)
    for control, value in ((viewer.kind, "other"), (viewer.contains, "of note")):
        control.value = value
        assert len(viewer.passing) == 3
        viewer.kind.value = "any"
    viewer.contains.value = "of not[e]"  # a text, not a pattern
    assert viewer.passing == [] and viewer.episodes == {}
    assert "No episode passes" in shown(viewer) and button(viewer, "Make a page").disabled
    with pytest.raises(ValueError, match="no episode passes the filters"):
        viewer.page()
    viewer.contains.value = ""
    assert len(viewer.passing) == 9 and viewer.episodes


def test_filter_by_iou_and_sorts(viewer):
    overlaps = sorted(t.best_iou for t in viewer.passing if t.best_iou is not None)
    middle = overlaps[len(overlaps) // 2]
    viewer.iou_from.value = middle
    assert sorted(t.best_iou for t in viewer.passing) == [v for v in overlaps if v >= middle]
    viewer.iou_to.value = middle
    assert {t.best_iou for t in viewer.passing} == {middle}
    viewer.iou_from.value, viewer.iou_to.value = 0, 1
    ordered = {}
    for name in SORTS:
        viewer.sort.value = name
        ordered[name] = viewer.passing
        assert len(ordered[name]) == 12
    low = [t.best_iou for t in ordered["lowest IoU first"]]
    assert low == overlaps + [None] * 4  # without a zoom come last
    assert [t.best_iou for t in ordered["highest IoU first"]] == overlaps[::-1] + [None] * 4
    calls = [len(t.boxes_px) for t in ordered["most zooms first"]]
    assert calls == sorted(calls, reverse=True)


def test_steps_turn_by_turn(viewer):
    viewer.sort.value = "most zooms first"
    choose(viewer, 0)
    back, forth = button(viewer, "Previous turn"), button(viewer, "Next turn")
    (step,) = parts(viewer, Label)
    assert step.value == "turns 1 to 3 of 3" and forth.disabled
    back.click()
    assert "Turn 3" not in shown(viewer) and "reward" not in shown(viewer)
    back.click()
    assert "zoom 1" in shown(viewer) and "zoom 2" not in shown(viewer) and back.disabled
    viewer.step(-1)
    assert step.value == "turns 1 to 1 of 3"
    forth.click()
    assert step.value == "turns 1 to 2 of 3" and "zoom 2" in shown(viewer)


def test_the_reward_follows_the_variant_and_tokens_come_on_demand(viewer):
    viewer.called.value, viewer.correct.value = "with a zoom", "right"
    assert "bonus, right and zoomed+1.20" in shown(viewer)
    viewer.variant.value = "unconditional"
    assert "bonus, zoomed+0.40" in shown(viewer) and "mask 1" not in shown(viewer)
    parts(viewer, Checkbox)[0].value = True
    assert "mask 1" in shown(viewer) and "#5#6#7#8" in shown(viewer)
    # Curiosity sees the group: of four episodes of a scene two call, and of eight one does.
    for n, zooms, bonus in ((4, lambda i: i % 2, None), (8, lambda i: i == 1, "curiosity+0.09")):
        viewer = TrajectoryViewer(made(n, zooms=zooms, scenes=1))
        viewer.variant.value = "curiosity"
        choose(viewer, 1)
        assert (bonus or "reward") in shown(viewer)  # 0.5 * (0.3 - 1/8)
        assert bonus or "curiosity" not in shown(viewer)


def test_two_policies_stand_side_by_side_on_one_sample(pair):
    assert set(pair.episodes) == {"base", "trained"}
    assert len({t.sample["id"] for t in pair.episodes.values()}) == 1
    pair.correct.value = "only trained right"
    assert [t.sample["id"] for t in pair.passing] == ["test-1", "test-3"]
    assert shown(pair).index("(wrong") < shown(pair).index("(right")
    pair.correct.value = "only base right"
    assert [t.sample["id"] for t in pair.passing] == ["test-4"]
    pair.of.value, pair.correct.value = "trained", "right"
    assert len(pair.passing) == 4
    uneven = TrajectoryViewer({"base": made(2), "trained": made(6)})
    assert len(uneven.passing) == 2
    uneven.of.value = "trained"
    assert len(uneven.passing) == 6
    choose(uneven, 5)
    assert set(uneven.episodes) == {"trained"} and shown(uneven).count("What letter") == 1
    with pytest.raises(ValueError, match="no episodes"):
        TrajectoryViewer([])


def test_a_file_gets_its_images_back(tmp_path):
    write_jsonl(made(), tmp_path / "episodes.jsonl")
    rows = tiny_world("test", 6)
    for images in (rows, {row["id"]: row["image"] for row in rows}):
        viewer = TrajectoryViewer(tmp_path / "episodes.jsonl", images)
        viewer.sort.value = "most zooms first"
        choose(viewer, 0)
        (episode,) = viewer.episodes.values()
        assert len(episode.images) == 3 and any("<image " in part.value for part in parts(viewer))
        # Looked at and given back: the memory does not fill with scenes.
        assert not any(t.images for t in viewer.passing)
    without = TrajectoryViewer(str(tmp_path / "episodes.jsonl"))
    assert "The image is not at hand" in shown(without)
    assert isinstance(without.picture(), Figure)


def links(viewer):
    return [part.value for part in parts(viewer) if part.value.startswith("<a ")]


def test_one_episode_goes_out_as_a_page(pair):
    assert all(words in Reader(pair.page()).text for words in ("base", "trained", "Loss mask"))
    button(pair, "Make a page").click()
    (link,) = links(pair)
    start = '<a download="episode-test-0.html" href="data:text/html;charset=utf-8,'
    assert link.startswith(start) and link.endswith('">Download the page</a>')
    assert unquote(link.removeprefix(start).split('"')[0]) == pair.page()
    pair.correct.value = "wrong"
    assert links(pair) == []  # it was another episode's


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_hostile_model_writes_text():
    viewer = TrajectoryViewer({HOSTILE: hostile(), "plain": made(2)})
    parts(viewer, Checkbox)[0].value = True
    (episodes,) = parts(viewer, Select)
    assert len(episodes.options) == 4
    for label, key in episodes.options:
        episodes.value = key
        shown(viewer)  # fails on foreign markup
        assert all(len(re.sub(r"data:[^\"]*", "", part.value)) < 30_000 for part in parts(viewer))
        assert label.encode() and len(label) < 100 and label.isprintable()
        Reader(viewer.page())
        button(viewer, "Make a page").click()
        (link,) = links(viewer)
        assert re.fullmatch(r'<a download="[\w.-]+" href="[^"<>]+">[\w ]+</a>', link)
        assert png(viewer.picture(), 30) and viewer.alt.encode() and len(viewer.alt) < 1000
    for control in (viewer.of, viewer.kind, viewer.correct):
        labels = [option if isinstance(option, str) else option[0] for option in control.options]
        assert all(len(label) < 60 for label in labels)


def test_readers_without_a_kernel_see_a_picture(pair):
    data, metadata = pair._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in data
    assert metadata["image/png"]["alt"] == data["text/plain"] == pair.alt
    assert pair.alt.startswith("Trajectory viewer, 6 episodes. What letter")
    assert "base: answer" in pair.alt and "trained: answer" in pair.alt
