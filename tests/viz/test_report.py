"""report.py: one HTML file that needs nothing beside it and takes no text for markup."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from deepeyes_lite import evaluation, prompts
from deepeyes_lite.evaluation import CONDITIONS, evaluate_run
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import report
from deepeyes_lite.viz.report import write_report

CALL = "<think>$x^$</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})
HOSTILE = '<img src="http://example.org/x.png" onerror="alert(1)">\'"><script>alert(2)</script>$x^$'
TEXT = {"html", "meta", "title", "style", "h1", "h2", "p", "b", "pre", "details", "summary"}
OURS = TEXT | {"table", "tr", "th", "td", "img", "div", "figure"}


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory, processor):
    """An evaluated run whose model wrote hostile text."""
    out = shutil.copytree(finished_run, tmp_path_factory.mktemp("report") / "run")

    def fake(rows, policy, tool, seed):
        script = [CALL, f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>"]
        return rollout(
            rows, ScriptedPolicy(processor, script), tool=tool, seed=seed, progress=False
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "rollout", fake)
        evaluate_run(out, n=9)
    return out


@pytest.fixture(scope="module")
def page(run):
    path = write_report(run, episodes=3)
    assert path == run / "report.html" and not (run / "report.html.tmp").exists()
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open != ["style"]:
            self.texts.append(data)


def test_the_page_has_our_markup_only_and_it_is_closed(page):
    reader = Reader(page)
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} == OURS
    names = {name for _, attributes in reader.tags for name in attributes}
    assert names == {"lang", "charset", "src", "alt", "class"}


def test_the_page_needs_nothing_beside_it(page):
    images = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    assert len(images) == 2 + 2 * 3
    assert all(re.fullmatch(r"data:image/png;base64,[\w+/=]+", i["src"]) for i in images)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"<(script|link|iframe|object|base)\b", page)
    assert len(page) < 3_000_000


def test_every_image_says_what_it_shows(page):
    alts = [attributes["alt"] for tag, attributes in Reader(page).tags if tag == "img"]
    assert all(20 < len(alt) <= 300 for alt in alts)
    assert "illegible details: base" in alts[0].lower()
    assert sum(alt.startswith("Before: What letter") for alt in alts) == 3
    assert sum(alt.startswith("After: What letter") for alt in alts) == 3


def test_what_the_model_wrote_is_there_as_text(page):
    text = "".join(Reader(page).texts)
    assert text.count(HOSTILE) == 2 * 6  # thought and answer, three episodes before and after
    assert text.count(CALL) == 6


def test_the_table_has_every_condition_and_the_run_its_configuration(page, run):
    text = "".join(Reader(page).texts)
    for name in CONDITIONS:
        assert name in text
    assert "Arm conditional, 2 steps of 1 × 2 rollouts, seed 0; 9 held-out scenes" in text
    assert (run / "config.json").read_text() in text
    assert page.count("<td>") == 6 * len(CONDITIONS)


def test_a_report_is_written_anew_over_an_old_one(run, page):
    (run / "report.html").write_text("old")
    write_report(run, episodes=1)
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_a_run_that_was_not_evaluated_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluation.json in .*; run `evaluate --out"):
        write_report(tmp_path)


def test_episodes_are_chosen_by_what_was_asked_not_by_how_it_went():
    asked = [1, 0, 0, 1, 1, 0, 0, 1, 0, 0]
    chosen = [
        report._spread(
            [Trajectory(sample={"legible": a}, correct=correct, answer=answer) for a in asked], 6
        )
        for correct, answer in ((True, "K"), (False, None))
    ]
    assert chosen[0] == chosen[1] == [0, 1, 2, 3, 5, 6]
    assert report._spread([Trajectory(sample={"legible": 0})] * 2, 6) == [0, 1]


def test_a_report_of_few_scenes_shows_what_there_is(finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "run")
    evaluate_run(out, n=2)
    assert write_report(out).stat().st_size > 10_000
    assert json.loads((out / "evaluation.json").read_text())["samples"] == 2
