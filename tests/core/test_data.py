"""data.py and the tiny world in its schema: what is named is what is shown, and what is asked for exists."""

import numpy as np
import pytest
from datasets import Dataset

from deepeyes_lite.data import DEFAULTS, FEATURES, build, load
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import SPLIT_LENGTH, World, draw_scene


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


def test_a_dataset_is_built_in_memory_or_in_a_file_and_loaded_again(tmp_path):
    (sample,) = tiny_world("test", 1).to_list()
    del sample["options"], sample["verifier"]  # they have defaults
    samples = [sample | {"more": 1}] * 20
    dataset = build(samples)
    assert dataset.features == FEATURES and len(dataset) == 20
    assert {name: dataset[19][name] for name in DEFAULTS} == DEFAULTS
    assert dataset.to_list() == build(iter(samples), tmp_path / "rows.arrow").to_list()
    assert len(build([])) == 0
    dataset.save_to_disk(tmp_path / "set")
    assert load(tmp_path / "set").to_list() == dataset.to_list()
    Dataset.from_list([{"question": "?"}]).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"lacks the columns \['answer'"):
        load(tmp_path / "other")
