"""Episodes for the tests of pages and widgets: made by hand, some of them by a hostile model."""

import json
import re
from html.parser import HTMLParser

from ipywidgets import HTML, Button

from deepeyes_lite import prompts
from deepeyes_lite.boxes import clamp, px_from_1000, px_to_1000
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.training import HISTORY_COLUMNS, write_history
from deepeyes_lite.trajectories import Trajectory, Turn, crops, write_jsonl
from deepeyes_lite.viz.snapshots import EVERY, scenes

HOSTILE = '<img src=x onerror="document.title=1">\'"><script>alert(2)</script></svg></div>$x^$'
LONG = "K" * 100_000
TEXTS = [
    "$\\frac{1}{0$",
    "\\$\\$",
    "\n" * 1000,
    "\x00\x1b[31m\u202e",
    "漢字",
    "{x} %s",
    "",
    HOSTILE,
    LONG,
]

EMPTY = {"meta", "img", "image", "rect", "br"}
TAGS = (
    "g html head title style body h1 h2 h3 h4 p b a div figure svg text table tr th td code span "
)
TAGS += "details summary pre"


class Reader(HTMLParser):
    """The tags of a page or a part of one, and its text; fails on markup that is not ours."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        page.encode()  # no half of a surrogate pair is left
        self.feed(str(page))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in EMPTY or tag in TAGS.split(), tag
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                assert re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/=]+", value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data if data.strip() else ""


def parts(widget, kind=HTML):
    """All widgets of a kind inside a widget, from top to bottom."""
    inside = [part for child in getattr(widget, "children", ()) for part in parts(child, kind)]
    return [widget] * isinstance(widget, kind) + inside


def shown(widget):
    """What a widget says in words; fails on markup that is not ours."""
    return Reader("".join(part.value for part in parts(widget))).text


def button(widget, name):
    return next(part for part in parts(widget, Button) if part.description == name)


def made(n=12, right=lambda i: i % 2 == 0, zooms=lambda i: i % 3, scenes=6, text="I look."):
    """Episodes on a few scenes in turn, whose calls come nearer to the target from turn to turn."""
    rows = tiny_world("test", scenes)
    episodes = []
    for i in range(n):
        row = rows[i % scenes]
        image = row.pop("image")
        x1, y1, x2, y2 = px_to_1000(tuple(row["boxes_px"][0]), image.size)
        turns = []
        for number in range(zooms(i)):
            far = 150 / (number + 1)
            box = [round(min(1000, max(0, v))) for v in (x1 - far, y1 - far, x2 + far, y2)]
            call = f"<think>{text}</think>" + prompts.tool_call({"bbox_2d": box})
            turns.append(Turn(call, [clamp(px_from_1000(box, image.size), image.size)]))
        answer = row["answer"] if right(i) else "?"
        images = [image, *crops(image, [box for turn in turns for box in turn.boxes_px])]
        turns.append(Turn(prompts.answer(text, answer)))
        ids, mask = [5, 6, 7, 8], [1, 1, 0, 1]
        episodes.append(Trajectory(row, images, [1, 2], ids, mask, turns, answer, right(i), True))
    return episodes


def hostile():
    """What a hostile model or a hostile file may hold, one episode each."""
    (sample,) = tiny_world("test", 1)
    images = [sample.pop("image")]
    markup = dict.fromkeys(("id", "question", "answer", "kind"), HOSTILE)
    turn = Turn(f"<think>{HOSTILE}</think>{HOSTILE}", [], [HOSTILE])
    odd = {"id": "odd", "boxes_px": [[HOSTILE] * 4, [1], None, [1, 2, 9e99, 4]]}
    odd_turns = [Turn("\x00\x1b[31m\u202e\ud800 漢字 $x^$", [(HOSTILE, 1, 2, 3)])]
    return [
        Trajectory({**sample, **markup}, images, turns=[turn], answer=HOSTILE),
        Trajectory(sample, images, turns=[Turn(LONG)], answer=LONG),
        Trajectory(
            sample={**sample, **odd},
            images=images,
            completion_ids=["<b>", -5, 1.5],
            loss_mask=[1, HOSTILE, 0],
            turns=[*odd_turns, Turn("<think>" * 3000)],
            answer="\ud800\n$x^$",
        ),
        Trajectory(sample={"id": 7}, turns=[], answer=5),
    ]


def recorded_run(folder, steps=12):
    """A run folder with a history, and six scenes before the first step and after every fifth."""
    (folder / "snapshots").mkdir(parents=True)
    config = {"data": "", "legible_share": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {**dict.fromkeys(HISTORY_COLUMNS, i / steps), "step": i, "n_zoom": 1, "n_direct": 1}
        for i in range(1, steps + 1)
    ]
    write_history(rows, folder / "history.csv")
    names = list(scenes(config)["id"])
    for step in range(0, steps + 1, EVERY):
        episodes = made(6, right=lambda i, step=step: i < step / 2, text=f"Step {step}.")
        for t, name in zip(episodes, names):
            t.sample["id"] = name
        write_jsonl(episodes, folder / "snapshots" / f"{step:04}.jsonl")
    return folder
