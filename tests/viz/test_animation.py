"""animation.py: a run's record as a picture that moves, and what it says to those who cannot see it."""

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.__main__ import main
from deepeyes_lite.training import HISTORY_COLUMNS, write_history
from deepeyes_lite.trajectories import read_jsonl, write_jsonl
from deepeyes_lite.viz import animation
from deepeyes_lite.viz.snapshots import read_snapshots
from episodes import HOSTILE, recorded_run


def rewrite(folder, change):
    """Each recorded episode through ``change(step, place, episode)``."""
    for path in (folder / "snapshots").glob("*.jsonl"):
        episodes = read_jsonl(path)
        for place, episode in enumerate(episodes):
            change(int(path.stem), place, episode)
        write_jsonl(episodes, path)


@pytest.fixture
def improving(tmp_path):
    """A run whose box in the third scene comes nearer, while all others stay beside the target."""

    def change(step, place, episode):
        episode.correct = True
        x1, y1, x2, y2 = episode.sample["boxes_px"][0]
        far = 100 if place != 2 else 100 - 10 * step
        box = tuple((x + far) % 320 for x in (x1, y1))
        for turn in episode.turns:
            turn.boxes_px = []
        episode.turns[0].boxes_px = [(*box, box[0] + x2 - x1, box[1] + y2 - y1)]

    rewrite(recorded_run(tmp_path / "run"), change)
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


def test_frames_differ_only_where_they_should(improving):
    story = animation.story(improving)
    first, last = (np.asarray(animation.pixels(animation.frame(story, s))) for s in (0, 10))
    assert first.shape == last.shape == (450, 800, 3)
    changed = (first != last).any(-1)
    scene, view = np.s_[53:437, 16:400], np.s_[71:239, 432:600]
    assert not changed[view].any()
    assert 0 < changed[scene].mean() < 0.25  # the box and its name
    early, late = (animation.frame(story, step).axes[3].lines for step in (5, 10))
    for before, after in zip(early, late, strict=True):  # the curves grow and do not move
        assert (len(before.get_xdata()), len(after.get_xdata())) == (5, 10)
        assert after.get_ydata()[:5].tolist() == before.get_ydata().tolist()

    def change(step, place, episode):
        if step < 5:
            episode.turns[0].boxes_px = []

    rewrite(improving, change)  # the first zoom may come late
    story = animation.story(improving)
    assert story.first == 5
    titles = [animation.frame(story, step).axes[2].get_title() for step in (0, 5)]
    assert titles == ["no zoom", "its zoom"]


def test_the_command_writes_a_picture_that_moves_and_one_that_does_not(improving, tmp_path, capsys):
    out = tmp_path / "new"
    assert main(["animate", str(improving), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    times = []
    with Image.open(out / "zoom.gif") as moving:
        for number in range(moving.n_frames):
            moving.seek(number)
            times.append(moving.info["duration"])
        assert moving.size == (800, 450) and moving.info["loop"] == 0  # for ever
    assert times == [animation.FIRST_MS, animation.STEP_MS, animation.LAST_MS]
    assert (out / "zoom.gif").stat().st_size < 1_000_000
    with Image.open(out / "zoom.png") as still:
        assert still.width == 960
    assert sorted(p.name for p in out.iterdir()) == ["zoom.gif", "zoom.png"]
    story = animation.story(improving)
    assert f"at step 10 the zoom has IoU {story.iou(10):.2f}" in text
    assert animation.alt(story) in text and story.question in text
    assert f"right {1 / 12:.2f} → 1.00" in text
    assert main(["animate", str(tmp_path / "none")]) == 1
    assert "no config.json in" in capsys.readouterr().err


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
        episode.turns[0].boxes_px = []

    rewrite(improving, change)
    with pytest.raises(ValueError, match="never zoomed on the scenes of its snapshots"):
        animation.story(improving)
    write_history([], improving / "history.csv")
    with pytest.raises(ValueError, match="no steps yet"):
        animation.story(improving)
