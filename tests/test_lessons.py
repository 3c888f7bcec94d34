"""lessons.py: labels are where the objects are, and no episode is chosen for its success."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.boxes import iou, px_from_1000
from deepeyes_lite.prompts import tool_call
from deepeyes_lite.tinyworld import lessons
from deepeyes_lite.tinyworld.lessons import (
    CELLS,
    LEGIBLE_TARGETS,
    Images,
    anywhere,
    around,
    corpus,
    dense_labels,
    long_sample,
    readable,
    short_sample,
    speak,
    to_view,
)
from deepeyes_lite.tinyworld.pretrain import PLAN
from deepeyes_lite.tinyworld.scenes import (
    COLORS,
    LETTERS,
    SHAPES,
    Scene,
    SceneObject,
    draw_scene,
)

SCENES = [draw_scene("pretrain", index) for index in range(60)]
WHOLE = (0.0, 0.0, 384.0, 384.0)


def text_of(sample):
    return "".join(text for text, _ in sample.parts)


GOOD = max(stage.good for stage in PLAN)  # the least clumsy episodes of the plan


def episodes(scenes, seed=0, n=1):
    """(scene, sample, images) of clumsy tool episodes only, of the least clumsy sort."""
    rng = random.Random(seed)
    for scene in scenes:
        for _ in range(n):
            images = Images()
            view = images.add(scene)[0]
            yield scene, long_sample(scene, view, images, rng, captions=0.0, good=GOOD), images


# --- dense labels -------------------------------------------------------------------------------


def thing(box_px, letter_px=46, shape="square"):
    return SceneObject("blue", shape, "K", letter_px, letter_px > 40, box_px)


def labels_of(objects, window=WHOLE):
    return dense_labels(Scene(Image.new("RGB", (384, 384)), tuple(objects)), window)


def test_every_token_under_an_object_has_its_labels_and_no_other():
    # One merged token covers 64 px of the scene: the box covers tokens 2 and 3 across, 1 down.
    labels = labels_of([thing((128, 64, 256, 128))])
    on = [CELLS + 2, CELLS + 3]
    blue, square = list(COLORS).index("blue") + 1, list(SHAPES).index("square") + 1
    assert np.flatnonzero(labels.color).tolist() == np.flatnonzero(labels.shape).tolist() == on
    assert labels.color[on].tolist() == [blue] * 2 and labels.shape[on].tolist() == [square] * 2
    assert labels.box[on].tolist() == [[2, 1, 4, 2]] * 2
    assert (labels.box[labels.color == 0] == 0).all()


def test_the_letter_is_labelled_on_the_tokens_around_it_if_it_can_be_read():
    for letter_px, there in ((46, True), (12, False)):
        labels = labels_of([thing((128, 64, 192, 128), letter_px)])
        assert (labels.letter[CELLS + 2] == LETTERS.index("K")) == there
        assert (labels.letter >= 0).sum() == int(there)


def test_in_a_crop_the_small_letter_has_its_label():
    box = (130, 66, 190, 126)
    labels = labels_of([thing(box, letter_px=12)], window=(120.0, 56.0, 200.0, 136.0))
    found = np.flatnonzero(labels.letter >= 0)
    assert len(found) == 4  # the letter stands where four tokens meet
    middle = (CELLS / 2 - 1) * CELLS + CELLS / 2 - 1
    assert found.tolist() == [middle, middle + 1, middle + CELLS, middle + CELLS + 1]
    x1, y1, x2, y2 = (v * 6 / 80 for v in (10, 10, 70, 70))
    assert labels.box[found[0]] == pytest.approx([x1, y1, x2, y2])


def test_of_two_objects_on_a_token_the_larger_part_counts():
    red = replace(thing((128, 64, 148, 128)), color="red")
    for objects in ([thing((148, 64, 192, 128)), red], [red, thing((148, 64, 192, 128))]):
        assert labels_of(objects).color[CELLS + 2] == list(COLORS).index("blue") + 1


def test_an_edge_of_an_object_does_not_label_a_token():
    assert not labels_of([thing((120, 64, 136, 128))]).color[CELLS + 1 : CELLS + 3].any()


def test_labels_of_a_whole_scene_find_every_object():
    for scene in SCENES:
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
        for o in scene.objects:
            x1, y1, x2, y2 = around(o, rng, margin=24, shake=12)
            assert 0 <= x1 < x2 <= 384 and 0 <= y1 < y2 <= 384
            assert x1 <= o.box_px[0] + 12 and x2 >= o.box_px[2] - 12
            assert x1 >= o.box_px[0] - 36 and x2 <= o.box_px[2] + 36


def test_a_clumsy_box_is_anywhere():
    rng = random.Random(0)
    boxes = np.array([anywhere(rng) for _ in range(2000)])
    assert boxes.min() >= 0 and boxes.max() <= 384
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 56 and sides.max() <= 176
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    assert centres.mean(0) == pytest.approx([192, 192], abs=10)


def test_a_spoken_box_is_rounded_to_tens():
    assert speak((0, 96, 191, 384)) == [0, 250, 500, 1000]


def test_a_view_is_what_the_image_processor_makes(processor):
    from deepeyes_lite.tinyworld.model import patchify

    for box in (WHOLE, (10, 20, 77, 87), (0, 0, 28, 28)):
        image = SCENES[0].image.crop([round(v) for v in box])
        ours, _ = patchify(to_view(image)[None])
        theirs = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        assert (ours - theirs).abs().max() < 1e-5


def test_a_large_letter_at_the_edge_of_the_scene_is_readable():
    """This triangle's letter seems to reach over the edge: no crop would show it, in any number."""
    (edge,) = (o for o in draw_scene("pretrain", 4006461).objects if o.color == "purple")
    assert edge.letter_xy[1] + 0.45 * edge.letter_px > 384
    assert readable(edge, WHOLE) and readable(edge, (0, 300, 84, 384))
    assert not readable(edge, (0, 300, 84, 370))


# --- conversations ------------------------------------------------------------------------------


def test_the_box_of_a_clumsy_episode_does_not_know_the_letters():
    rng = random.Random(5)
    for scene in SCENES[:30]:
        other = Scene(
            scene.image,
            tuple(
                replace(o, letter=rng.choice(LETTERS), letter_px=rng.randint(5, 60))
                for o in scene.objects
            ),
        )
        seed = rng.random()
        for n in range(5):
            (_, a, _), (_, b, _) = (next(episodes([s], seed=f"{seed} {n}")) for s in (scene, other))
            assert a.parts[:3] == b.parts[:3]


def test_a_box_is_drawn_once_for_every_clumsy_episode(monkeypatch):
    """A box that was drawn again until it showed the letter would be an episode that was chosen."""
    drawn = {"around": 0, "anywhere": 0}
    for name in drawn:
        real = getattr(lessons, name)

        def count(*args, _name=name, _real=real, **kwargs):
            drawn[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(lessons, name, count)
    n = len(list(episodes(SCENES, n=5)))
    assert drawn["around"] + drawn["anywhere"] == n
    assert abs(drawn["around"] - n * GOOD) <= 4 * (n * GOOD * (1 - GOOD)) ** 0.5


def test_most_boxes_of_clumsy_episodes_are_off_target():
    overlaps = []
    for scene, sample, _ in episodes(SCENES, n=3):
        asked = next(o for o in scene.objects if f"on the {o.name}?" in text_of(sample))
        call = sample.parts[1][0]
        (spoken,) = (b for b in _boxes_in(call))
        assert tool_call({"bbox_2d": spoken, "label": asked.name}) in call
        overlaps.append(iou(px_from_1000(spoken, (384, 384)), asked.box_px))
    assert np.mean(overlaps) < 0.3
    assert np.mean([v < 0.1 for v in overlaps]) > 0.5


def _boxes_in(text):
    start = text.index("[")
    yield [int(v) for v in text[start + 1 : text.index("]")].split(",")]


def test_the_letter_is_taught_only_where_it_can_be_known():
    known = unknown = 0
    for scene, sample, images in episodes(SCENES, n=4):
        asked = next(o for o in scene.objects if f"on the {o.name}?" in text_of(sample))
        letter, weight = sample.parts[4]
        shown = (images.labels[1].letter >= 0).any()
        if weight:
            assert letter == asked.letter and weight == 3.0
            known += 1
        else:
            assert not asked.legible and letter in LETTERS
            unknown += 1
        if not asked.legible and not shown:
            assert weight == 0
    assert known > 50 and unknown > 10


def test_every_other_reply_is_true():
    rng = random.Random(1)
    for scene in SCENES:
        for _ in range(4):
            images = Images()
            sample = short_sample(scene, images.add(scene)[0], images, rng)
            text = text_of(sample)
            asked = next(o for o in scene.objects if f"the {o.name}?" in text)
            expected = str(speak(asked.box_px)) if "Where is" in text else asked.letter
            assert f"<answer>{expected}</answer>" in text
            if sample.views == [1]:  # a crop, which shows the letter
                assert images.labels[1].letter.max() == LETTERS.index(asked.letter)
        caption = text_of(long_sample(scene, 0, Images(), rng, captions=1.0))
        for o in scene.objects:
            assert (
                f"{o.name} " + (f'"{o.letter}" ' if o.legible else "") + str(speak(o.box_px))
                in caption
            )


def test_calls_do_not_depend_on_whether_the_letter_is_legible():
    """Legible targets are as frequent with a call as without, or a habit of choosing were taught."""
    rng = random.Random(2)
    shares = []
    for make in (
        lambda scene: next(episodes([scene], seed=rng.random()))[1],
        lambda scene: short_sample(scene, 0, Images(), _Direct(rng.random())),
    ):
        asked = []
        for scene in SCENES * 4:
            text = text_of(make(scene))
            legible = {o.legible for o in scene.objects}
            if len(legible) == 2:  # else there is no choice
                asked.append(next(o.legible for o in scene.objects if f"on the {o.name}?" in text))
        shares.append(np.mean(asked))
        bound = 4 * (LEGIBLE_TARGETS * (1 - LEGIBLE_TARGETS) / len(asked)) ** 0.5
        assert abs(shares[-1] - LEGIBLE_TARGETS) < bound


class _Direct(random.Random):
    """Its first number makes `short_sample` ask about the view."""

    first = True

    def random(self):
        if self.first:
            self.first = False
            return 0.99
        return super().random()


def test_images_and_labels_go_together():
    images = Images()
    rng = random.Random(3)
    for scene in SCENES[:20]:
        view, _ = images.add(scene)
        for _ in range(3):
            sample = short_sample(scene, view, images, rng)
            assert max(sample.views) < len(images.views)
    assert len(images.views) == len(images.labels)
    assert {view.shape for view in images.views} == {(96, 96, 3)}


def test_readable_means_inside_and_large_enough():
    o = thing((100, 100, 160, 160), letter_px=12)
    assert not readable(o, WHOLE)
    assert readable(o, (90, 90, 170, 170))
    assert not readable(o, (130, 90, 210, 170))  # cut through the letter
    assert readable(thing((100, 100, 160, 160), letter_px=46), WHOLE)


def test_the_corpus_is_the_same_every_time_and_has_all_letters():
    a, b = list(corpus(3, seed=0)), list(corpus(3, seed=0))
    assert a == b != list(corpus(3, seed=1))
    assert len(a) == 20_006
