"""lessons.py: labels are where the objects are, and no episode is chosen for its success."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.boxes import iou
from deepeyes_lite.prompts import tool_call
from deepeyes_lite.tinyworld.pretraining import lessons
from deepeyes_lite.tinyworld.pretraining.lessons import (
    ANSWERS,
    CELLS,
    FORMS,
    GLYPHS,
    LEGIBLE_TARGETS,
    Images,
    anywhere,
    around,
    corpus,
    decode_box,
    dense_labels,
    draw,
    encode_box,
    letter_box,
    long_sample,
    readable,
    short_sample,
    shown,
    to_view,
    visible,
)
from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN
from deepeyes_lite.tinyworld.questions import KINDS
from deepeyes_lite.tinyworld.scenes import COLORS, Scene, SceneObject, draw_scene, unseen

SCENES = [draw(index) for index in range(60)]
WHOLE = (0.0, 0.0, 384.0, 384.0)
AIMED = max(stage.aimed_fraction for stage in PLAN)  # the least clumsy episodes of the plan


def text_of(sample):
    return "".join(text for text, _ in sample.parts)


def window_of(scene):
    return (0.0, 0.0, *map(float, scene.image.size))


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
                images = Images()
                view = images.add(scene)
                sample = long_sample(scene, view, images, rng, 0.0, AIMED, crop_bias)
                yield scene, asked[-1], sample, images


# --- scenes -------------------------------------------------------------------------------------


def test_pretraining_sees_all_sorts_of_scenes_and_no_pair_that_is_kept():
    widths = [scene.image.width for scene in SCENES]
    assert 30 <= widths.count(384) <= 57 and 3 <= widths.count(768) <= 24 and 1536 in widths
    assert any(scene.bars for scene in SCENES) and any(scene.distractors for scene in SCENES)
    for scene in SCENES:
        assert not any(unseen(o.color, o.shape) for o in (*scene.objects, *scene.distractors))
    assert draw(3).image.tobytes() == SCENES[3].image.tobytes()


# --- dense labels -------------------------------------------------------------------------------


def thing(box_px, letter_px=46, shape="square"):
    return SceneObject("blue", shape, "K", letter_px, letter_px > 40, box_px)


def labels_of(objects, window=WHOLE):
    return dense_labels(Scene(Image.new("RGB", (384, 384)), tuple(objects)), window)


def test_every_token_under_an_object_has_its_labels_and_no_other():
    # One merged token covers 64 px of the scene: the box covers tokens 2 and 3 across, 1 down.
    labels = labels_of([thing((128, 64, 256, 128))])
    on = [CELLS + 2, CELLS + 3]
    blue, square = list(COLORS).index("blue") + 1, FORMS.index("square") + 1
    assert np.flatnonzero(labels.color).tolist() == np.flatnonzero(labels.shape).tolist() == on
    assert labels.color[on].tolist() == [blue] * 2 and labels.shape[on].tolist() == [square] * 2
    assert labels.box[on].tolist() == [[2, 1, 4, 2]] * 2
    assert (labels.box[labels.color == 0] == 0).all()


def test_a_letter_is_labelled_on_the_tokens_around_it_if_it_can_be_read():
    for letter_px, there in ((46, True), (12, False)):
        labels = labels_of([thing((128, 64, 192, 128), letter_px)])
        assert (labels.letter[CELLS + 2] == GLYPHS.index("K")) == there
        assert (labels.letter >= 0).sum() == int(there)
    crop = (120.0, 56.0, 200.0, 136.0)
    labels = labels_of([thing((130, 66, 190, 126), letter_px=12)], crop)
    middle = (CELLS / 2 - 1) * CELLS + CELLS / 2 - 1  # the letter stands where four tokens meet
    around_it = [middle, middle + 1, middle + CELLS, middle + CELLS + 1]
    assert np.flatnonzero(labels.letter >= 0).tolist() == around_it
    box = labels.box[int(middle)]
    assert box == pytest.approx([v * 6 / 80 for v in (10, 10, 70, 70)])


def test_of_two_objects_on_a_token_the_larger_part_counts_and_an_edge_is_none():
    red = replace(thing((128, 64, 148, 128)), color="red")
    for objects in ([thing((148, 64, 192, 128)), red], [red, thing((148, 64, 192, 128))]):
        assert labels_of(objects).color[CELLS + 2] == list(COLORS).index("blue") + 1
    assert not labels_of([thing((120, 64, 136, 256))]).color[CELLS + 1 : CELLS + 3].any()


def test_a_distractor_has_its_colour_and_only_in_a_crop_its_shape():
    distractor = replace(thing((150, 90, 166, 106)), letter="", letter_px=0, shape="circle")
    labels = labels_of([distractor])
    (cell,) = np.flatnonzero(labels.color)
    assert cell == CELLS + 2 and labels.shape[cell] == -100
    labels = labels_of([distractor], window=(140.0, 80.0, 180.0, 120.0))
    cells = np.flatnonzero(labels.color)
    assert set(labels.shape[cells]) == {FORMS.index("circle") + 1}
    assert (labels.letter == -100).all()


def test_a_bar_is_labelled_with_its_digit_in_a_crop_only():
    scene = next(scene for scene in SCENES if scene.bars and scene.image.width == 384)
    bar = scene.bars[0]
    x1, y1, x2, y2 = bar.box_px
    middle = (x1 + x2) / 2
    labels = dense_labels(scene, (middle - 40.0, y1 - 10.0, middle + 40.0, y1 + 70.0))
    assert GLYPHS.index(bar.letter) in set(labels.letter[labels.letter >= 0])
    assert FORMS.index("bar") + 1 in set(labels.shape)
    whole = dense_labels(scene, WHOLE)
    assert not set(whole.letter) & {GLYPHS.index(bar.letter) for bar in scene.bars}


def test_labels_of_a_whole_scene_find_every_object():
    for scene in SCENES:
        if scene.image.width > 384:
            continue  # there two small objects may share a token
        labels = dense_labels(scene, WHOLE)
        for o in scene.objects:
            x, y = (o.box_px[0] + o.box_px[2]) / 2, (o.box_px[1] + o.box_px[3]) / 2
            cell = int(y // 64) * CELLS + int(x // 64)
            assert labels.color[cell] == list(COLORS).index(o.color) + 1
            assert labels.box[cell] * 64 == pytest.approx(o.box_px, abs=1e-3)


# --- boxes --------------------------------------------------------------------------------------


def test_a_box_around_an_object_holds_most_of_it_and_stays_inside():
    rng = random.Random(0)
    for scene in SCENES:
        canvas = scene.image.width
        for o in scene.objects:
            x1, y1, x2, y2 = around(o.box_px, rng, 24, 12, canvas)
            assert 0 <= x1 < x2 <= canvas and 0 <= y1 < y2 <= canvas
            assert x1 <= o.box_px[0] + 12 and x2 >= o.box_px[2] - 12
            assert x1 >= o.box_px[0] - 36 and x2 <= o.box_px[2] + 36


def test_a_clumsy_box_is_anywhere_in_its_window():
    rng = random.Random(0)
    for window in (WHOLE, (100.0, 50.0, 300.0, 250.0)):
        side = window[2] - window[0]
        boxes = (np.array([anywhere(rng, window) for _ in range(2000)]) - (window[:2] * 2)) / side
        assert boxes.min() >= 0 and boxes.max() <= 1
        sides = boxes[:, 2:] - boxes[:, :2]
        assert sides.min() >= 0.15 and sides.max() <= 0.45
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        assert centres.mean(0) == pytest.approx([0.5, 0.5], abs=0.03)


def test_a_spoken_box_is_rounded_to_tens_and_heard_in_its_window():
    assert encode_box((0, 96, 191, 384), WHOLE) == [0, 250, 500, 1000]
    window = (100.0, 50.0, 300.0, 250.0)
    assert encode_box((150, 100, 250, 400), window) == [250, 250, 750, 1000]
    assert decode_box([250, 250, 750, 1000], window) == (150, 100, 250, 250)
    rng = random.Random(0)
    for _ in range(50):
        box = anywhere(rng, window)
        assert decode_box(encode_box(box, window), window) == pytest.approx(box, abs=1.01)


def test_a_view_is_what_the_image_processor_makes(processor):
    from deepeyes_lite.tinyworld.model import patchify

    for box in (WHOLE, (10, 20, 77, 87), (0, 0, 28, 28)):
        image = SCENES[0].image.crop([round(v) for v in box])
        ours, _ = patchify(to_view(image)[None])
        theirs = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        assert (ours - theirs).abs().max() < 1e-5


# --- conversations ------------------------------------------------------------------------------


def calls_in(sample):
    return [text for text, _ in sample.parts if "<tool_call>" in text]


def spoken_in(call):
    start = call.index("[")
    return [int(v) for v in call[start + 1 : call.index("]")].split(",")]


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


def test_a_box_is_drawn_once_for_every_call(monkeypatch):
    """A box that was drawn again until it showed the letter would be an episode that was chosen."""
    drawn = {"around": 0, "anywhere": 0}
    for name in drawn:
        real = getattr(lessons, name)

        def count(*args, _name=name, _real=real, **kwargs):
            drawn[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(lessons, name, count)
    calls = sum(len(calls_in(sample)) for _, _, sample, _ in episodes(SCENES, n=4))
    assert drawn["around"] + drawn["anywhere"] == calls
    assert drawn["around"] <= calls * AIMED + 4 * (calls * AIMED * (1 - AIMED)) ** 0.5


def test_most_boxes_of_clumsy_episodes_are_off_target():
    overlaps = []
    for _, question, sample, images in episodes(SCENES, n=3):
        for call, view in zip(calls_in(sample), [sample.views[0]] * 2):
            if question.targets and "image" not in call.split("arguments")[1]:
                box = decode_box(spoken_in(call), images.windows_px[view])
                overlaps.append(max(iou(box, target.box_px) for target in question.targets))
    assert np.mean(overlaps) < 0.35
    assert np.mean([v < 0.1 for v in overlaps]) > 0.5


def test_a_crop_is_of_the_box_that_was_spoken():
    for _, question, sample, images in episodes(SCENES, n=2):
        calls = calls_in(sample)
        assert len(sample.views) == len(calls) + 1
        assert len(calls) == (2 if question.kind in ("compare", "nested") else 1)
        if question.kind == "exists":  # the thing's name would be the answer
            label = f"{question.targets[0].color} shape"
        elif question.kind == "read":
            label = question.targets[0].name
        else:
            label = None
        if label:
            assert tool_call({"bbox_2d": spoken_in(calls[0]), "label": label}) in calls[0]
        for n, call in enumerate(calls):
            on_crop = question.kind == "nested" and n == 1
            assert ('"image": 1' in call) == on_crop
            window = images.windows_px[sample.views[1 if on_crop else 0]]
            x1, y1, x2, y2 = decode_box(spoken_in(call), window)
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
            assert weight == (3.0 if shown(question, windows) else 0.0)
            if shown(question, windows[1:]) or (weight and not crop_bias):
                assert answer == question.answer
                known += 1
            else:
                assert answer in ANSWERS[question.kind]
                assert weight or crop_bias or not question.legible
                unknown += not weight
                misled += bool(weight) and answer != question.answer
        assert known > 30 and unknown > 10 and (misled > 30) == bool(crop_bias)


def test_every_other_reply_is_true(monkeypatch):
    rng, asked = random.Random(1), listen(monkeypatch)
    for scene in SCENES:
        things = [*scene.objects, *scene.distractors, *scene.bars]
        whole = window_of(scene)
        for _ in range(4):
            images, before = Images(), len(asked)
            sample = short_sample(scene, images.add(scene), images, rng, 0.4, 0.3)
            assert max(sample.views) < len(images.views) == len(images.labels)
            assert {view.shape for view in images.views} == {(96, 96, 3)}
            text = text_of(sample)
            if len(asked) > before:
                assert f"{asked[-1].text}<|im_end|>" in text
                assert f"<answer>{asked[-1].answer}</answer>" in text
                if sample.views == [1]:
                    assert shown(asked[-1], [images.windows_px[1]])
                continue
            found = next(o for o in things if f"{o.name}?" in text)
            box = letter_box(found) if "Where is the letter" in text else found.box_px
            spoken = encode_box(box, images.windows_px[sample.views[0]])
            assert f"<answer>{spoken}</answer>" in text
        images = Images()
        caption = text_of(long_sample(scene, images.add(scene), images, rng, 1.0, 0.0))
        for o in scene.objects:
            letter = f'"{o.letter}" ' if o.legible else ""
            assert f"{o.name} {letter}{encode_box(o.box_px, whole)}" in caption


def test_calls_do_not_depend_on_whether_the_letter_is_legible():
    """Legible targets are as frequent with a call as without, or a habit of choosing were taught."""
    rng = random.Random(2)
    for kinds in (lessons.VIEW_KINDS, lessons.CALL_KINDS):
        asked = []
        for scene in SCENES * 8:
            question = lessons.ask(scene, rng, kinds)
            if question.kind == "read" and len({o.legible for o in scene.objects}) == 2:
                asked.append(question.legible)
        # Six tries may all miss what was wanted, so the share is a little nearer to a half.
        assert LEGIBLE_TARGETS - 0.12 < np.mean(asked) < LEGIBLE_TARGETS + 0.08


def test_every_kind_is_taught():
    for kinds in (lessons.VIEW_KINDS, lessons.CALL_KINDS):
        assert {*kinds, "nested"} == set(KINDS)
    kinds = {question.kind for _, question, _, _ in episodes(SCENES, n=6)}
    assert kinds == set(KINDS)


def test_readable_and_visible_mean_inside_and_large_enough():
    o = thing((100, 100, 160, 160), letter_px=12)
    assert not readable(o, WHOLE)
    assert readable(o, (90, 90, 170, 170))
    assert not readable(o, (130, 90, 210, 170))  # cut through the letter
    assert readable(thing((100, 100, 160, 160), letter_px=46), WHOLE)
    assert not readable(replace(o, letter="", letter_px=0), (90, 90, 170, 170))
    small = thing((100, 100, 116, 116))
    assert not visible(small, WHOLE) and visible(small, (90, 90, 130, 130))
    assert not visible(small, (105, 90, 145, 130)) and visible(o, WHOLE)


def test_a_large_letter_at_the_edge_of_the_scene_is_readable():
    """This triangle's letter seems to reach over the edge: no crop would show it, in any number."""
    (edge,) = (o for o in draw_scene("pretrain", 4006461).objects if o.color == "purple")
    assert edge.letter_xy[1] + 0.45 * edge.letter_px > 384
    assert readable(edge, WHOLE) and readable(edge, (0, 300, 84, 384))
    assert not readable(edge, (0, 300, 84, 370))


def test_the_corpus_is_the_same_every_time_and_has_all_letters():
    a, b = list(corpus(3, seed=0)), list(corpus(3, seed=0))
    assert a == b != list(corpus(3, seed=1))
    assert len(a) == 20_006


def test_the_least_thing_can_be_pointed_at_and_cropped():
    for x in (0.0, 89.2, 383.4):
        said = encode_box((x, 250.0, x + 0.5, 262.0), WHOLE)
        assert said[0] < said[2] <= 1000 and said[1] < said[3] <= 1000
        x1, y1, x2, y2 = decode_box(said, WHOLE)
        assert x1 < x2 and y1 < y2
    rng = random.Random(0)
    for _ in range(300):
        x1, y1, x2, y2 = around((100, 100, 108, 108), rng, 0, 12, 384)
        assert x1 <= x2 and y1 <= y2
