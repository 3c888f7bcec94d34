"""docs/deviations.md against a transcription of DeepEyes' public code: complete, and true row by row."""

import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from deepeyes import BETWEEN, CROP, END, ERROR, inner, paid, play, score, score_math
from deepeyes_lite.boxes import View
from deepeyes_lite.models import TINY_EYES, ready, tool_of, view_of
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.prompts import FORMAT, TURN_END
from deepeyes_lite.realworld.served import Endpoint, ServedPolicy, deepeyes_system
from deepeyes_lite.realworld.verl_reward import MATH, compute_score
from deepeyes_lite.rewards import VARIANTS, reward
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.verifiers import is_correct
from replies import CALLS, HEADS, REPLIES, K, L, boxed, call
from shapes import processor_of

SIZE = (3360, 280)  # its view is as large: boxes are the same numbers in both codes
TRUTH, MAX_CALLS, EPISODES = "K", 3, 2400
CUT = "§"  # ends a reply that the limit of tokens cuts off
LISTED = set(
    re.findall(
        r"^\| `([\w-]+)` \|", (Path(__file__).parents[2] / "docs/deviations.md").read_text(), re.M
    )
)
THINK, CALL, LAST = "<think>?</think>", CALLS["usual"], f"<think>!</think>{K}"


@pytest.fixture(scope="module")
def processor():
    return ready(processor_of("Qwen/Qwen2.5-VL-7B-Instruct"))


class Cut(ScriptedPolicy):
    """Leaves the end of turn away where a reply is cut off."""

    def reply(self, trajectories, allow_calls=True):
        end, mark = (
            self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (TURN_END, CUT)
        )
        replies = super().reply(trajectories, allow_calls)
        tail = mark + end
        return [ids[: -len(tail)] if ids[-len(tail) :] == tail else ids for ids in replies]


def play_ours(scripts, processor, size=SIZE, max_calls=MAX_CALLS):
    """Episodes of our loop, one for each script."""
    image = Image.new("RGB", size)
    rows = [
        {"id": str(i), "image": image, "question": "?", "answer": TRUTH}
        for i in range(len(scripts))
    ]
    policy = Cut(processor, {str(i): [*script, "", ""] for i, script in enumerate(scripts)})
    options = {"max_calls": max_calls, "max_completion_length": 10**6, "progress": False}
    return rollout(rows, policy, **options)


def play_theirs(script, size=SIZE, max_calls=MAX_CALLS):
    bare = [reply.removesuffix(CUT) for reply in script] + ["", ""]
    cut = [reply.removesuffix(CUT) for reply in script if reply.endswith(CUT)]
    return play(bare, size, max_calls + 1, cut)


def acts(episode):
    """What every turn of ours brought, as `deepeyes.Played` has it."""
    brought = [t.crops_px[0] if t.crops_px else ERROR for t in episode.turns]
    return [*brought[:-1], END]


# --- what explains a difference -------------------------------------------------------------------


def arguments_of(reply):
    """Arguments of the call that counts; empty where there are none."""
    try:
        found = json.loads(inner(reply, "tool_call").strip())["arguments"]
        return found if isinstance(found, dict) else {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def box_of(reply):
    """The box of that call, if it is four numbers."""
    box = arguments_of(reply).get("bbox_2d")
    numbers = isinstance(box, list) and all(isinstance(v, int | float) for v in box)
    return box if numbers and len(box) == 4 else None


def clipped(box):
    """The box inside the image, corners in order."""
    xs, ys = sorted(box[::2]), sorted(box[1::2])
    return [max(0, xs[0]), max(0, ys[0]), min(SIZE[0], xs[1]), min(SIZE[1], ys[1])]


def sides(box):
    x1, y1, x2, y2 = clipped(box)
    return x2 - x1, y2 - y1


def is_crop(act):
    return act not in (END, ERROR)


def odd(box):
    return any(isinstance(v, bool) or not math.isfinite(v) or abs(v) > 1e6 for v in box)


def in_order(box):
    return box[0] < box[2] and box[1] < box[3]


# Of a turn: (reply, what it brought there, what it brought here) -> whether this row explains the difference.
TURNS = {
    "unclosed": lambda r, a, b: (
        (a, b) == (END, ERROR) and "<tool_call>" in r and not inner(r, "tool_call")
    ),
    "blank": lambda r, a, b: a == END != b and (inner(r, "answer") or "").isspace(),
    "cut": lambda r, a, b: a == END != b and r.endswith(CUT),
    "small": lambda r, a, b: (
        a == ERROR and is_crop(b) and in_order(box_of(r)) and min(sides(box_of(r))) <= 30
    ),
    "reversed": lambda r, a, b: a == ERROR and is_crop(b) and not in_order(box_of(r)),
    "strip": lambda r, a, b: (
        a == ERROR
        and is_crop(b)
        and in_order(box_of(r))
        and max(sides(box_of(r))) > 100 * min(sides(box_of(r)))
    ),
    "numbers": lambda r, a, b: is_crop(a) and b == ERROR and box_of(r) and odd(box_of(r)),
    "image": lambda r, a, b: is_crop(a) and arguments_of(r).get("image", 0) != 0,
    "rotate": lambda r, a, b: is_crop(a) and b == ERROR and "image_rotate_tool" in r,
}


def per_turn(test):
    return lambda turns: any(test(turn) for turn in turns)


def unpaired(tag):
    return per_turn(lambda t: t.count(f"<{tag}>") != t.count(f"</{tag}>"))


def more_than_one(tag):
    return per_turn(lambda t: t.count(f"<{tag}>") > 1)


TAGS = ("think", "tool_call", "answer")
# Of the reward: which part of it the row may change, (right, broken format, zoomed), and on which turns.
REWARDS = {
    "bare": ((True, True, False), lambda turns: "<answer>" not in turns[-1]),
    "open-answer": ((True, True, False), unpaired("answer")),
    "answers": (
        (True, True, False),
        lambda turns: more_than_one("answer")(turns) or any("<answer>" in t for t in turns[:-1]),
    ),
    "thoughts": (
        (False, True, False),
        lambda turns: more_than_one("think")(turns) or unpaired("think")(turns),
    ),
    "order": (
        (True, True, False),
        per_turn(lambda t: any(0 <= t.find(f"</{tag}>") < t.find(f"<{tag}>") for tag in TAGS)),
    ),
    "call-tags": ((False, True, False), unpaired("tool_call")),
    "several-calls": ((False, True, False), more_than_one("tool_call")),
    "answer-and-call": ((False, True, False), lambda turns: "<tool_call>" in turns[-1]),
    "long": ((False, True, False), lambda turns: any(len(t) >= 1000 for t in turns)),
    "placeholder": ((False, True, True), per_turn(lambda t: "<|image_pad|>" in t)),
}


def differences(script, episode):
    """The rows that explain how our episode differs from theirs; raises where none does."""
    rows, theirs, ours = [], play_theirs(script).acts, acts(episode)
    for reply, a, b in zip(script, theirs, ours):
        if a == b or (is_crop(a) and is_crop(b) and tuple(map(round, a)) == b):
            continue
        rows += [[name for name, explains in TURNS.items() if explains(reply, a, b)]]
        assert rows[-1], (reply, a, b)
        if END in (a, b):
            break
    else:
        assert len(theirs) == len(ours)
    # The reward is asked about one and the same episode: ours.
    turns = [turn.text for turn in episode.turns]
    text = turns[0]
    for act, turn in zip(ours, turns[1:]):
        text += BETWEEN.format("Error: no" if act == ERROR else CROP) + turn
    there = score(text, lambda answer: is_correct(answer, TRUTH))
    here = episode.correct, not episode.well_formed, episode.called
    for part in range(3):
        if there[part] != here[part]:
            found = [n for n, (may, on) in REWARDS.items() if may[part] and on(turns)]
            assert found, (turns, there, here)
            rows.append(found)
    return rows


# --- episodes by the thousand ---------------------------------------------------------------------


def random_box(rng):
    """A box of one of the kinds that models write."""

    def corner(low, high):
        return rng.randint(low, SIZE[0] - high), rng.randint(low, SIZE[1] - high)

    (x, y), kind = corner(0, 200), rng.randrange(9)
    w, h = rng.randint(31, 200), rng.randint(31, 200)
    if kind == 0:
        w = rng.randint(1, 35)
    elif kind == 1:
        return [x + w, y + h, x, y] if rng.random() < 0.5 else [x + w, y, x, y + h]
    elif kind == 2:
        return [x + w, y + h, x + w + rng.randint(0, 3000), y + h + rng.randint(0, 3000)]
    elif kind == 3:
        return [-rng.randint(0, 500), y, x + w, y + h]
    elif kind == 4:
        return [rng.uniform(0, 500), y, 500 + rng.uniform(40, 300), y + h + rng.random()]
    elif kind == 5:
        return [round(rng.random(), 3) for _ in range(4)]
    elif kind == 6:
        return [0, y, SIZE[0], y + rng.choice([1, 10, 32, 33, 40])]
    elif kind == 7:
        box = [x, y, x + w, y + h]
        box[rng.randrange(4)] = rng.choice([math.nan, math.inf, -math.inf, 1e7, -1e7, True, 10**30])
        return box
    return [x, y, x + w, y + h]


PIECES = [f"<{mark}{tag}>" for tag in TAGS for mark in ("", "/")]
PIECES += ["<think>!</think>", K, L, CALL, CROP, "K", "L", "K " * 600, "<answer> </answer>"]
LASTS = [LAST, f"<think>!</think>{L}", K, "K", "It is K.", "", f"<answer>{'K ' * 600}</answer>"]
LASTS += [f"<think>!</think>{L}{K}", f"<think>{CROP}</think>{K}", f"<think>!{K}", "<answer>K"]
LASTS += [
    f"<answer>{K}</answer>",
    f"</think>{K}<think>",
    f"{THINK}{LAST}",
    f"</think>{K}",
    f"{K}{CALL}",
]


def random_reply(rng):
    kind = rng.random()
    if kind < 0.35:
        reply = rng.choice(list(REPLIES.values()))
    elif kind < 0.5:
        reply = "".join(rng.choices(PIECES, k=rng.randint(0, 6)))
    else:
        extra = rng.choice(
            [{}, {}, {}, {"label": "cup"}, {"angle": 9}, {"image": rng.randrange(3)}]
        )
        arguments = json.dumps({"bbox_2d": random_box(rng), **extra})
        name = "image_rotate_tool" if rng.random() < 0.05 else "image_zoom_in_tool"
        if name == "image_rotate_tool":
            arguments = rng.choice(['{"angle": 90}', '{"angle": "x"}', "{}"])
        reply = HEADS[rng.choice(list(HEADS))].format(call(arguments, name))
    return reply + CUT * (rng.random() < 0.03)


def test_no_deviation_is_missing_from_the_list(processor):
    rng = random.Random(0)
    scripts = [
        [random_reply(rng) for _ in range(rng.randint(0, 4))] + [rng.choice(LASTS)]
        for _ in range(EPISODES)
    ]
    counts, same = Counter(), 0
    for script, episode in zip(scripts, play_ours(scripts, processor), strict=True):
        written = [reply.removesuffix(CUT) for reply in script]
        assert [turn.text for turn in episode.turns] == (written + [""])[: len(episode.turns)]
        rows = differences(script, episode)
        counts.update(name for names in rows for name in names if len(names) == 1)
        same += not rows
    assert same > EPISODES / 10
    # Every row that a script can show is the only explanation somewhere.
    assert set(counts) == set(TURNS) | set(REWARDS)


# --- an example of every row ----------------------------------------------------------------------

# Replies, then turns, crops and reward there, and here.
EXAMPLES = {
    "unclosed": ([f"{THINK}<tool_call>{{", LAST], (1, 0, 0.0), (2, 0, 0.6)),
    "blank": ([f"{THINK}<answer> </answer>{CALL}", LAST], (1, 0, 0.0), (2, 1, 1.8)),
    "cut": ([f"{THINK}{CALL}{CUT}", LAST], (1, 0, 0.0), (2, 1, 2.0)),
    "small": ([THINK + boxed("[9, 9, 39, 90]"), LAST], (2, 0, 0.8), (2, 1, 2.0)),
    "reversed": ([THINK + boxed("[300, 400, 100, 200]"), LAST], (2, 0, 0.8), (2, 1, 2.0)),
    "strip": ([THINK + boxed("[0, 0, 3360, 33]"), LAST], (2, 0, 0.8), (2, 1, 2.0)),
    "numbers": ([THINK + boxed("[NaN, 200, 300, 400]"), LAST], (2, 1, 2.0), (2, 0, 0.8)),
    "image": ([THINK + CALLS["another image"], LAST], (2, 1, 2.0), (2, 0, 0.8)),
    "rotate": (
        [THINK + call('{"angle": 90}', "image_rotate_tool"), LAST],
        (2, 1, 2.0),
        (2, 0, 0.8),
    ),
    "bare": (["K"], (1, 0, 0.8), (1, 0, -0.2)),
    "open-answer": (["<think>!</think><answer>K"], (1, 0, 0.6), (1, 0, -0.2)),
    "answers": ([f"<think>!</think>{L}{K}"], (1, 0, 0.8), (1, 0, 0.6)),
    "thoughts": ([f"<think>?{CALL}", f"</think>{K}"], (2, 1, 2.0), (2, 1, 1.8)),
    "order": ([f"</think>!<think>{K}"], (1, 0, 0.8), (1, 0, 0.6)),
    "call-tags": ([f"{THINK}<tool_call>{{{K}"], (1, 0, 0.8), (1, 0, 0.6)),
    "several-calls": ([f"{THINK}{CALL}{CALL}", LAST], (2, 1, 2.0), (2, 1, 1.8)),
    "answer-and-call": ([f"{THINK}{CALL}{K}"], (1, 0, 0.8), (1, 0, 0.6)),
    "long": ([f"<answer>{'K ' * 600}</answer>"], (1, 0, -0.2), (1, 0, 0.0)),
    "placeholder": ([f"<think>{CROP}</think>{K}"], (1, 0, 2.0), (1, 0, 0.8)),
}
# What is the same, and once was not, or was said not to be.
SAME = {
    "a zoom": ([THINK + CALL, LAST], (2, 1, 2.0)),
    "a right answer and a call": ([f"{THINK}{K}{CALL}", L], (1, 0)),
    "a wrong answer and a call": ([f"{THINK}{L}{CALL}", LAST], (1, 0)),
    "the last of two calls": ([f"{THINK}{CALL}{CALLS['prose']}", LAST], (2, 0)),
    "six copies": ([THINK + CALL * 6, LAST], (2, 1)),
    "a call in the thought": ([f"<think>? {CALL}</think>", LAST], (2, 1, 2.0)),
    "a call in an open thought": ([f"<think>? {CALL}", LAST], (2, 1, 1.8)),
    "an open thought": ([f"<think>!{K}"], (1, 0, 0.6)),
    "single quotes": ([THINK + CALLS["single quotes"], LAST], (2, 0, 0.8)),
    "a tuple": ([THINK + CALLS["tuple"], LAST], (2, 0, 0.8)),
    "a box as text": ([THINK + CALLS["box as text"], LAST], (2, 0, 0.8)),
    "shares": ([THINK + boxed("[0.1, 0.2, 0.3, 0.4]"), LAST], (2, 0, 0.8)),
    "an extra argument": ([THINK + CALLS["extra argument"], LAST], (2, 1, 2.0)),
    "one call too many": ([THINK + CALL] * 4 + [LAST], (4, 3)),
    "fractions": ([THINK + boxed("[10.2, 20.4, 100.4, 110.6]"), LAST], (2, 1, 2.0)),
    "no call": ([f"<think>!</think>{L}"], (1, 0, 0.0)),
}


def told(script, processor):
    """Turns, crops and reward, there and here."""
    theirs, (ours,) = play_theirs(script), play_ours([script], processor)
    there = paid(*score(theirs.text, lambda answer: is_correct(answer, TRUTH)))
    here = reward(VARIANTS["conditional"], ours.correct, ours.well_formed, len(ours.boxes_px))
    crops = sum(map(is_crop, theirs.acts)), len(ours.boxes_px)
    return (len(theirs.acts), crops[0], there), (len(ours.turns), crops[1], here)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_row_is_as_it_is_listed(name, processor):
    script, *listed = EXAMPLES[name]
    assert told(script, processor) == tuple(map(pytest.approx, listed))
    (episode,) = play_ours([script], processor)
    assert name in [row for rows in differences(script, episode) for row in rows]


@pytest.mark.parametrize("name", SAME)
def test_what_is_not_listed_is_the_same(name, processor):
    script, figures = SAME[name]
    for side in told(script, processor):
        assert side[: len(figures)] == pytest.approx(figures)


def test_every_row_of_the_list_is_tested():
    apart = {"calls", "words", "prompt", "frame", "schema", "sharp", "square"}
    math_rows = {"two-boxes", "empty-box", "braces"}
    assert set(EXAMPLES) | apart | math_rows == LISTED
    assert set(TURNS) | set(REWARDS) == set(EXAMPLES)


def test_the_bound_on_calls_and_the_words_of_an_error(processor):
    script = [THINK + CALL] * 5 + [LAST]
    theirs, (ours,) = play_theirs(script, max_calls=4), play_ours([script], processor, max_calls=6)
    assert len(theirs.acts) == 5 and (len(ours.boxes_px), ours.answer) == (5, "K")
    (ours,) = play_ours([[THINK + CALLS["prose"], LAST]], processor)
    text = processor.tokenizer.decode(ours.completion_ids)
    assert f"<tool_response>{ours.turns[0].errors[0]}{FORMAT}</tool_response>" in text


def test_prompt_and_schema():
    policy = ServedPolicy(Endpoint("http://localhost:9", "m", retries=0), "deepeyes")
    row = {"question": "What is it?\nA. a cup\nB. a cat"}
    _, user = policy.messages(Trajectory(row, [Image.new("RGB", (56, 56))]))
    assert user["content"][1]["text"] == row["question"] + FORMAT
    assert '"required":["bbox_2d"]' in deepeyes_system()


def test_frame_sharpness_and_shape_of_a_crop(processor):
    size = (4032, 4032)
    view = view_of(processor)(size)
    box = [view[0] // 2, view[1] // 2, view[0] * 3 // 4, view[1] * 3 // 4]
    script = [THINK + boxed(str(box)), LAST]
    (there, _), (ours,) = play_theirs(script, size).acts, play_ours([script], processor, size)
    assert there == tuple(box) and ours.crops_px[0][0] == pytest.approx(2016, abs=3)
    assert ours.images[1].size == view_of(processor)((1008, 1008)) < (1008, 1008)
    scan = Image.new("RGB", (400, 400))
    wide = [100, 100, 900, 200]
    (square,) = ZoomTool(scan).image_zoom_in_tool(wide)
    (shaped,) = ZoomTool(scan, view=View(3136, 10**6)).image_zoom_in_tool(wide)
    width, height = shaped["image"].size
    assert square["image"].size == (320, 320) and width == 8 * height
    assert TINY_EYES.square and tool_of(processor)(scan).view is not None


@pytest.mark.parametrize(
    ("text", "truth", "there", "here"),
    [
        (r"<think>?</think>\boxed{1} and \boxed{2}", "2", 0.8, 1.2),  # two-boxes
        (r"<think>?</think>\boxed{}", "2", -0.4, 0.0),  # empty-box
        (r"<think>?</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}", 0.0, 1.2),  # braces
        (r"<think>?</think>\boxed{2}", "2", 1.2, 1.2),
        (r"<think>?\boxed{2}", "2", 0.8, 0.8),
        ("<think>?</think>2", "2", -0.4, -0.4),
    ],
)
def test_the_rows_on_math(text, truth, there, here):
    assert score_math(text, lambda answer: is_correct(answer, truth)) == pytest.approx(there)
    assert compute_score(MATH, text, truth) == pytest.approx(here)
