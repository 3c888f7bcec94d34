"""scenes.py: scenes are functions of their seed, boxes are exact, splits never meet."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deepeyes_lite.tinyworld.pretraining.lessons import readable
from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN
from deepeyes_lite.tinyworld.scenes import (
    COLORS,
    LETTERS,
    READABLE_PX,
    SHAPES,
    SPLIT_LENGTH,
    SPLIT_STARTS,
    SceneObject,
    World,
    draw_object,
    draw_scene,
    unseen,
)
from deepeyes_lite.tools import zoom

PUBLISHED = [
    ("green diamond", "A", True, (270, 243, 330, 303)),
    ("yellow square", "K", False, (139, 241, 199, 301)),
    ("cyan diamond", "E", True, (204, 66, 266, 128)),
    ("blue diamond", "C", False, (25, 95, 81, 151)),
    ("purple diamond", "H", False, (123, 48, 177, 102)),
    ("pink circle", "K", True, (102, 313, 164, 375)),
]


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("test", index) for index in range(150)]


def test_a_scene_is_a_function_of_its_seed(scenes):
    for index in (7, 3, 140):  # in any order
        again = draw_scene("test", index)
        assert again.objects == scenes[index].objects
        assert again.image.tobytes() == scenes[index].image.tobytes()
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    found = [(o.name, o.letter, o.legible, o.box_px) for o in scenes[0].objects]
    assert found == PUBLISHED  # the held-out scenes are those of the published figures


def test_splits_never_overlap_and_stages_of_pretraining_share_no_scene():
    starts = sorted(SPLIT_STARTS.values())
    assert all(b - a >= SPLIT_LENGTH for a, b in zip(starts, starts[1:]))
    ends = [(split, i) for split in SPLIT_STARTS for i in (0, SPLIT_LENGTH - 1)]
    assert len({draw_scene(*end).image.tobytes() for end in ends}) == len(ends)
    assert all(stage.steps * stage.scenes < 500_000 for stage in PLAN)
    assert len(PLAN) * 500_000 < 9_000_000  # where the scenes of the tokenizer's corpus start


def test_what_is_not_there_is_refused():
    for index in (-1, SPLIT_LENGTH):
        with pytest.raises(ValueError, match=f"scene index {index} is outside 0..9999999"):
            draw_scene("train", index)
    with pytest.raises(ValueError, match="unknown split 'dev'; there are pretrain, train, valid"):
        draw_scene("dev", 0)
    with pytest.raises(ValueError, match="pairs must be all, seen or unseen, got 'new'"):
        draw_scene("train", 0, World(pairs="new"))


def test_the_share_of_legible_letters_is_the_dial_s():
    for share in (0.0, 0.5, 1.0):
        world = World(legible_share=share)
        things = [o for i in range(120) for o in draw_scene("train", i, world).objects]
        found = sum(o.legible for o in things)
        bound = 4 * math.sqrt(len(things) * share * (1 - share))  # four standard deviations
        assert len(things) > 400 and abs(found - len(things) * share) <= bound


def test_numbers_sizes_and_letters_are_within_the_dials(scenes):
    world = World()
    for scene in scenes:
        assert scene.image.mode == "RGB" and scene.image.size == (world.canvas, world.canvas)
        assert 3 <= len(scene.objects) <= 6
        assert len({o.color for o in scene.objects}) == len(scene.objects)
        for o in scene.objects:
            low, high = world.legible_px if o.legible else world.illegible_px
            x1, y1, x2, y2 = o.box_px
            assert low <= o.letter_px <= high
            assert 2 * world.radius[0] <= x2 - x1 == y2 - y1 <= 2 * world.radius[1]
            assert x1 >= 0 and y1 >= 0 and x2 < world.canvas and y2 < world.canvas
    things = [o for scene in scenes for o in scene.objects]
    assert {o.color for o in things} == set(COLORS)
    assert {o.shape for o in things} == set(SHAPES)
    assert {o.letter for o in things} == set(LETTERS)


def assert_apart(things):
    """No two boxes touch."""
    for a, b in combinations([thing.box_px for thing in things], 2):
        assert a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]


def test_objects_do_not_touch(scenes):
    crowded = draw_scene("test", 0, World(canvas=150, objects=(8, 8)))
    assert 1 <= len(crowded.objects) < 8
    for scene in (*scenes, crowded):
        assert_apart(scene.objects)


def test_an_object_s_pixels_lie_in_its_box_and_fill_it():
    sizes = World().illegible_px[0], World().legible_px[1]
    for letter_px, shape, letter in product(sizes, SHAPES, LETTERS):
        thing = SceneObject("red", shape, letter, letter_px, True, (60, 40, 114, 94))
        image = Image.new("RGB", (200, 200), (1, 2, 3))
        draw_object(ImageDraw.Draw(image), thing)
        ys, xs = np.nonzero((np.asarray(image) != (1, 2, 3)).any(-1))
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == thing.box_px


def test_small_letters_are_gone_in_the_view_and_plain_in_a_crop(scenes):
    world = World()
    whole = (0, 0, world.canvas, world.canvas)
    for scene in scenes:
        for o in scene.objects:
            assert readable(o, whole) == o.legible
            x1, y1, x2, y2 = o.box_px
            assert readable(o, zoom(scene.image, (x1 - 8, y1 - 8, x2 + 8, y2 + 8))[1])
    assert world.illegible_px[1] * world.view / world.canvas < READABLE_PX / 2


def test_pairs_of_colour_and_shape_are_the_dial_s():
    for pairs, all_pairs, new_pairs in (("all", 32, 8), ("seen", 24, 0), ("unseen", 8, 8)):
        world = World(pairs=pairs, distractors=(0, 2), objects=(3, 4))
        scenes = [draw_scene("train", i, world) for i in range(80)]
        found = {(o.color, o.shape) for s in scenes for o in (*s.objects, *s.distractors)}
        new = {pair for pair in found if unseen(*pair)}
        assert (len(found), len(new)) == (all_pairs, new_pairs)


def test_what_a_plain_world_does_not_have_leaves_its_objects_as_they_are(scenes):
    rich = World(twins=1.0, distractors=(2, 2), shift=0.2)
    for i, plain in enumerate(scenes[:30]):
        scene = draw_scene("test", i, rich)
        assert [o.box_px for o in scene.objects] == [o.box_px for o in plain.objects]
        assert plain.distractors == plain.bars == ()
        assert len({o.letter for o in scene.objects}) < len(scene.objects)  # twins
    for canvas in (768, 1536):
        scene = draw_scene("test", 0, World(canvas=canvas))
        assert scene.image.width == canvas and not any(o.legible for o in scene.objects)


def test_distractors_and_charts_touch_nothing_and_are_there():
    for i in range(40):
        scene = draw_scene("test", i, World(distractors=(2, 2), chart=1.0, objects=(3, 4)))
        assert len(scene.distractors) == 2 and len(scene.bars) == 3
        things = [*scene.objects, *scene.distractors]
        assert len({thing.color for thing in things}) == len(things)
        assert_apart([*things, *scene.bars])
        for thing in (*things, *scene.bars):
            inside = np.asarray(scene.image.crop(thing.box_px))
            assert (inside == COLORS[thing.color]).all(-1).any()
