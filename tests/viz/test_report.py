"""report.py: one HTML file that needs nothing beside it and takes no text for markup."""

import re
import shutil

import pytest

from deepeyes_lite import evaluation, prompts
from deepeyes_lite.evaluation import CONDITIONS, evaluate_run
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import held_out
from deepeyes_lite.viz.report import spread, write_report
from episodes import HOSTILE, Reader

CALL = "<think>$x^$</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory, processor):
    """An evaluated run whose model wrote hostile text."""
    out = shutil.copytree(finished_run, tmp_path_factory.mktemp("report") / "run")

    def scripted(rows, policy, tool, seed):
        script = [CALL, f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>"]
        return rollout(
            rows, ScriptedPolicy(processor, script), tool=tool, seed=seed, progress=False
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "rollout", scripted)
        evaluate_run(out, held_out(12))
    (out / "report.html").write_text("an older report")
    return out


@pytest.fixture(scope="module")
def page(run):
    path = write_report(run)
    assert path == run / "report.html" and not (run / "report.html.tmp").exists()
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_beside_it_and_every_image_says_what_it_shows(page):
    images = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    assert len(images) == 2 + 2 * 6
    alts = [image["alt"] for image in images]
    assert all(20 < len(alt) <= 600 for alt in alts)
    assert "illegible details: base" in alts[0].lower()
    for title in ("Before", "After"):
        assert sum(alt.startswith(f"{title}: What letter") for alt in alts) == 6
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"<(script|link|iframe|object|base)\b", page)
    assert page.startswith("<!doctype html>") and len(page) < 3_000_000


def test_what_the_model_wrote_is_there_as_text(page):
    text = Reader(page).text
    assert text.count(HOSTILE) == 2 * 12  # thought and answer, six episodes before and after
    assert text.count(CALL) == 12


def test_the_table_has_every_condition_and_the_run_its_configuration(page, run):
    text = Reader(page).text
    assert all(name in text for name in CONDITIONS)
    assert "Reward conditional, 2 steps of 1 × 2 rollouts, seed 0; 12 held-out scenes" in text
    assert (run / "config.json").read_text() in text
    assert page.count("<td>") == 6 * len(CONDITIONS)


def test_a_run_that_was_not_evaluated_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluation.json in .*; run `evaluate --out"):
        write_report(tmp_path)


def test_episodes_are_chosen_by_what_was_asked():
    assert spread([1, 0, 0, 1, 1, 0, 0, 1, 0, 0]) == [0, 1, 2, 3, 5, 6]
    assert spread([0, 0]) == [0, 1]


def test_a_report_of_few_scenes_shows_what_there_is(finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "run")
    evaluate_run(out, held_out(2))
    assert write_report(out).stat().st_size > 10_000
