"""card.py: what the card measures, and where it writes it."""

import json
import math

import pytest

from deepeyes_lite.evaluation import average, share
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.pretraining import card
from deepeyes_lite.tinyworld.pretraining.card import (
    MARK,
    measure,
    pointed_boxes,
    table,
    target_crop,
)
from deepeyes_lite.tinyworld.pretraining.lessons import readable
from deepeyes_lite.tinyworld.questions import KINDS, label_of
from deepeyes_lite.tinyworld.scenes import draw_scene
from deepeyes_lite.trajectories import Trajectory, Turn

HALF, ENDS = share(1, 2), ("_legible", "_illegible")
HALVES = [name + half for name in ("accuracy", "p_zoom", "p_direct") for half in ("", *ENDS)]
FIGURES = {
    "scenes": 4,
    "split": "validation",
    "crop_reading": share(3, 4),
    "grounding_iou": average([0.5, 0.7]),
    "view_reading_legible": share(2, 2),
    "view_reading_illegible": share(0, 2),
    "rollout": dict.fromkeys(["format", "call_rate", *HALVES], HALF) | {"call_iou": average([])},
    "kinds": {kind: dict.fromkeys(("view", "shown", "rollout"), HALF) for kind in KINDS},
}


@pytest.fixture(scope="module")
def rows():
    return list(tiny_world("validation", 40))


def test_the_crop_to_be_read_shows_the_letter_of_the_object_in_the_question(rows):
    for index, row in enumerate(rows):
        scene = draw_scene("validation", index)
        (target,) = (o for o in scene.objects if list(o.box_px) == row["boxes_px"][0])
        x1, y1, x2, y2 = target.box_px
        assert label_of(row) == target.name and max(target_crop(row).size) <= x2 - x1 + 20
        assert readable(target, (x1 - 8, y1 - 8, x2 + 8, y2 + 8))


def test_the_box_in_an_answer_is_compared_with_the_target(rows):
    answers = {"[250, 250, 500, 500]": 1.0, "[0, 0, 500, 500]": 0.25, "[500, 500, 750, 750]": 0.0}
    hostile = [None, "", "here", "[250, 250, 500]", '["a", 250, 500, 500]', "[NaN, 250, 500, 500]"]
    hostile += ["[1e999, 250, 500, 500]", "[500, 500, 250, 250]", "[" * 100_000, "{}"]
    for answer, expected in (answers | dict.fromkeys(hostile, 0.0)).items():
        sample = {"boxes_px": [[96, 96, 192, 192]]}
        episode = Trajectory(sample=sample, images=[rows[0]["image"]], answer=answer)
        episode.turns = [Turn("")]
        episode.turns[0].boxes_px = pointed_boxes(episode)
        assert (episode.best_iou or 0.0) == pytest.approx(expected), answer


def test_random_weights_can_be_measured(random_eyes):
    figures = measure(random_eyes, n=4)
    assert figures.keys() == FIGURES.keys()
    assert figures["rollout"].keys() >= FIGURES["rollout"].keys()
    legible, illegible = (figures[f"view_reading{end}"]["n"] for end in ENDS)
    assert legible + illegible == 4 == figures["crop_reading"]["n"]
    assert figures["crop_reading"]["mean"] == 0.0
    assert math.isnan(figures["rollout"]["call_iou"]["mean"])
    assert len(table(figures).splitlines()) == 2 + 7 + 9 + 3 + len(KINDS)


def test_the_card_goes_between_the_marks_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "measure", lambda folder, n: FIGURES)
    lines = table(FIGURES).splitlines()
    assert "| reads the letter in the target's crop | 0.750 | 0.301 – 0.954 | 4 |" in lines
    assert "| chart | 50 % [9, 91] | 50 % [9, 91] | 50 % [9, 91] | 2 |" in lines
    readme = tmp_path / "README.md"
    readme.write_text(f"# tiny-eyes\n\n{MARK}\nold\n{MARK}\n\nThe end.\n")
    for _ in range(2):  # twice is once
        assert card.write_card(tmp_path) == FIGURES
        expected = f"# tiny-eyes\n\n{MARK}\n{table(FIGURES)}\n{MARK}\n\nThe end.\n"
        assert readme.read_text() == expected
    assert json.loads((tmp_path / "card.json").read_text())["crop_reading"] == share(3, 4)
    readme.unlink()
    card.write_card(tmp_path)  # a folder without a README gets the record only
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]
