"""The checks of notebook 10: every typical mistake gets its own message."""

import random

import pytest

from checks import own_tool as checks
from deepeyes_lite.study.low_contrast import CONTRAST
from deepeyes_lite.tools import ZOOM, ToolError, ZoomTool


def said(check, attempt, capsys):
    assert check(attempt) is None
    return capsys.readouterr().out.strip()


def refuse(degrees):
    if type(degrees) is not int or degrees not in (90, 180, 270):
        raise ToolError("degrees must be 90, 180 or 270")


def right_rotate(picture, degrees):
    refuse(degrees)
    return picture.rotate(-degrees, expand=True)


def checked(turn):
    def attempt(picture, degrees):
        refuse(degrees)
        return turn(picture, degrees)

    return attempt


def value_error(picture, degrees):
    if type(degrees) is not int or degrees not in (90, 180, 270):
        raise ValueError("no")
    return picture.rotate(-degrees, expand=True)


def any_angle(picture, degrees):
    if isinstance(degrees, bool) or not isinstance(degrees, int | float):
        raise ToolError("a number")
    return picture.rotate(-degrees, expand=True)


def silent(picture, degrees):
    if type(degrees) is not int or degrees not in (90, 180, 270):
        raise ToolError
    return picture.rotate(-degrees, expand=True)


def takes_true(picture, degrees):
    if degrees is not True:
        refuse(degrees)
    return picture.rotate(-degrees, expand=True)


ROTATES = {
    "nothing": (lambda p, d: None, "[todo]"),
    "counter-clockwise": (checked(lambda p, d: p.rotate(d, expand=True)), "counter-clockwise"),
    "corners cut off": (checked(lambda p, d: p.rotate(-d)), "expand=True"),
    "an array": (checked(lambda p, d: [p]), "not a list"),
    "as it came": (checked(lambda p, d: p), "return a new picture"),
    "another turn": (checked(lambda p, d: p.transpose(0)), "expand=True"),
    "always half": (checked(lambda p, d: p.rotate(180)), "expand=True"),
    "unchecked": (lambda p, d: p.rotate(-d, expand=True), "was accepted; allow 90"),
    "value error": (value_error, "ends in ValueError"),
    "any angle": (any_angle, "allow 90, 180 and 270"),
    "true": (takes_true, "True counts as the number 1"),
    "an empty error": (silent, "the ToolError is empty"),
    "an exception": (lambda p, d: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("mistake", ROTATES)
def test_rotate_mistakes(mistake, capsys):
    attempt, message = ROTATES[mistake]
    text = said(checks.rotate, attempt, capsys)
    assert message in text and not text.startswith("[ok]")


def test_the_right_turns(capsys):
    assert said(checks.rotate, right_rotate, capsys).startswith("[ok]")


def class_of(body):
    """An attempt that makes a class with this body."""

    def attempt(rotate):
        return type("RotateTool", (), body(rotate))

    return attempt


DOC = """Turn an image clockwise.

        Args:
            degrees: 90, 180 or 270.
            image: Which image: 0 is the original.

        Returns:
            The image, turned.
        """


def method(rotate, doc=DOC, name="image_rotate_tool", show=None, typed=True, default=True):
    show = show or (lambda self, degrees, image: self._changed(image, lambda p: rotate(p, degrees)))
    if not typed:

        def tool(self, degrees, image=0):
            return show(self, degrees, image)

    elif default:

        def tool(self, degrees: int, image: int = 0) -> list:
            return show(self, degrees, image)

    else:

        def tool(self, degrees: int, image: int) -> list:
            return show(self, degrees, image)

    tool.__doc__, tool.__name__ = doc, name
    return {name: tool}


def only_degrees(rotate):
    def tool(self, degrees: int) -> list:
        """Turn the image.

        Args:
            degrees: 90, 180 or 270.

        Returns:
            The image.
        """
        return self._changed(0, lambda picture: rotate(picture, degrees))

    return {"image_rotate_tool": tool}


def original(self, degrees, image):
    return self._changed(0, lambda picture: picture.rotate(-degrees, expand=True))


def bare(self, degrees, image):
    return self.image.rotate(-degrees, expand=True)


def helper_too(rotate):
    return {**method(rotate), "turn": lambda self: None}


TOOLS = {
    "nothing": (lambda rotate: None, "[todo]"),
    "an instance": (lambda rotate: class_of(method)(rotate)(), "return the class itself"),
    "under ZoomTool": (
        lambda rotate: type("R", (ZoomTool,), method(rotate)),
        "beside ZoomTool, not under it",
    ),
    "another name": (
        class_of(lambda r: method(r, name="rotate")),
        "it needs one, image_rotate_tool",
    ),
    "a private name": (class_of(lambda r: method(r, name="_rotate")), "it needs one"),
    "two public methods": (class_of(helper_too), "it needs one"),
    "no docstring": (class_of(lambda r: method(r, doc=None)), "the schema cannot be made"),
    "arguments not told": (class_of(lambda r: method(r, doc="Turn.")), "the schema cannot be made"),
    "no types": (class_of(lambda r: method(r, typed=False)), "the schema cannot be made"),
    "no image": (class_of(only_degrees), "not degrees and image"),
    "no default": (class_of(lambda r: method(r, default=False)), "image has no default"),
    "the original always": (
        class_of(lambda r: method(r, show=original)),
        "do not take the original",
    ),
    "a bare picture": (class_of(lambda r: method(r, show=bare)), "a list of blocks"),
    "an exception": (lambda rotate: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("mistake", TOOLS)
def test_tool_mistakes(mistake, capsys):
    attempt, message = TOOLS[mistake]
    text = said(checks.tool, attempt, capsys)
    assert message in text and not text.startswith("[ok]")


def test_the_right_class(capsys):
    assert said(checks.tool, class_of(method), capsys).startswith("[ok]")


NAMES = ["none", ZOOM, CONTRAST]
DRAWS = {
    "nothing": (lambda sample, rng: None, "[todo]"),
    "by the kind": (
        lambda sample, rng: dict(zip(("plain", "small", "faint"), NAMES))[sample["kind"]],
        "depends on the kind",
    ),
    "by what is legible": (
        lambda sample, rng: "none" if sample["legible"] else rng.choice(NAMES[1:]),
        "depends on the kind",
    ),
    "mostly by the kind": (
        lambda sample, rng: (
            CONTRAST if sample["kind"] == "faint" and rng.random() < 0.5 else rng.choice(NAMES)
        ),
        "depends on the kind",
    ),
    "always the new one": (lambda sample, rng: CONTRAST, "what never varies"),
    "never none": (lambda sample, rng: rng.choice(NAMES[1:]), "never none"),
    "seldom": (lambda sample, rng: rng.choices(NAMES, [10, 10, 1])[0], "less than a tenth"),
    "another name": (lambda sample, rng: "contrast", "is none of"),
    "an exception": (lambda sample, rng: sample["box"], "KeyError"),
}


@pytest.mark.parametrize("mistake", DRAWS)
def test_draw_mistakes(mistake, capsys):
    attempt, message = DRAWS[mistake]
    text = said(checks.draw, attempt, capsys)
    assert message in text and not text.startswith("[ok]")


@pytest.mark.parametrize("seed", range(5))
def test_the_right_draw(seed, capsys):
    own = random.Random(seed)
    assert said(checks.draw, lambda sample, rng: own.choice(NAMES), capsys).startswith("[ok]")


def shares(
    some=lambda rows, last: [r for r in rows if r["step"] > 3 - last], field="episodes", total=None
):
    def attempt(rows, last):
        rows = some(rows, last)
        return {
            (kind, tool): sum(r[field] for r in rows if (r["kind"], r["tool"]) == (kind, tool))
            / sum(r["episodes"] for r in rows if total or r["kind"] == kind)
            for kind, tool in {(r["kind"], r["tool"]) for r in rows}
        }

    return attempt


def mean_of_shares(rows, last):
    found = {}
    steps = [r["step"] for r in rows if r["step"] > 3 - last]
    for row in rows:
        if row["step"] in steps:
            n = sum(
                r["episodes"] for r in rows if (r["step"], r["kind"]) == (row["step"], row["kind"])
            )
            key = row["kind"], row["tool"]
            found[key] = found.get(key, 0) + row["episodes"] / n / len(set(steps))
    return found


SHARES = {
    "nothing": (lambda rows, last: None, "[todo]"),
    "all steps": (shares(lambda rows, last: rows), "over all steps"),
    "the last step": (
        shares(lambda rows, last: [r for r in rows if r["step"] == 3]),
        "the last step alone",
    ),
    "of all kinds": (shares(total=True), "divided by the episodes of all kinds"),
    "right answers": (shares(field="correct"), "counts right answers"),
    "mean of shares": (mean_of_shares, "counts twice"),
    "by tool alone": (lambda rows, last: {"zoom": 0.5}, "the keys are"),
    "other keys": (lambda rows, last: {("zoom", "small"): 0.5}, "the keys are"),
    "other numbers": (
        lambda rows, last: {key: 0.3 for key in shares()(rows, last)},
        "is 0.300, expected",
    ),
    "an exception": (lambda rows, last: rows[99], "IndexError"),
}


@pytest.mark.parametrize("mistake", SHARES)
def test_shares_mistakes(mistake, capsys):
    attempt, message = SHARES[mistake]
    text = said(checks.shares, attempt, capsys)
    assert message in text and not text.startswith("[ok]")


def test_the_right_shares(capsys):
    assert said(checks.shares, shares(), capsys).startswith("[ok]")
