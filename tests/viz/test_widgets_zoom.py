"""ZoomByHand, driven in Python: a person's episodes are like a model's."""

import re
from types import SimpleNamespace

import pytest
from ipywidgets import Text

from deepeyes_lite import boxes
from deepeyes_lite.data import build
from deepeyes_lite.evaluation import table
from deepeyes_lite.models import ready
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import read_jsonl, write_jsonl
from deepeyes_lite.viz.plots import png
from deepeyes_lite.viz.widgets import ZoomByHand, zoom_by_hand
from deepeyes_lite.viz.widgets.zoom_by_hand import by_hand
from episodes import HOSTILE, LONG, button, made, parts, shown
from shapes import processor_of


@pytest.fixture
def samples():
    return tiny_world("test", 3)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(zoom_by_hand, "time", clock)
    return clock


@pytest.fixture
def widget(samples, processor, clock):
    return ZoomByHand(samples, processor)


def target_1000(row):
    box = boxes.px_to_1000(tuple(row["boxes_px"][0]), row["image"].size)
    return tuple(round(v) for v in box)


def test_a_zoom_of_another_family_keeps_the_aspect_and_speaks_its_frame(samples):
    row = {**samples[0], "image": samples[0]["image"].resize((1200, 900))}
    rows = build([row])
    widget = ZoomByHand(rows, ready(processor_of("Qwen/Qwen2.5-VL-7B-Instruct")))
    widget.start()
    widget.box_1000 = (0, 100, 500, 200)
    widget.zoom()
    assert "600 × 90 px of the image" in shown(widget)
    episode = widget.answer("K")
    assert episode.boxes_px == [pytest.approx((0, 90, 600, 180), abs=1)]
    assert episode.crops_px == [pytest.approx(episode.boxes_px[0], abs=0.5)]


def test_an_episode_by_hand(widget, samples, clock, processor):
    row = samples[0]
    zoom, answer, start = (button(widget, name) for name in ("Zoom", "Answer", "Start"))
    assert answer.disabled and zoom.disabled
    assert row["question"] in widget.alt and "(375, 375, 625, 625)" in widget.alt
    assert widget.picture().axes[0].get_images()[0].get_size() == (96, 96)  # the model's view
    start.click()
    assert start.disabled
    widget.box_1000 = target_1000(row)
    zoom.click()
    clock.now = 12.5
    parts(widget, Text)[0].value = f" {row['answer'].lower()}. "
    answer.click()
    (episode,) = widget.record
    assert episode.correct and episode.well_formed and episode.sample["seconds"] == 12.5
    assert episode.best_iou > 0.8 and len(episode.images) == 2
    # It is the episode that the loop makes of a policy that writes the same.
    script = [turn.text for turn in episode.turns]
    (same,) = rollout([row], ScriptedPolicy(processor, script), progress=False)
    del episode.sample["seconds"]
    for name in ("completion_ids", "loss_mask", "sample", "turns"):
        assert getattr(same, name) == getattr(episode, name)


def test_the_score_tells_answer_reward_and_baseline(samples, processor, clock, tmp_path):
    record = tmp_path / "runs" / "by-hand.jsonl"
    assert by_hand(record) == {}
    widget = ZoomByHand(samples, processor, save_to=record)
    widget.start()
    widget.box_1000 = target_1000(samples[0])
    widget.zoom()
    assert "wrong, it is" not in shown(widget)  # the target is not shown yet
    assert not any("<svg" in part.value for part in parts(widget))
    clock.now = 4.0
    widget.answer(samples[0]["answer"])
    text = shown(widget)
    assert f"answer {samples[0]['answer']} (right), 1 zoom, best IoU" in text and "4.0 s" in text
    assert "accuracy+0.80bonus, right and zoomed+1.20reward+2.00" in text
    assert "You so far: 100 % [21, 100] right of 1" in text and "4.0 s a question" in text
    widget.start()
    clock.now = 6.0
    widget.answer("?")
    text = shown(widget)
    assert f"(wrong, it is {samples[1]['answer']}), 0 zooms" in text and "reward+0.00" in text
    assert "right of 2" in text and "3.0 s a question" in text
    figures = by_hand(record)["you"]
    assert (figures["accuracy"]["mean"], figures["accuracy"]["n"]) == (0.5, 2)
    assert figures["call_iou"]["mean"] > 0.8 and figures["seconds"]["mean"] == 3.0
    assert "you" in table({"samples": 2, "conditions": by_hand(record)})


def test_what_was_answered_is_kept_and_not_asked_again(samples, processor, tmp_path):
    path = tmp_path / "new" / "human.jsonl"
    first = ZoomByHand(samples, processor, save_to=path)
    first.start()
    first.answer("K")
    again = ZoomByHand(samples, processor, save_to=path)
    assert "Question 2 of 3" in shown(again) and len(again.record) == 1
    for _ in range(2):
        again.start()
        again.answer("K")
    assert [t.sample["id"] for t in read_jsonl(path)] == list(samples["id"])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    model = made(3, scenes=3)
    over = ZoomByHand(samples, processor, save_to=path, model=model)
    assert "You 0 of 3, the model 2 of 3." in shown(over) and "✗" in shown(over)
    assert over.answer("K") is None
    assert len(read_jsonl(path)) == 3
    button(over, "Play again").click()
    assert "Question 1 of 3" in shown(over) and over.record == [] and "You 0" not in shown(over)
    over.answer(samples[0]["answer"])
    assert [t.correct for t in read_jsonl(path)] == [True]
    write_jsonl(made(2), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds episodes of a model; choose another file"):
        ZoomByHand(samples, processor, save_to=path)
    assert path.read_bytes() == before


def crops_in(widget):
    return sum(part.value.count("<img ") for part in parts(widget))


def test_cost_and_crop_follow_the_tool(widget, processor):
    widget.start()
    for box in ((5, 5, 5, 5), (0, 0, 0, 1000), (1000, 1000, 1000, 1000)):
        widget.box_1000 = box
        widget.zoom()
        assert "The box is empty" in shown(widget) and crops_in(widget) == 0
        assert png(widget.picture(), 30)
    widget.box_1000 = (0, 0, 250, 250)
    assert "96 × 96 px, 4.0 times as large as in the view" in shown(widget)
    promised = int(re.findall(r"(\d+) tokens", shown(widget))[0])
    widget.zoom()
    widget.zoom()
    assert f"Zooms so far: {2 * promised} tokens" in shown(widget) and crops_in(widget) == 2
    episode = widget.answer("K")
    answer = processor.tokenizer(episode.turns[-1].text + "<|im_end|>", add_special_tokens=False)
    assert len(episode.completion_ids) == 2 * promised + len(answer["input_ids"])


def test_hostile_text_is_text_and_no_answer(samples, processor):
    rows = samples.map(lambda row: {"question": HOSTILE, "answer": HOSTILE})
    widget = ZoomByHand(rows, processor)
    assert HOSTILE in widget.alt  # plain text
    assert HOSTILE not in shown(widget)  # nobody studies the question before the clock runs
    widget.start()
    assert HOSTILE in shown(widget)
    before = len(shown(widget))
    for text in ("", "   ", HOSTILE, LONG, "a\nb", "<|im_end|>", "\u202e", "\ud800"):
        assert widget.answer(text) is None and widget.record == []
        assert "Write the answer alone" in shown(widget) and len(shown(widget)) < before + 200
    widget.answer("K")
    assert shown(widget).count(HOSTILE[:40]) == 2  # in the question, and as its answer


def test_before_the_start_and_after_the_answer_nothing_counts(widget, samples):
    widget.zoom()
    assert widget.answer("K") is None and crops_in(widget) == 0
    widget.start()
    zoom = button(widget, "Zoom")
    for _ in range(8):
        zoom.click()
    assert zoom.disabled and crops_in(widget) == 6
    assert widget.answer(samples[0]["answer"]).correct
    widget.zoom()
    assert widget.answer("K") is None and len(widget.record) == 1
    assert len(widget.record[0].boxes_px) == 6
