"""animation.py: a run's record as a picture that moves, and what it says to those who cannot see it."""

import shutil

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.training import HISTORY_COLUMNS, write_history
from deepeyes_lite.trajectories import read_jsonl, write_jsonl
from deepeyes_lite.viz import animation
from deepeyes_lite.viz.snapshots import read_snapshots
from episodes import HOSTILE, recorded_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded_run(tmp_path_factory.mktemp("animation") / "run")


def rewrite(folder, change):
    """Each recorded episode through ``change(step, place, episode)``."""
    for path in (folder / "snapshots").glob("*.jsonl"):
        episodes = read_jsonl(path)
        for place, episode in enumerate(episodes):
            change(int(path.stem), place, episode)
        write_jsonl(episodes, path)


@pytest.fixture
def improving(run, tmp_path):
    """A run whose box in the third scene comes nearer, while all others stay beside the target."""

    def change(step, place, episode):
        episode.correct = True
        x1, y1, x2, y2 = episode.sample["boxes_px"][0]
        far = 100 if place != 2 else 100 - 10 * step
        box = tuple((x + far) % 320 for x in (x1, y1))
        for turn in episode.turns:
            turn.boxes_px = []
        episode.turns[0].boxes_px = [(*box, box[0] + x2 - x1, box[1] + y2 - y1)]

    shutil.copytree(run, tmp_path / "run")
    rewrite(tmp_path / "run", change)
    return tmp_path / "run"


def scene_of(story):
    (name,) = {episode.sample["id"] for episode in story.episodes.values()}
    return name


def test_the_scene_on_which_the_box_improved_most(improving):
    story = animation.story(improving)
    snapshots = read_snapshots(improving / "snapshots")
    assert list(story.episodes) == list(snapshots) == [0, 5, 10]
    assert scene_of(story) == snapshots[0][2].sample["id"]
    assert (story.first, story.last) == (0, 10)

    def change(step, place, episode):
        episode.correct = place == 4 and step == 10

    rewrite(improving, change)  # a scene that was wrong and became right goes first
    assert scene_of(animation.story(improving)) == snapshots[0][4].sample["id"]


def test_the_first_zoom_may_come_late(improving):
    def change(step, place, episode):
        if step < 5:
            episode.turns[0].boxes_px = []

    rewrite(improving, change)
    story = animation.story(improving)
    assert story.first == 5
    assert animation.frame(story, 0).axes[2].get_title() == "no zoom"
    assert animation.frame(story, 5).axes[2].get_title() == "its zoom"


def test_frames_differ_only_where_they_should(improving):
    story = animation.story(improving)
    first, last = (np.asarray(animation.pixels(animation.frame(story, s))) for s in (0, 10))
    assert first.shape == last.shape == (450, 800, 3)
    changed = (first != last).any(-1)
    scene, view = np.s_[53:437, 16:400], np.s_[71:239, 432:600]
    assert not changed[view].any()
    assert 0 < changed[scene].mean() < 0.25  # the box and its name
    assert changed[:, 600:].any()


def test_the_curves_end_at_the_step_and_do_not_move(improving):
    story = animation.story(improving)
    ends = {step: animation.frame(story, step).axes[3] for step in (0, 5, 10)}
    for step, axes in ends.items():
        assert [len(line.get_xdata()) for line in axes.lines] == [step] * len(animation.LINES)
    for early, late in zip(ends[5].lines, ends[10].lines):
        assert late.get_ydata()[:5].tolist() == early.get_ydata().tolist()


def test_what_is_written_is_a_picture_that_moves_and_one_that_does_not(improving, tmp_path):
    text = animation.write(improving, tmp_path / "new")
    with Image.open(tmp_path / "new" / "zoom.gif") as moving:
        times = []
        for number in range(moving.n_frames):
            moving.seek(number)
            times.append(moving.info["duration"])
        assert moving.size == (800, 450) and moving.info["loop"] == 0  # for ever
    assert times == [animation.FIRST_MS, animation.STEP_MS, animation.LAST_MS]
    assert (tmp_path / "new" / "zoom.gif").stat().st_size < 1_000_000
    with Image.open(tmp_path / "new" / "zoom.png") as still:
        assert still.width == 960
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["zoom.gif", "zoom.png"]
    story = animation.story(improving)
    for step in (0, 10):
        assert f"at step {step} the zoom has IoU {story.iou(step):.2f}" in text
    assert story.question in text and f"right {1 / 12:.2f} → 1.00" in text


def test_a_hostile_record_is_drawn_and_what_was_not_measured_is_said(improving, tmp_path):
    def change(step, place, episode):
        episode.answer = ["$\\frac{1}{0$" * 99, HOSTILE, None][step // 5]
        episode.sample["question"] = "$x^$ " + HOSTILE * 50
        episode.correct = False

    rewrite(improving, change)
    row = {**dict.fromkeys(HISTORY_COLUMNS, float("nan")), "n_zoom": 0, "n_direct": 0}
    write_history([{**row, "step": step} for step in (1, 2)], improving / "history.csv")
    text = animation.write(improving, tmp_path / "out")
    assert len(text) < 700 and "no answer" in text
    assert "IoU of the box not measured → not measured" in text


def test_records_that_are_not_enough(improving):
    def change(step, place, episode):
        for turn in episode.turns:
            turn.boxes_px = []

    rewrite(improving, change)
    with pytest.raises(ValueError, match="never zoomed on the scenes of its snapshots"):
        animation.story(improving)
    write_history([], improving / "history.csv")
    with pytest.raises(ValueError, match="no steps yet"):
        animation.story(improving)
    for name in ("history.csv", "config.json"):
        (improving / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"no {name} in"):
            animation.story(improving)
