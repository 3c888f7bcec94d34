"""data.py: a data set in our schema, in memory and on disk."""

import pytest
from datasets import Dataset

from deepeyes_lite.data import DEFAULTS, FEATURES, build, load
from deepeyes_lite.tinyworld.dataset import tiny_world


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
    dataset.remove_columns(["need", "options"]).save_to_disk(tmp_path / "older")
    assert load(tmp_path / "older").select_columns([*FEATURES]).to_list() == [
        row | {"need": -1} for row in dataset.to_list()
    ]
    Dataset.from_list([{"question": "?"}]).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"lacks the columns \['answer'"):
        load(tmp_path / "other")
