"""The checks of notebook 03: every typical mistake gets its own message."""

import pytest

from checks import rollout as checks
from deepeyes_lite.boxes import rescale
from deepeyes_lite.tools import answer_call, images_and_texts, zoom

CHECKS = {
    "my_crop": checks.crop,
    "my_mask": checks.mask,
    "my_step": checks.step,
}


def verdict(name, attempt, processor, capsys):
    more = [processor] if name == "my_step" else []
    assert CHECKS[name](attempt, *more) is None
    return capsys.readouterr().out.strip()


def cut(scene, box):
    return scene.crop(tuple(round(v) for v in box))


def px(scene, box, width=None, height=None):
    w, h = width or scene.width, height or scene.height
    return tuple(v * side / 1000 for v, side in zip(box, (w, h, w, h)))


def from_the_view(scene, box):
    view = scene.resize((96, 96))
    return cut(view, px(view, box))


def enlarged_from_the_view(scene, box):
    return from_the_view(scene, box).resize((100, 80))


CROPS = {
    "from the view": (from_the_view, "cut from scene"),
    "enlarged from the view": (enlarged_from_the_view, "cut from scene"),
    "0-1000 as pixels": (lambda s, b: cut(s, b), "divide by 1000"),
    "view's pixels on the original": (
        lambda s, b: cut(s, rescale(px(s, b), s.size, (96, 96))),
        "pixels of the 96 x 96 view",
    ),
    "x and y swapped": (
        lambda s, b: cut(s, px(s, (b[1], b[0], b[3], b[2]))),
        "x and y are swapped",
    ),
    "width for both": (lambda s, b: cut(s, px(s, b, height=s.width)), "y was scaled"),
    "height for both": (lambda s, b: cut(s, px(s, b, width=s.height)), "x was scaled"),
    "corner and size": (
        lambda s, b: cut(s, [*px(s, b)[:2], px(s, b)[0] + px(s, b)[2], 240]),
        "not width and height",
    ),
    "shares": (lambda s, b: cut(s, [v / 1000 for v in b]), "multiply the shares"),
    "a box": (lambda s, b: px(s, b), "not a tuple"),
    "the package's square": (lambda s, b: zoom(s, px(s, b))[0], "expected 100 x 80 px"),
    "an exception": (lambda s, b: s.crop(b[0]), "TypeError"),
}


@pytest.mark.parametrize("mistake", CROPS)
def test_crop_mistakes(mistake, capsys):
    attempt, message = CROPS[mistake]
    said = verdict("my_crop", attempt, None, capsys)
    assert said.startswith("[not yet]") and message in said


def test_crop_in_another_mode_is_fine(capsys):
    def attempt(scene, box_1000):
        return cut(scene, px(scene, box_1000)).convert("RGBA")

    assert verdict("my_crop", attempt, None, capsys).startswith("[ok]")


def right_mask(ids, end, opening):
    mask, writing = [], True
    for i, token in enumerate(ids):
        mask.append(int(writing))
        if writing and token == end:
            writing = False
        elif ids[i + 1 - len(opening) : i + 1] == opening:
            writing = True
    return mask


def changed(change):
    """An attempt that spoils the right mask: ``change`` gets value, left and right neighbour, id."""

    def attempt(ids, end, opening):
        mask = right_mask(ids, end, opening)
        rows = zip(mask, [0, *mask], [*mask[1:], 0], ids)
        return [int(bool(change(*row))) for row in rows]

    return attempt


MASKS = {
    "upside down": (changed(lambda m, left, right, i: not m), "upside down"),
    "all ones": (changed(lambda m, left, right, i: True), "all ones"),
    "only placeholders": (changed(lambda m, left, right, i: i != 8), "placeholders only"),
    "one too few": (changed(lambda m, left, right, i: m and i != 2), "the model's own token"),
    "one too many": (
        changed(lambda m, left, right, i: m or left),
        "the token after the end of turn has mask 0",
    ),
    "first reply only": (
        lambda ids, end, opening: [int(i <= ids.index(end)) for i in range(len(ids))],
        "later replies",
    ),
    "reply too late": (
        changed(lambda m, left, right, i: m and left),
        "after the opening comes mask 1",
    ),
    "reply too early": (changed(lambda m, left, right, i: m or right), "begins too early"),
    "second observation in": (
        lambda ids, end, opening: right_mask(ids[:16], end, opening) + [1] * len(ids[16:]),
        "second observation",
    ),
    "something else": (
        changed(lambda m, left, right, i: m and i != 12),
        "position 1 (id 12) is 0, expected 1",
    ),
    "too short": (lambda *a: right_mask(*a)[:-1], "every token needs its own"),
    "an exception": (lambda ids, end, opening: ids.index(99), "ValueError"),
    "not a list": (lambda ids, end, opening: 1, "TypeError"),
}


@pytest.mark.parametrize("mistake", MASKS)
def test_mask_mistakes(mistake, capsys):
    attempt, message = MASKS[mistake]
    said = verdict("my_mask", attempt, None, capsys)
    assert said.startswith("[not yet]") and message in said


def step(
    episode,
    reply,
    tool,
    policy,
    seen_mask=0,
    reply_mask=1,
    seen=True,
    crops=True,
    refused=True,
    order=1,
    masked=True,
    twice=1,
    after_call=True,
    after_answer=False,
):
    """The solution with a dial for each mistake."""
    calls = policy.calls(episode, reply)
    parts = [(reply, reply_mask)] * twice
    if calls:
        contents = [answer_call(tool, call) for call in calls]
        images, errors = images_and_texts(contents)
        if errors and not refused:
            after_call = False
        elif seen:
            parts.append((policy.observation_ids(contents), seen_mask))
        episode.images += images if crops else []
    for ids, mask in parts[::order]:
        episode.completion_ids += ids
        episode.loss_mask += [mask] * (len(ids) if masked or mask else 0)
    return after_call if calls else after_answer


STEPS = {
    "observation in the loss": ({"seen_mask": 1}, "the model did not write it"),
    "reply not in the loss": ({"reply_mask": 0}, "1 on replies"),
    "observation left out": ({"seen": False}, "observation's ids are missing"),
    "crop left out": ({"crops": False}, "goes into episode.images"),
    "refused call ends it": ({"refused": False}, "a refused call ended the episode"),
    "observation first": ({"order": -1}, "append the reply first"),
    "mask too short": ({"masked": False}, "let both grow together"),
    "reply twice": ({"twice": 2}, "there twice"),
    "stops after the call": ({"after_call": False}, "it stopped after a call"),
    "returns None after the call": ({"after_call": None}, "my_step returned None"),
    "goes on after the answer": ({"after_answer": True}, "it went on after the answer"),
    "returns None after the answer": ({"after_answer": None}, "my_step returned None"),
}


@pytest.mark.parametrize("mistake", STEPS)
def test_step_mistakes(mistake, processor, capsys):
    dial, message = STEPS[mistake]

    def attempt(episode, reply, tool, policy):
        return step(episode, reply, tool, policy, **dial)

    said = verdict("my_step", attempt, processor, capsys)
    assert said.startswith("[not yet]") and message in said


def test_step_that_raises(processor, capsys):
    said = verdict("my_step", lambda *_: 1 / 0, processor, capsys)
    assert said.startswith("[not yet]") and "ZeroDivisionError" in said
