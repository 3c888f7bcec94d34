"""lessons.py: labels are where the objects are, and no episode is chosen for its success."""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.prompts import tool_call
from deepeyes_lite.tinyworld.pretraining import lessons
from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN
from deepeyes_lite.tinyworld.questions import KINDS
from deepeyes_lite.tinyworld.scenes import COLORS, Scene, SceneObject, draw_scene, unseen

SCENES = [lessons.draw(index) for index in range(60)]
WHOLE = (0.0, 0.0, 384.0, 384.0)
AIMED = max(stage.aimed_fraction for stage in PLAN)  # the least clumsy episodes of the plan


def text_of(sample):
    return "".join(text for text, _ in sample.parts)


def calls_in(sample):
    return [text for text, _ in sample.parts if "<tool_call>" in text]


def spoken_in(call):
    return json.loads(re.search(r"\[.*?\]", call)[0])


def listen(patch):
    """The questions that are asked from here on."""
    asked, real = [], lessons.ask
    patch.setattr(lessons, "ask", lambda *a: asked.append(real(*a)) or asked[-1])
    return asked


def episodes(scenes, seed=0, n=1, crop_bias=0.0):
    """(scene, question, sample, images) of clumsy tool episodes only, of the least clumsy sort."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        asked = listen(patch)
        for scene in scenes:
            for _ in range(n):
                images = lessons.Images()
                view = images.add(scene)
                sample = lessons.long_sample(scene, view, images, rng, 0.0, AIMED, crop_bias)
                yield scene, asked[-1], sample, images


def test_pretraining_sees_all_sorts_of_scenes_and_no_pair_that_is_kept():
    widths = [scene.image.width for scene in SCENES]
    assert 30 <= widths.count(384) <= 57 and 3 <= widths.count(768) <= 24 and 1536 in widths
    assert any(scene.bars for scene in SCENES) and any(scene.distractors for scene in SCENES)
    for scene in SCENES:
        assert not any(unseen(o.color, o.shape) for o in (*scene.objects, *scene.distractors))
    for kinds in (lessons.VIEW_KINDS, lessons.CALL_KINDS):
        assert {*kinds, "nested"} == set(KINDS)
    assert lessons.draw(3).image.tobytes() == SCENES[3].image.tobytes()
    texts = list(lessons.corpus(3, seed=0))
    assert (
        texts == list(lessons.corpus(3, seed=0)) != list(lessons.corpus(3, seed=1))
        and len(texts) == 20_006
    )


def thing(box_px, letter_px=46, shape="square"):
    return SceneObject("blue", shape, "K", letter_px, letter_px > 40, box_px)


def labels_of(objects, window=WHOLE):
    return lessons.dense_labels(Scene(Image.new("RGB", (384, 384)), tuple(objects)), window)


def test_every_token_under_an_object_has_its_labels_and_no_other():
    # One merged token covers 64 px of the scene: the box covers tokens 2 and 3 across, 1 down.
    labels = labels_of([thing((128, 64, 256, 128))])
    on = [lessons.CELLS + 2, lessons.CELLS + 3]
    blue, square = list(COLORS).index("blue") + 1, lessons.FORMS.index("square") + 1
    assert np.flatnonzero(labels.color).tolist() == np.flatnonzero(labels.shape).tolist() == on
    assert labels.color[on].tolist() == [blue] * 2 and labels.shape[on].tolist() == [square] * 2
    assert labels.box[on].tolist() == [[2, 1, 4, 2]] * 2
    assert (labels.box[labels.color == 0] == 0).all()


def test_a_letter_is_labelled_on_the_tokens_around_it_if_it_can_be_read():
    cells, k = lessons.CELLS, lessons.GLYPHS.index("K")
    for letter_px, there in ((46, True), (12, False)):
        labels = labels_of([thing((128, 64, 192, 128), letter_px)])
        assert (labels.letter[cells + 2] == k) == there and (labels.letter >= 0).sum() == there
    labels = labels_of([thing((130, 66, 190, 126), letter_px=12)], (120.0, 56.0, 200.0, 136.0))
    middle = (cells // 2 - 1) * (cells + 1)  # the letter stands where four tokens meet
    around_it = [middle, middle + 1, middle + cells, middle + cells + 1]
    assert np.flatnonzero(labels.letter >= 0).tolist() == around_it
    assert labels.box[middle] == pytest.approx([v * 6 / 80 for v in (10, 10, 70, 70)])


def test_the_boxes_of_a_clumsy_episode_do_not_know_what_can_be_read():
    """What is to be read may change, and how well: the calls stay."""
    rng = random.Random(5)
    for n, scene in enumerate(SCENES[:30]):
        if scene.image.width > 1000:
            continue  # there the second box is where the letter is, seen or not
        objects = tuple(replace(o, letter_px=rng.randint(5, 60)) for o in scene.objects)
        other = replace(scene, objects=objects)
        for k in range(5):
            (_, _, a, _), (_, _, b, _) = (
                next(episodes([s], seed=f"{n} {k}")) for s in (scene, other)
            )
            assert calls_in(a) == calls_in(b)


def test_a_crop_is_of_the_box_that_was_spoken():
    for _, question, sample, images in episodes(SCENES, n=2):
        calls = calls_in(sample)
        assert len(sample.views) == len(calls) + 1
        assert len(calls) == (2 if question.kind in ("compare", "nested") else 1)
        if question.kind in ("exists", "read"):  # of exists, the shape would be the answer
            target = question.targets[0]
            label = target.name if question.kind == "read" else f"{target.color} shape"
            assert tool_call({"bbox_2d": spoken_in(calls[0]), "label": label}) in calls[0]
        for n, call in enumerate(calls):
            on_crop = question.kind == "nested" and n == 1
            assert ('"image": 1' in call) == on_crop
            window = images.windows_px[sample.views[1 if on_crop else 0]]
            x1, y1, x2, y2 = lessons.heard(spoken_in(call), window)
            shows = images.windows_px[sample.views[n + 1]]
            assert shows[0] - 1 <= x1 and shows[1] - 1 <= y1
            assert shows[2] + 1 >= x2 and shows[3] + 1 >= y2


def test_the_answer_is_taught_only_where_it_can_be_known():
    """With ``crop_bias`` 1, only where a crop shows it, whatever the view shows."""
    for crop_bias in (0.0, 1.0):
        known = unknown = misled = 0
        for _, question, sample, images in episodes(SCENES, n=4, crop_bias=crop_bias):
            answer, weight = sample.parts[-2]
            windows = [images.windows_px[view] for view in sample.views]
            assert weight == (3.0 if lessons.shown(question, windows) else 0.0)
            if lessons.shown(question, windows[1:]) or (weight and not crop_bias):
                assert answer == question.answer
                known += 1
            else:
                assert answer in lessons.ANSWERS[question.kind]
                assert weight or crop_bias or not question.legible
                unknown += not weight
                misled += bool(weight) and answer != question.answer
        assert known > 30 and unknown > 10 and (misled > 30) == bool(crop_bias)


def test_every_other_reply_is_true(monkeypatch):
    rng, asked = random.Random(1), listen(monkeypatch)
    for scene in SCENES:
        things = [*scene.objects, *scene.distractors, *scene.bars]
        whole = (0, 0, *scene.image.size)
        for _ in range(4):
            images, before = lessons.Images(), len(asked)
            sample = lessons.short_sample(scene, images.add(scene), images, rng, 0.4, 0.3)
            assert max(sample.views) < len(images.views) == len(images.labels)
            assert {view.shape for view in images.views} == {(96, 96, 3)}
            text = text_of(sample)
            if len(asked) > before:
                assert f"{asked[-1].text}<|im_end|>" in text
                assert f"<answer>{asked[-1].answer}</answer>" in text
                if sample.views == [1]:
                    assert lessons.shown(asked[-1], [images.windows_px[1]])
                continue
            found = next(o for o in things if f"{o.name}?" in text)
            box = lessons.letter_box(found) if "Where is the letter" in text else found.box_px
            spoken = lessons.speak(box, images.windows_px[sample.views[0]])
            assert f"<answer>{spoken}</answer>" in text
        images = lessons.Images()
        caption = text_of(lessons.long_sample(scene, images.add(scene), images, rng, 1.0, 0.0))
        for o in scene.objects:
            letter = f'"{o.letter}" ' if o.legible else ""
            assert f"{o.name} {letter}{lessons.speak(o.box_px, whole)}" in caption


def test_readable_and_visible_mean_inside_and_large_enough():
    o = thing((100, 100, 160, 160), letter_px=12)
    assert not lessons.readable(o, WHOLE) and lessons.readable(o, (90, 90, 170, 170))
    assert not lessons.readable(o, (130, 90, 210, 170))  # cut through the letter
    assert not lessons.readable(replace(o, letter="", letter_px=0), (90, 90, 170, 170))
    small = thing((100, 100, 116, 116))
    assert not lessons.visible(small, WHOLE) and lessons.visible(small, (90, 90, 130, 130))
    assert not lessons.visible(small, (105, 90, 145, 130)) and lessons.visible(o, WHOLE)
    # This triangle's letter seems to reach over the edge: no crop would show it, in any number.
    (edge,) = (o for o in draw_scene("pretrain", 4006461).objects if o.color == "purple")
    assert lessons.readable(edge, WHOLE) and not lessons.readable(edge, (0, 300, 84, 370))


def test_a_spoken_box_is_rounded_to_tens_and_heard_in_its_window():
    assert lessons.speak((0, 96, 191, 384), WHOLE) == [0, 250, 500, 1000]
    window, rng = (100.0, 50.0, 300.0, 250.0), random.Random(0)
    for box in [lessons.anywhere(rng, window) for _ in range(50)]:
        assert lessons.heard(lessons.speak(box, window), window) == pytest.approx(box, abs=1.01)
    for x in (0.0, 89.2, 383.4):  # the least thing has a side, too
        said = lessons.speak((x, 250.0, x + 0.5, 262.0), WHOLE)
        assert said[0] < said[2] <= 1000 and said[1] < said[3] <= 1000
    for _ in range(300):
        x1, y1, x2, y2 = lessons.around((100, 100, 108, 108), rng, 0, 12, 384)
        assert x1 <= x2 and y1 <= y2
