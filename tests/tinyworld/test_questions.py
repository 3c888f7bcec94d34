"""questions.py: a question's answer and boxes are those of the scene."""

import random
import re

import pytest

from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.pretraining.lessons import readable
from deepeyes_lite.tinyworld.questions import CORRUPTIONS, KINDS, NEEDS, label_of, read
from deepeyes_lite.tinyworld.scenes import DIGITS, LETTERS, World, draw_scene
from deepeyes_lite.tools import zoom


def test_read_asks_for_a_letter_of_the_scene_and_knows_it():
    texts = {True: set(), False: set()}
    for index in range(300):
        scene = draw_scene("test", index)
        question = read(scene, random.Random(index))
        (target,) = (o for o in scene.objects if o.name in question.text)
        assert question.text == f"What letter is on the {target.name}?"
        assert label_of({"question": question.text}) == target.name
        assert (question.answer, question.boxes_px) == (target.letter, (target.box_px,))
        assert question.legible == target.legible
        texts[question.legible].add(question.text)
    # The question does not tell whether the letter is legible.
    assert len(texts[True] & texts[False]) > 20
    rng = random.Random(0)
    boxes = [read(scene, rng).boxes_px[0] for _ in range(200 * len(scene.objects))]
    for thing in scene.objects:
        assert 140 <= boxes.count(thing.box_px) <= 260  # 200 +- 4 standard deviations


N = 80


@pytest.fixture(scope="module")
def asked():
    """For each kind: scenes of its world and a question about each."""
    found = {}
    for kind, ask in KINDS.items():
        world = World(**NEEDS.get(kind, {}))
        scenes = [draw_scene("test", i, world) for i in range(8 if world.canvas > 1000 else N)]
        found[kind] = [(scene, ask(scene, random.Random(i))) for i, scene in enumerate(scenes)]
    return found


def named(scene, text):
    """The things of the scene whose names stand in the text, in the order of the text."""
    things = [*scene.objects, *scene.distractors, *scene.bars]
    found = {text.index(thing.name): thing for thing in things if thing.name in text}
    return [found[place] for place in sorted(found)]


def test_every_kind_is_a_function_of_scene_and_seed(asked):
    for kind, pairs in asked.items():
        for i, (scene, question) in enumerate(pairs):
            assert question.kind == kind
            assert KINDS[kind](scene, random.Random(i)) == question
            for x1, y1, x2, y2 in question.boxes_px:
                assert 0 <= x1 < x2 <= scene.image.width and 0 <= y1 < y2 <= scene.image.height
        rows = tiny_world("validation", 2, kind=kind)
        assert rows["kind"][:] == [kind] * 2 and rows[0]["image"].width == scene.image.width


def test_compare_and_count_and_yes_as_often_as_no(asked):
    for scene, question in asked["compare"]:
        one, other = named(scene, question.text)
        assert question.answer == ("yes" if one.letter == other.letter else "no")
        assert question.boxes_px == (one.box_px, other.box_px)
        assert question.legible == (one.legible and other.legible)
    for kind in ("compare", "exists", "relation"):
        answers = [question.answer for _, question in asked[kind]]
        assert set(answers) == {"yes", "no"}
        assert abs(answers.count("yes") - N / 2) <= 4 * (N / 4) ** 0.5
    assert {question.answer for _, question in asked["count"]} == {"3", "4", "5", "6"}
    for scene, question in asked["count"]:
        assert question.answer == str(len(scene.objects)) and question.boxes_px == ()


def test_exists_is_about_a_shape_that_the_view_does_not_show(asked):
    for scene, question in asked["exists"]:
        color, shape = re.fullmatch(r"Is there an? (\w+) (\w+)\?", question.text).groups()
        (distractor,) = (thing for thing in scene.distractors if thing.color == color)
        assert question.answer == ("yes" if distractor.shape == shape else "no")
        assert question.boxes_px == (distractor.box_px,) and not question.legible
        assert color not in {thing.color for thing in scene.objects}


def test_relation_is_about_where_two_objects_are(asked):
    for scene, question in asked["relation"]:
        one, other = named(scene, question.text)
        axis = 0 if "left of" in question.text else 1
        gap = other.box_px[axis] - one.box_px[axis]
        assert question.answer == ("yes" if gap > 0 else "no")
        assert abs(gap) >= 40 or len(scene.objects) < 4
        assert question.legible


def test_chart_is_about_the_number_on_a_bar(asked):
    for scene, question in asked["chart"]:
        (bar,) = named(scene, question.text)
        assert bar in scene.bars and question.answer == bar.letter in DIGITS
        assert not readable(bar, (0, 0, 384, 384)) and not question.legible
        x1, y1, x2, y2 = bar.box_px
        assert readable(bar, zoom(scene.image, (x1 - 4, y1 - 4, x2 + 4, y2 + 4))[1])
        heights = {b.letter: b.box_px[3] - b.box_px[1] for b in scene.bars}
        assert sorted(heights, key=heights.get) == sorted(heights)


def test_nested_needs_a_zoom_into_a_zoom(asked):
    for scene, question in asked["nested"]:
        (target,) = named(scene, question.text)
        assert question.answer == target.letter
        assert not readable(target, zoom(scene.image, target.box_px)[1])
        window = zoom(scene.image, question.boxes_px[0])[1]
        assert target.letter_px * 96 / (window[2] - window[0]) >= 8
        assert window[0] < target.letter_xy[0] < window[2]


def test_a_corrupted_row_is_wrong_and_says_so():
    plain = tiny_world("train", 60)
    for how in CORRUPTIONS:
        rows = tiny_world("train", 60, corrupted={how: 0.5})
        assert 15 <= sum(source.endswith(how) for source in rows["source"]) <= 45
        for i, (row, before) in enumerate(zip(rows, plain)):
            if row["source"] == "tiny-world":
                assert row == before
                continue
            assert row["source"] == f"tiny-world, planted: {how}" and row["answer"] in LETTERS
            if how == "wrong label":
                assert row["answer"] != before["answer"] and row["question"] == before["question"]
            else:
                assert named(draw_scene("train", i), row["question"]) == []
    for corrupted, message in (
        ({"noise": 0.1}, "'noise'; there are wrong label, unanswerable"),
        ({"wrong label": 0.6, "unanswerable": 0.6}, "0 or more and 1 in all"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_world("train", 2, corrupted=corrupted)
