"""data.py: a data set in our schema, in memory and on disk."""

import json

import pytest
from datasets import Dataset, Value
from PIL import Image

from deepeyes_lite.data import DEFAULTS, FEATURES, BadRow, build, encode, load
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


def test_a_folder_from_outside_reads_nothing_outside_and_no_image_past_the_door(tmp_path):
    (sample,) = tiny_world("test", 1).to_list()

    def saved(image, name):
        Dataset.from_list([sample | {"image": image}] * 2, FEATURES).save_to_disk(tmp_path / name)
        return tmp_path / name

    good = {"bytes": encode(Image.new("RGB", (64, 32), "red"), "PNG"), "path": "elsewhere.png"}
    dataset = load(saved(good, "good"))
    changed = dataset.add_column("more", [1, 2]).select([1]).remove_columns("more")
    assert dataset[0]["image"].size == changed[0]["image"].size == (64, 32)
    picture = tmp_path / "outside.png"
    Image.new("RGB", (64, 32)).save(picture)
    features = FEATURES.copy()
    features["image"] = {"bytes": Value("binary"), "path": Value("string")}
    rows = [sample | {"image": {"bytes": None, "path": str(picture)}}]
    folder = tmp_path / "path"
    Dataset.from_list(rows, features).save_to_disk(folder)
    with pytest.raises(
        ValueError, match="1 images are not in the data set, .* no path is followed"
    ):
        load(folder)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    for name, data in {"eps": eps, "bomb": encode(Image.new("1", (9000, 9000)), "PNG")}.items():
        dataset = load(saved({"bytes": data, "path": None}, name))
        with pytest.raises(BadRow):
            dataset[0]
        with pytest.raises(BadRow):
            dataset.add_column("prompt", [1, 2])[:1]
    state = tmp_path / "good" / "state.json"
    told = json.loads(state.read_text())
    told["_data_files"][0]["filename"] = "../eps/data-00000-of-00001.arrow"
    state.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="lies outside the folder"):
        load(tmp_path / "good")
