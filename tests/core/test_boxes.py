"""boxes.py: frames, clamping, padding, IoU, and the view's size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from deepeyes_lite.boxes import (
    clamp,
    iou,
    pad_to_square,
    px_from_1000,
    px_to_1000,
    rescale,
    view_size,
)

NUMBERS = st.floats(-5000, 5000)
BOXES = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
SIDES = st.integers(1, 4000)
SIZES = st.tuples(SIDES, SIDES)


@given(
    size=SIZES.filter(lambda size: max(size) <= 200 * min(size)),  # narrower ones are refused there
    factor=st.sampled_from([16, 28, 32]),
    tokens=st.tuples(st.integers(1, 64), st.integers(64, 4096)),
)
def test_view_size_is_the_rule_of_transformers(size, factor, tokens):
    low, high = (n * factor * factor for n in tokens)
    height, width = smart_resize(size[1], size[0], factor, low, high)
    assert view_size(size, low, high, factor) == (width, height)


def test_a_view_has_sides_of_whole_tokens_and_an_empty_image_has_none():
    for size in [(384, 384), (300, 384), (28, 4000), (1, 1), (384, 4096)]:
        assert all(side >= 16 and side % 16 == 0 for side in view_size(size, 96**2, 96**2, 16))
    for size in [(0, 5), (5, 0), (-1, 5)]:
        with pytest.raises(ValueError, match="at least 1 x 1 px"):
            view_size(size, 100, 1000)


@given(box=BOXES, size=SIZES, other=SIZES)
def test_changes_of_frame_have_inverses(box, size, other):
    assert rescale(rescale(box, size, other), other, size) == pytest.approx(box, abs=1e-6)
    assert px_from_1000(px_to_1000(box, size), size) == pytest.approx(box, abs=1e-6)
    # Width and height are kept apart.
    assert px_to_1000((100, 100, 200, 200), (1000, 200)) == (100, 500, 200, 1000)


@given(box=BOXES, size=SIZES)
def test_clamped_box_is_ordered_and_inside_and_stays(box, size):
    x1, y1, x2, y2 = clamp(box, size)
    assert 0 <= x1 <= x2 <= size[0] and 0 <= y1 <= y2 <= size[1]
    assert clamp((x1, y1, x2, y2), size) == (x1, y1, x2, y2)


@given(box=BOXES, min_side=st.floats(1, 500), size=SIZES)
def test_padded_box_is_a_square_in_the_image_around_the_box(box, min_side, size):
    box = clamp(box, size)
    x1, y1, x2, y2 = pad_to_square(box, min_side, size)
    e = 1e-6
    assert -e <= x1 <= box[0] + e and -e <= y1 <= box[1] + e
    assert box[2] - e <= x2 <= size[0] + e and box[3] - e <= y2 <= size[1] + e
    side = max(box[2] - box[0], box[3] - box[1], min_side)
    assert x2 - x1 == pytest.approx(min(side, size[0]))
    assert y2 - y1 == pytest.approx(min(side, size[1]))


CORNERS, LENGTHS = st.floats(0, 300), st.floats(1, 300)
REAL_BOXES = st.tuples(CORNERS, CORNERS, LENGTHS, LENGTHS).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(a=REAL_BOXES, b=REAL_BOXES, shift=NUMBERS)
def test_iou_is_a_share_and_symmetric_and_ignores_shifts(a, b, shift):
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert iou(a, a) == pytest.approx(1)
    shifted = [tuple(v + shift for v in box) for box in (a, b)]
    assert iou(*shifted) == pytest.approx(iou(a, b), abs=1e-6)


def test_iou_of_known_boxes():
    known = {(2, 2, 6, 6): 4 / 28, (1, 1, 3, 3): 1 / 4, (4, 0, 8, 4): 0, (2, 2, 2, 2): 0}
    for box, expected in known.items():
        assert iou((0, 0, 4, 4), box) == pytest.approx(expected)
