"""trajectories.py: episodes go to JSONL and come back, crops included."""

import json

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.trajectories import Trajectory, Turn, best_iou, read_jsonl, write_jsonl

SAMPLE = {"id": "test-0", "question": "Wo ist „Größe“?\n", "answer": "K", "legible": 0}
TARGET = (96.0, 96.0, 192.0, 192.0)


@pytest.fixture
def episode():
    image = Image.effect_noise((384, 384), 90).convert("RGB")
    tool = ZoomTool(image)
    crops = [
        tool.image_zoom_in_tool(box)[0]["image"] for box in ([250, 250, 500, 500], [9, 9, 20, 30])
    ]
    return Trajectory(
        sample={**SAMPLE, "boxes_px": [list(TARGET)]},
        images=[image, *crops],
        prompt_ids=[1, 2, 3],
        completion_ids=[4, 5, 6, 7],
        loss_mask=[1, 1, 0, 1],
        turns=[
            Turn("<think>é\u2028\n\t\x00</think>", tool.boxes_px[:1]),
            Turn("zwei", tool.boxes_px[1:], ["Error: no"]),
            Turn("<answer>K</answer>"),
        ],
        answer="K",
        correct=True,
        well_formed=True,
    )


def test_an_episode_comes_back_from_jsonl_with_its_crops(episode, tmp_path):
    path = tmp_path / "episodes.jsonl"
    write_jsonl([episode, Trajectory(sample={"id": "other"})], path)
    image = episode.images[0]
    back, other = read_jsonl(path, {"test-0": image})
    for name in vars(episode):
        if name != "images":
            assert getattr(back, name) == getattr(episode, name), name
    assert back.images[0] is image
    assert [i.size for i in back.images] == [i.size for i in episode.images]
    for ours, theirs in zip(back.images, episode.images):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert other == Trajectory(sample={"id": "other"})


def test_without_images_the_figures_are_there(episode, tmp_path):
    write_jsonl([episode], tmp_path / "episodes.jsonl")
    (back,) = read_jsonl(tmp_path / "episodes.jsonl")
    assert back.images == []
    assert (back.called, back.best_iou) == (True, 1.0)


def test_writing_leaves_the_episode_as_it_was(episode, tmp_path):
    images = list(episode.images)
    write_jsonl([episode], tmp_path / "episodes.jsonl")
    assert episode.images == images


def test_a_file_is_as_many_lines_as_episodes(episode, tmp_path):
    write_jsonl([episode] * 3, tmp_path / "episodes.jsonl")
    lines = (tmp_path / "episodes.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 4 and all(json.loads(line) for line in lines[:3])


def broken(episode, tmp_path, change):
    path = tmp_path / "episodes.jsonl"
    write_jsonl([episode], path)
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        path.read_text(encoding="utf-8") + change(row) + "\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda row: "{nonsense",
        lambda row: "",
        lambda row: "[]",
        lambda row: "null",
        lambda row: json.dumps({k: v for k, v in row.items() if k != "turns"}),
        lambda row: json.dumps({k: v for k, v in row.items() if k != "sample"}),
        lambda row: json.dumps({**row, "turns": [{"text": "x"}]}),
        lambda row: json.dumps({**row, "turns": 5}),
        lambda row: json.dumps({**row, "further": 1}),
        lambda row: json.dumps(row)[:-20],
    ],
)
def test_a_line_that_is_no_episode_is_named_by_its_number(episode, tmp_path, change):
    path = broken(episode, tmp_path, change)
    with pytest.raises(ValueError, match=r"episodes\.jsonl, line 2: not an episode"):
        read_jsonl(path)


@pytest.mark.parametrize("sample", [5, None, [], "x"])
def test_a_sample_that_is_no_object_is_an_error_of_its_line(episode, tmp_path, sample):
    path = broken(episode, tmp_path, lambda row: json.dumps({**row, "sample": sample}))
    with pytest.raises(ValueError, match="line 2: not an episode"):
        read_jsonl(path, {"test-0": episode.images[0]})


@pytest.mark.parametrize("box", [(900, 900, 950, 950), ("a", 0, 9, 9), (1, 2)])
def test_a_box_that_was_edited_costs_its_crop_not_the_episode(episode, tmp_path, box):
    episode.turns[0].boxes_px = [box]
    write_jsonl([episode], tmp_path / "episodes.jsonl")
    (back,) = read_jsonl(tmp_path / "episodes.jsonl", {"test-0": episode.images[0]})
    assert len(back.images) == 2


def test_best_iou_is_the_best_of_all_pairs():
    near, far = (100.0, 96.0, 196.0, 192.0), (0.0, 0.0, 9.0, 9.0)
    assert best_iou([far, near], [far, TARGET]) == 1.0
    assert best_iou([near], [far, TARGET]) == pytest.approx(92 / 100)
    assert best_iou([], [TARGET]) is None
    assert best_iou([near], []) is None


def test_without_an_answered_call_nothing_was_called():
    episode = Trajectory(sample={}, turns=[Turn("x", [], ["Error: no"])])
    assert (episode.called, episode.boxes_px, episode.best_iou) == (False, [], None)
