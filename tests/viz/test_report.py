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

    def scripted(rows, policy, tool, seed, title):
        script = [CALL, f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>"]
        return rollout(
            rows, ScriptedPolicy(processor, script), tool=tool, seed=seed, progress=False
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "rollout", scripted)
        evaluate_run(out, held_out(12))
    (out / "report.html").write_text("an older report")
    return out


def test_the_page_needs_nothing_beside_it_and_takes_no_text_for_markup(run):
    path = write_report(run)
    assert path == run / "report.html" and not (run / "report.html.tmp").exists()
    page = path.read_text(encoding="utf-8")
    page, scripts = re.subn(r"<script type=\"(text/plain|module)\">[^\0]*?</script>", "", page)
    assert scripts == 3  # the scrubber's data, its pictures, and its module
    reader = Reader(page)
    alts = [attributes["alt"] for tag, attributes in reader.tags if tag == "img"]
    assert len(alts) == 2 + 2 * 6 and all(20 < len(alt) <= 600 for alt in alts)
    assert "illegible details: base" in alts[0].lower()
    for title in ("Before", "After"):
        assert sum(alt.startswith(f"{title}: What letter") for alt in alts) == 6
    assert "url(" not in page and "@import" not in page
    assert not re.search(r"<(script|link|iframe|object|base)\b", page)
    assert page.startswith("<!doctype html>") and len(page) < 3_000_000
    text = reader.text
    assert text.count(HOSTILE) == 2 * 12  # thought and answer, six episodes before and after
    assert text.count(CALL) == 12
    assert all(name in text for name in CONDITIONS)
    assert page.count("<td>") == 6 * len(CONDITIONS)
    assert "Reward conditional, 2 steps of 1 × 2 rollouts, seed 0; 12 held-out scenes" in text
    assert (run / "config.json").read_text() in text


def test_what_there_is_is_shown(finished_run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluation.json in .*; run `evaluate --out"):
        write_report(tmp_path)
    assert spread([1, 0, 0, 1, 1, 0, 0, 1, 0, 0]) == [0, 1, 2, 3, 5, 6]
    assert spread([0, 0]) == [0, 1]
    out = shutil.copytree(finished_run, tmp_path / "run")
    evaluate_run(out, held_out(2))
    assert write_report(out).stat().st_size > 10_000
