"""trajectories.py: episodes go to JSONL and come back, crops included."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.boxes import View
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.trajectories import Trajectory, Turn, best_iou, read_jsonl, write_jsonl

SAMPLE = {"id": "test-0", "question": "Wo ist „Größe“?\n", "answer": "K", "legible": 0}
TARGET = (96.0, 96.0, 192.0, 192.0)


@pytest.fixture
def episode():
    image = Image.effect_noise((384, 384), 90).convert("RGB")
    tool = ZoomTool(image)
    boxes = ([250, 250, 500, 500], [9, 9, 20, 30])
    crops = [tool.image_zoom_in_tool(box)[0]["image"] for box in boxes]
    return Trajectory(
        sample={**SAMPLE, "boxes_px": [list(TARGET)]},
        images=[image, *crops],
        prompt_ids=[1, 2, 3],
        completion_ids=[4, 5, 6, 7],
        loss_mask=[1, 1, 0, 1],
        turns=[
            Turn("<think>é\u2028\n\t\x00</think>", tool.boxes_px[:1], [], tool.crops_px[:1]),
            Turn("zwei", tool.boxes_px[1:], ["Error: no"], tool.crops_px[1:]),
            Turn("<answer>K</answer>"),
        ],
        answer="K",
        correct=True,
        well_formed=True,
    )


def test_an_episode_comes_back_from_jsonl_with_its_crops(episode, tmp_path):
    path = tmp_path / "episodes.jsonl"
    image, images = episode.images[0], list(episode.images)
    write_jsonl([episode, Trajectory(sample={"id": "other"})], path)
    assert episode.images == images  # writing leaves it as it was
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 3 and all(json.loads(line) for line in lines[:2])
    back, other = read_jsonl(path, {"test-0": image})
    for name in vars(episode):
        if name != "images":
            assert getattr(back, name) == getattr(episode, name), name
    assert back.images[0] is image
    assert [i.size for i in back.images] == [i.size for i in images]
    for ours, theirs in zip(back.images, images):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert other == Trajectory(sample={"id": "other"})
    bare = read_jsonl(path)[0]  # without images the figures are there
    assert (bare.images, bare.called, bare.best_iou) == ([], True, 1.0)


def test_crops_that_keep_the_aspect_are_cut_again_as_they_were_and_older_files_hold_squares(
    episode, tmp_path
):
    image = episode.images[0]
    tool = ZoomTool(image, view=View(64, 10**6, 1))
    crops = [tool.image_zoom_in_tool(b)[0]["image"] for b in ([0, 0, 500, 100], [9, 9, 20, 30])]
    turns = [Turn("!", [b], [], [c]) for b, c in zip(tool.boxes_px, tool.crops_px)]
    write_jsonl([replace(episode, turns=turns)], tmp_path / "new.jsonl")
    (back,) = read_jsonl(tmp_path / "new.jsonl", {"test-0": image})
    assert [i.tobytes() for i in back.images[1:]] == [i.tobytes() for i in crops]
    assert back.images[1].size == (192, 38) and back.images[2].size == (28, 28)
    row = json.loads((tmp_path / "new.jsonl").read_text())
    for turn in row["turns"]:
        del turn["crops_px"]
    (tmp_path / "old.jsonl").write_text(json.dumps(row))
    (back,) = read_jsonl(tmp_path / "old.jsonl", {"test-0": image})
    assert back.images[1].size == (192, 192) and not back.crops_px


def test_a_line_that_is_no_episode_is_named_by_its_number(episode, tmp_path):
    path = tmp_path / "episodes.jsonl"
    write_jsonl([episode], path)
    good = path.read_text(encoding="utf-8")
    row = json.loads(good)
    changes = [{"turns": [{"text": "x"}]}, {"turns": 5}, {"further": 1}]
    changes += [{"sample": sample} for sample in (5, None, [], "x")]
    broken = [json.dumps({**row, **change}) for change in changes]
    broken += [json.dumps({k: v for k, v in row.items() if k != n}) for n in ("turns", "sample")]
    for line in ["{nonsense", "", "[]", "null", good[:-20], *broken]:
        path.write_text(good + line + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"episodes\.jsonl, line 2: not an episode"):
            read_jsonl(path, {"test-0": episode.images[0]})


@pytest.mark.parametrize("box", [(900, 900, 950, 950), ("a", 0, 9, 9), (1, 2)])
def test_a_box_that_was_edited_costs_its_crop_not_the_episode(episode, tmp_path, box):
    episode.turns[0].boxes_px = episode.turns[0].crops_px = [box]
    write_jsonl([episode], tmp_path / "episodes.jsonl")
    (back,) = read_jsonl(tmp_path / "episodes.jsonl", {"test-0": episode.images[0]})
    assert len(back.images) == 2


def test_best_iou_is_the_best_of_all_pairs_and_unknown_without_a_call():
    near, far = (100.0, 96.0, 196.0, 192.0), (0.0, 0.0, 9.0, 9.0)
    assert best_iou([far, near], [far, TARGET]) == 1.0
    assert best_iou([near], [far, TARGET]) == pytest.approx(92 / 100)
    assert best_iou([], [TARGET]) is None and best_iou([near], []) is None
    refused = Trajectory(sample={}, turns=[Turn("x", [], ["Error: no"])])
    assert (refused.called, refused.boxes_px, refused.best_iou) == (False, [], None)
