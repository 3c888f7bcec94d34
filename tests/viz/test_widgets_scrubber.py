"""TrainingScrubber, driven in Python."""

import shutil

import pytest

from deepeyes_lite.trajectories import write_jsonl
from deepeyes_lite.viz.plots import png
from deepeyes_lite.viz.snapshots import scenes
from deepeyes_lite.viz.widgets import TrainingScrubber
from episodes import HOSTILE, LONG, made, parts, recorded_run, shown

CONFIG = {"data": "", "legible_share": 0.5}


@pytest.fixture
def run(tmp_path):
    return recorded_run(tmp_path / "run")


def test_the_slider_goes_over_the_steps(run):
    scrubber = TrainingScrubber(run)
    assert (scrubber.step.min, scrubber.step.max, scrubber.step.value) == (0, 12, 12)
    for step, row, recorded, right in ((0, 1, 0, 0), (4, 4, 0, 0), (5, 5, 5, 3), (12, 12, 10, 5)):
        scrubber.step.value = step
        assert scrubber.row["step"] == row
        assert len(scrubber.episodes) == 6 and sum(t.correct for t in scrubber.episodes) == right
        assert all(t.images for t in scrubber.episodes)
        assert f"Step {recorded}." in shown(scrubber)
        assert f"scenes after step {recorded}: {right} right" in scrubber.alt


def test_the_cursor_stands_at_the_step(run):
    scrubber = TrainingScrubber(run)
    scrubber.step.value = 7
    figure = scrubber.picture()
    above, below = figure.subfigs
    assert len(above.axes) == 4 and len(below.axes) == 6
    for axes in above.axes:
        assert list(axes.get_lines()[-1].get_xdata()) == [7, 7]
    assert sum(axes.get_title().endswith("(right)") for axes in below.axes) == 3
    assert png(figure, 30) and "at step 7 of 12" in scrubber.alt
    assert scrubber.alt.split(".")[0] in parts(scrubber)[0].value


def test_several_runs(run, tmp_path):
    other = recorded_run(tmp_path / "other", steps=3)
    shutil.rmtree(other / "snapshots")
    scrubber = TrainingScrubber(run, other)
    scrubber.run.value = str(other)
    assert (scrubber.step.min, scrubber.step.max, scrubber.step.value) == (1, 3, 3)
    assert scrubber.episodes == [] and "recorded no scenes" in shown(scrubber)
    assert len(scrubber.picture().axes) == 4
    scrubber.run.value = str(run)
    assert scrubber.step.max == 12 and len(scrubber.episodes) == 6


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_hostile_policy_writes_text(run):
    episodes = made(6, text=HOSTILE)
    for t, name in zip(episodes, scenes(CONFIG)["id"]):
        t.sample |= {"id": name, "question": HOSTILE, "answer": HOSTILE}
        t.answer = HOSTILE if name.endswith("0") else LONG
    write_jsonl(episodes, run / "snapshots" / "0010.jsonl")
    scrubber = TrainingScrubber(run)
    assert HOSTILE in shown(scrubber) and len(shown(scrubber)) < 30_000
