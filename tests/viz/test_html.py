"""html.py: an episode in words and as HTML, in which nobody else's text is markup."""

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.viz import html, plots
from episodes import HOSTILE, LONG, TEXTS, Reader, hostile, made


@pytest.fixture(scope="module")
def episode():
    """Right, with two zooms of which the second is nearer."""
    return made(3, scenes=3)[2]


class Tokenizer:
    def decode(self, ids):
        return f"<{ids[0]}>"


def test_somebody_else_s_text_is_bounded():
    assert html.excerpt(LONG, 10) == "KKKKKKKKKK … (100,000 characters in all)"
    assert html.excerpt("a\n\tb\x00\u202e\ud800") == "a\n\tb\ufffd\ufffd\ufffd"
    assert html.excerpt(5) == "5"
    for text in TEXTS:
        short = html.line(text, 20)
        assert len(short) <= 21 and short.isprintable()
        assert short == text or not text.isprintable() or len(text) > 20


def test_what_is_no_box_and_no_token_is_left_out():
    _, _, odd, bare = map(html.checked, hostile())
    assert odd.sample["boxes_px"] == [] and odd.boxes_px == []
    assert (odd.completion_ids, odd.loss_mask) == ([], [])
    assert bare.answer == "5" and bare.best_iou is None


@pytest.mark.parametrize("odd", [7, None, "text", {"a": 1}])
def test_a_field_that_is_no_list_is_left_out(odd, episode):
    turn = Turn("K", odd, odd, odd)
    shown = html.checked(replace(episode, completion_ids=odd, loss_mask=odd, turns=[turn]))
    assert (shown.completion_ids, shown.loss_mask, shown.turns) == ([], [], [Turn("K")])


def test_the_report_takes_no_configuration_for_markup():
    config = dict.fromkeys(("reward", "prompts_per_step", "num_generations", "seed"), HOSTILE)
    known = {
        "config": config | {"legible_share": 0.5},
        "configuration": HOSTILE,
        "samples": HOSTILE,
    }
    page = html.TEMPLATES.get_template("report.jinja").render(**known, rows=[[HOSTILE]], steps=1)
    assert Reader(page).text.count(HOSTILE) == 7 and "<script" not in page


def test_the_picture_has_the_target_and_numbered_zooms(episode):
    reader = Reader(html.picture(episode))
    rectangles = [attributes for tag, attributes in reader.tags if tag == "rect"]
    assert ["stroke-dasharray" in r for r in rectangles] == [True, False, False]
    x1, y1, x2, y2 = episode.boxes_px[1]
    drawn = [float(rectangles[2][name]) for name in ("x", "y", "width", "height")]
    assert drawn == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.06)
    assert reader.text == "zoom 1zoom 2"
    assert [a["data-turn"] for tag, a in reader.tags if "data-turn" in a] == ["1", "2"]
    assert Reader(html.boxes(episode)).text == "zoom 1zoom 2"
    assert "No picture is here" in html.picture(Trajectory({}))


def test_a_crop_is_drawn_as_it_was_cut_with_the_box_that_was_asked_for(episode):
    (x1, y1, x2, y2) = crop = (10, 20, 110, 120)
    turn = Turn("!", [(10, 60, 110, 80)], [], [crop])
    turned = Trajectory({"question": "?"}, episode.images[:2], turns=[turn])
    reader = Reader(html.picture(turned))
    cut, asked = [attributes for tag, attributes in reader.tags if tag == "rect"]
    assert "stroke-dasharray" not in cut and "stroke-dasharray" in asked
    assert [float(cut[n]) for n in ("x", "y", "width", "height")] == [x1, y1, x2 - x1, y2 - y1]
    assert [float(asked[n]) for n in ("x", "y", "width", "height")] == [10, 60, 100, 20]
    words = "(10, 60) to (110, 80) px, cut: (10, 20) to (110, 120) px"
    assert words in Reader(html.turns(turned)).text and words in html.episode_text(turned)
    scene = plots.episode_strip(turned).axes[0]
    bounds = [patch.get_bbox().bounds for patch in scene.patches]
    assert bounds == [(10, 20, 100, 100), (10, 60, 100, 20)]
    turn.crops_px = [HOSTILE]  # what is no box is left out, and the one asked for is drawn
    assert html.checked(turned).turns[0].zooms == [(turn.boxes_px[0],) * 2]


def test_a_picture_is_as_wide_as_a_page_needs_and_no_wider():
    large = Image.new("RGB", (5000, 2500))
    data = base64.b64decode(html.data_uri(large).split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (640, 320)
    assert large.size == (5000, 2500)  # the original stays as it is


def test_turns_tell_thought_call_answer_and_crop_apart(episode):
    reader = Reader(html.turns(episode))
    call = 'calls {"name": "image_zoom_in_tool"'
    for words in ("thinks I look.", call, "gets back zoom 2, box_px", "Turn 3 of 3"):
        assert words in reader.text
    assert reader.text.endswith(f"answers {episode.answer}")
    assert [tag for tag, _ in reader.tags].count("img") == 2


def test_the_reward_is_told_in_parts_that_add_up(episode):
    parts = html.parts(VARIANTS["conditional"], episode)
    assert {name: value for name, value in parts.items() if value} == {
        "accuracy_reward": 0.8,
        "tool_bonus": 1.2,
    }
    text = Reader(html.reward_table(parts)).text
    assert text == "accuracy+0.80bonus, right and zoomed+1.20reward+2.00"
    assert "curiosity" in html.reward_table({"curiosity_bonus": 0.1, "my_own": 1.0})


def test_tokens_show_the_mask(episode):
    text = Reader(html.tokens(episode, Tokenizer())).text
    assert text.startswith("3 tokens that the model wrote") and text.endswith("<5><6><7><8>")
    assert Reader(html.tokens(episode)).text.endswith("#5#6#7#8")
    assert "No tokens" in html.tokens(Trajectory({}))
    strip = html.token_strip([("<think>", 1), ("user\n", 0)])
    first, second = strip.split("</span>")[:2]
    assert "bold" in first and "bold" not in second  # not by colour alone
    assert Reader(strip).text == "<think>user⏎"


def test_a_strip_counts_placeholders_and_cuts_what_is_long():
    pieces = [("a", 1)] + [("<|image_pad|>", 0)] * 36 + [("b", 0)] + [("<|image_pad|>", 0)] * 2
    assert Reader(html.token_strip(pieces)).text == "a<|image_pad|> × 36b<|image_pad|> × 2"
    text = Reader(html.token_strip([("x", 1)] * 100_000)).text
    assert text.startswith("x" * 400) and text.strip().endswith("… and 99600 more")
    for text in TEXTS:
        strip = html.token_strip([(text, 1), ("end", 0)])
        assert Reader(strip).text.endswith("end") and len(strip) < 3000


@pytest.mark.parametrize("episode", hostile(), ids=["markup", "long", "odd", "bare"])
def test_a_hostile_episode_is_text_and_short(episode):
    episode = html.checked(episode)
    page = html.episode(HOSTILE, episode)
    text = Reader(page).text
    assert len(text) < 20_000
    if episode.sample.get("id") == HOSTILE:
        assert text.count(HOSTILE) >= 3
    if len(episode.answer or "") == len(LONG):
        assert "(100,000 characters in all)" in text


def test_an_episode_has_a_place_for_its_reward_and_its_tokens(episode):
    reader = Reader(html.episode("trained", episode))
    for words in ("trained", "96 px, all that tiny-eyes sees of it", "tokens and loss mask"):
        assert words in reader.text
    assert ("div", {"class": "reward"}) in reader.tags


def test_an_episode_without_a_known_answer_is_shown_without_reward():
    photo = Image.effect_noise((3000, 2000), 90).convert("RGB")
    turns = [Turn(HOSTILE, [(100, 200, 1900, 1900)]), Turn(LONG, [], [f"Error: {HOSTILE}"])]
    episode = Trajectory({"question": HOSTILE}, [photo], turns=turns, answer=HOSTILE)
    page = html.episode(f"model {HOSTILE}", episode)
    text = Reader(page).text
    assert len(page) < 4_000_000 and text.count(HOSTILE) >= 2
    assert "wrong" not in text and "loss mask" not in text
    assert "K" * 1900 in text and "K" * 2001 not in text


def test_how_an_episode_ended_in_words(episode):
    overlap = f"best IoU {episode.best_iou:.2f}"
    assert html.verdict(episode) == f"answer {episode.answer} (right), 2 zooms, {overlap}"
    wrong = Trajectory({"answer": "K", "boxes_px": []}, answer="L" * 99)
    assert html.verdict(wrong) == f"answer {'L' * 40}… (wrong, it is K), 0 zooms"
    assert html.verdict(Trajectory({"answer": "K"})) == "no answer (wrong, it is K), 0 zooms"


def test_an_episode_in_the_terminal_is_bounded_and_steers_nothing():
    turns = [Turn("\x1b[2J\x07\u202eKL\r", [(100, 200, 300, 400)]), Turn(LONG)]
    episode = Trajectory({"question": "?"}, turns=turns, answer=HOSTILE)
    lines = html.episode_text(episode).split("\n")
    assert lines[1] == "turn 1:  [2J  KL "
    assert lines[2].startswith("  zoom 1: (100, ")
    assert max(map(len, lines)) < 2100 and lines[-1] == f"answer: {HOSTILE}"
    episode.answer = None
    assert html.episode_text(episode).endswith("\nno answer")
