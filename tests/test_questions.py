"""questions.py: a question's answer and boxes are those of the scene."""

import random

from deepeyes_lite.tinyworld.questions import KINDS, read
from deepeyes_lite.tinyworld.scenes import draw_scene


def test_read_asks_for_a_letter_of_the_scene_and_knows_it():
    for index in range(40):
        scene = draw_scene("test", index)
        question = read(scene, random.Random(index))
        (target,) = (o for o in scene.objects if o.name in question.text)
        assert question.text == f"What letter is on the {target.name}?"
        assert question.answer == target.letter
        assert question.boxes_px == (target.box_px,)
        assert question.legible == target.legible


def test_the_same_generator_gives_the_same_question():
    scene = draw_scene("test", 1)
    assert read(scene, random.Random(5)) == read(scene, random.Random(5))


def test_every_object_is_asked_about_equally_often():
    scene = draw_scene("test", 2)
    rng = random.Random(0)
    asked = [read(scene, rng).boxes_px[0] for _ in range(200 * len(scene.objects))]
    for thing in scene.objects:
        assert 140 <= asked.count(thing.box_px) <= 260  # 200 +- 4 standard deviations


def test_the_question_does_not_tell_whether_the_letter_is_legible():
    texts = {True: set(), False: set()}
    for index in range(300):
        question = read(draw_scene("test", index), random.Random(index))
        texts[question.legible].add(question.text)
    assert len(texts[True] & texts[False]) > 20


def test_every_kind_says_its_name():
    scene = draw_scene("test", 0)
    for name, kind in KINDS.items():
        assert kind(scene, random.Random(0)).kind == name
