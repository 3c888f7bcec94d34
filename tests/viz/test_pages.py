"""pages.py: an episode as HTML, in which nobody else's text is markup."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.tools import zoom
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.viz import html
from episodes import HOSTILE, LONG, hostile, made

OURS = {
    "h1",
    "h2",
    "h3",
    "h4",
    "p",
    "b",
    "img",
    "svg",
    "image",
    "rect",
    "text",
    "table",
    "tr",
    "td",
}
PAGE = {"html", "meta", "title", "style", "div", "figure", "code", "span"}


class Reader(HTMLParser):
    """The tags of a page and its text; fails on tags, attributes and addresses that are not ours."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag in OURS | PAGE, tag
        self.tags.append((tag, dict(attributes)))
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                assert re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/=]+", value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def episode():
    """Right, with two zooms of which the second is nearer."""
    return made(3, scenes=3)[2]


def test_an_excerpt_is_cut_and_counted():
    assert html.excerpt(LONG, 10) == "KKKKKKKKKK … (100,000 characters in all)"
    assert html.excerpt("a\n\tb\x00\u202e\ud800") == "a\n\tb\ufffd\ufffd\ufffd"
    assert html.excerpt(5) == "5"


def test_the_picture_has_the_target_and_numbered_zooms(episode):
    reader = Reader(html.picture(episode))
    rectangles = [attributes for tag, attributes in reader.tags if tag == "rect"]
    assert ["stroke-dasharray" in r for r in rectangles] == [True, False, False]
    x1, y1, x2, y2 = episode.boxes_px[1]
    shown = [float(rectangles[2][name]) for name in ("x", "y", "width", "height")]
    assert shown == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.06)
    assert reader.text == "zoom 1zoom 2"
    assert "zooms: 2" in reader.tags[0][1]["aria-label"]


@pytest.mark.parametrize("shown", [1, 2])
def test_a_picture_of_the_first_turns_has_their_zooms_only(episode, shown):
    assert Reader(html.picture(episode, shown)).text.count("zoom") == shown


def test_a_picture_is_as_wide_as_a_page_needs_and_no_wider(episode):
    large = Image.new("RGB", (5000, 2500))
    data = base64.b64decode(html.data_uri(large).split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (1024, 512)
    assert large.size == (5000, 2500)  # the original stays as it is


def test_turns_tell_thought_call_answer_and_crop_apart(episode):
    reader = Reader(html.turns(episode))
    for said in (
        "thinks I look.",
        'calls {"name": "image_zoom_in_tool"',
        "gets back zoom 2, box_px",
    ):
        assert said in reader.text
    assert reader.text.endswith(f"answers {episode.answer}")
    assert [tag for tag, _ in reader.tags].count("img") == 2
    assert "Turn 3 of 3" in reader.text and "Turn 3" not in html.turns(episode, 2)


def test_the_reward_is_told_in_parts_that_add_up(episode):
    found = html.parts(VARIANTS["conditional"], episode)
    assert {name: value for name, value in found.items() if value} == {
        "accuracy_reward": 0.8,
        "tool_bonus": 1.2,
    }
    text = Reader(html.reward_table(found)).text
    assert text == "accuracy+0.80bonus, right and zoomed+1.20reward+2.00"


def test_tokens_show_the_mask(episode):
    class Tokenizer:
        def decode(self, ids):
            return f"<{ids[0]}>"

    text = Reader(html.tokens(episode, Tokenizer())).text
    assert text.startswith("3 tokens that the model wrote") and text.endswith("<5> <6> <7> <8>")
    assert Reader(html.tokens(episode)).text.endswith("#5 #6 #7 #8")


def test_what_is_no_box_and_no_token_is_left_out():
    _, _, odd, bare = map(html.checked, hostile())
    assert odd.sample["boxes_px"] == [] and odd.boxes_px == []
    assert (odd.completion_ids, odd.loss_mask) == ([], [])
    assert bare.answer == "5" and bare.best_iou is None


@pytest.mark.parametrize("episode", hostile(), ids=["markup", "long", "odd", "bare"])
def test_a_hostile_episode_is_text_and_short(episode):
    episode = html.checked(episode)
    page = html.episode_page({HOSTILE: episode}, VARIANTS["conditional"], {HOSTILE: 0.0})
    reader = Reader(page)
    page.encode()  # no half of a surrogate pair is left
    assert len(reader.text) < 20_000
    if episode.sample.get("id") == HOSTILE:
        assert reader.text.count(HOSTILE) >= 4
    if len(episode.answer or "") == len(LONG):
        assert "(100,000 characters in all)" in reader.text


def test_a_page_has_every_policy_and_no_script(episode):
    page = html.episode_page(
        {"base": made(1)[0], "trained": episode}, VARIANTS["iou"], {"base": 0.0, "trained": 1.0}
    )
    text = Reader(page).text
    assert "base" in text and "trained" in text and "bonus, IoU of the box" in text
    assert "url(" not in page and "@import" not in page


def test_an_episode_without_a_known_answer_is_shown_without_reward():
    photo = Image.effect_noise((3000, 2000), 90).convert("RGB")
    crop, box_px = zoom(photo, (100, 200, 1900, 1900))
    turns = [
        Turn(HOSTILE, [box_px]),
        Turn("K" * 100_000, [], [f"Error: {HOSTILE}"]),
        Turn(f"<answer>{HOSTILE}</answer>"),
    ]
    episode = Trajectory({"question": HOSTILE}, [photo, crop], turns=turns, answer=HOSTILE)
    page = html.episode_page({f"model {HOSTILE}": episode})
    reader = Reader(page)
    assert len(page) < 4_000_000 and reader.text.count(HOSTILE) >= 4
    assert "Reward" not in reader.text and "wrong" not in reader.text
    assert "K" * 1900 in reader.text and "K" * 2001 not in reader.text
    (x1, y1, x2, y2) = episode.boxes_px[0]
    assert f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"' in page


def test_an_episode_in_the_terminal_is_bounded_and_steers_nothing():
    turns = [Turn("\x1b[2J\x07\u202eKL\r", [(100, 200, 300, 400)]), Turn("K" * 100_000)]
    episode = Trajectory({"question": "?"}, turns=turns, answer=HOSTILE)
    lines = html.episode_text(episode).split("\n")
    assert lines[1] == "turn 1:  [2J  KL "
    assert lines[2].startswith("  zoom 1: (100, ")
    assert max(map(len, lines)) < 2100 and lines[-1] == f"answer: {HOSTILE}"
    episode.answer = None
    assert html.episode_text(episode).endswith("\nno answer")
