"""dataset.py: what is named is what is shown, and what is asked for exists."""

from dataclasses import replace

import numpy as np
import pytest

from deepeyes_lite.data import FEATURES
from deepeyes_lite.tinyworld.dataset import tiny_world, training_questions
from deepeyes_lite.tinyworld.scenes import SPLIT_LENGTH, World, draw_scene
from deepeyes_lite.training import RunConfig


def test_tiny_world_shows_the_scene_it_names():
    dataset = tiny_world("test", 3, start=7)
    assert dataset.features == FEATURES
    assert dataset["id"][:] == ["test-7", "test-8", "test-9"]
    for index, sample in zip((7, 8, 9), dataset):
        scene = draw_scene("test", index)
        assert np.array_equal(np.asarray(sample["image"]), np.asarray(scene.image))
        (box_px,) = sample["boxes_px"]
        target = next(thing for thing in scene.objects if list(thing.box_px) == box_px)
        assert sample["question"] == f"What letter is on the {target.name}?"
        assert sample["answer"] == target.letter
        assert sample["legible"] == int(target.legible)
        assert (sample["kind"], sample["source"]) == ("read", "tiny-world")
    raw = dataset.with_format("arrow")[0]["image"][0].as_py()
    assert raw["path"] is None and raw["bytes"][:2] == b"BM"  # a bitmap decodes fast


def test_tiny_world_is_the_same_from_any_start_and_takes_the_dials():
    assert tiny_world("train", 4)[3] == tiny_world("train", 1, start=3)[0]
    assert tiny_world("train", 1)[0] != tiny_world("test", 1)[0]
    assert tiny_world("test", 1, start=SPLIT_LENGTH - 1)["id"][:] == [f"test-{SPLIT_LENGTH - 1}"]
    for share in (0.0, 1.0):
        assert set(tiny_world("test", 8, World(legible_share=share))["legible"]) == {share}


def test_tiny_world_refuses_before_drawing():
    for arguments, message in (
        ({"split": "testing", "n": 1}, "unknown split 'testing'"),
        ({"split": "test", "n": 1, "kind": "colour"}, "unknown kind 'colour'"),
        ({"split": "test", "n": 0}, "n = 0"),
        ({"split": "test", "n": 1, "start": -1}, "scenes -1 to -1"),
        ({"split": "test", "n": 2, "start": SPLIT_LENGTH - 1}, "do not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_world(**arguments)


def test_every_seed_and_share_has_scenes_of_its_own():
    config = RunConfig(steps=3, prompts_per_step=2)
    for seed, share in ((0, 0.0), (1, 1.0)):
        questions = training_questions(replace(config, seed=seed, legible_share=share))
        assert len(questions) == 6 and questions["id"][0] == f"train-{1000 * seed}"
        assert set(questions["legible"]) == {share}
