"""The figures in the READMEs are those of the committed records."""

import html
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "data" / "runs" / "study"
RUNS = sorted(STUDY.glob("conditional-[0-2]"))


def block(path: Path, mark: str) -> str:
    """What stands between the two marks of a README."""
    parts = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->")
    assert len(parts) == 3, f"{path.name} needs two marks <!-- {mark} -->"
    return parts[1].strip()


def test_the_demo_table_is_made_of_the_records():
    from deepeyes_lite.evaluation import seeds_table

    assert block(ROOT / "README.md", "demo") == seeds_table(RUNS)


def test_the_picture_is_made_of_the_record_that_is_named():
    """With its description; the pixels are left alone, for they depend on the build of the fonts."""
    from deepeyes_lite.viz.animation import alt, story

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = story(ROOT / re.search(r"deepeyes_lite animate --records (\S+?)`", text)[1])
    picture = block(ROOT / "README.md", "zoom")
    assert f'alt="{html.escape(alt(shown))}"' in picture
    moving, still = (ROOT / re.search(rf'{name}="(\S+)"', picture)[1] for name in ("src", "srcset"))
    assert moving.stat().st_size < 1_000_000 and still.stat().st_size < 1_000_000
    with Image.open(moving) as image:
        assert image.n_frames == len(shown.episodes) and image.info["loop"] == 0


def test_the_ledger_is_made_of_the_records():
    from deepeyes_lite.study.claims import ledger, table

    rows = ledger(ROOT / "data" / "runs" / "study")
    assert block(ROOT / "README.md", "claims") == table(rows)
    assert json.loads((ROOT / "data" / "claims.json").read_text()) == rows


def test_what_the_study_took_is_made_of_the_records():
    from deepeyes_lite.study.records import load_records, spent

    assert block(ROOT / "README.md", "spent") == spent(load_records(STUDY))


def test_the_table_of_the_notebooks_is_made_of_the_record():
    from measure_notebooks import RECORD, table

    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert set(record) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert block(ROOT / "README.md", "notebooks") == table(record)


def test_the_size_of_the_plan_is_said():
    from deepeyes_lite.study.run import plan
    from deepeyes_lite.training import RunConfig

    assert f"a plan ({len(plan(RunConfig(), Path('data')))} runs;" in (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


def test_the_step_table_is_made_of_the_record():
    from bench_step import table

    record = json.loads((ROOT / "data" / "runs" / "bench.json").read_text())
    assert block(ROOT / "README.md", "bench") == table(record)


def test_the_memory_table_is_made_of_presets_and_records():
    from deepeyes_lite.realworld.gpu import table

    assert block(ROOT / "README.md", "memory") == table(ROOT / "data" / "runs" / "gpu")


def test_the_card_is_made_of_its_measurement():
    from deepeyes_lite.tinyworld.pretraining.card import table

    folder = ROOT / "data" / "tiny-eyes"
    assert block(folder / "README.md", "measured") == table(
        json.loads((folder / "card.json").read_text())
    )


def test_the_first_three_seeds_have_scenes_to_look_at():
    assert [run.name for run in RUNS] == ["conditional-0", "conditional-1", "conditional-2"]
    assert all((run / "snapshots" / "0100.jsonl").exists() for run in RUNS)


@pytest.mark.parametrize("folder", sorted(STUDY.glob("*/")), ids=lambda folder: folder.name)
def test_a_record_is_whole_and_one_of_the_plan(folder):
    from deepeyes_lite.study.run import plan, recorded
    from deepeyes_lite.training import preset, read_history

    questions = Path("runs") / "study" / "data"
    runs = {**plan(preset("demo", seed=5), questions), **plan(preset("demo"), questions)}
    run = runs[folder.name]
    assert recorded(folder, run)
    assert [row["step"] for row in read_history(folder / "history.csv")] == [
        *range(1, run.config.steps + 1)
    ]
    if run.measured != "history":
        assert json.loads((folder / "evaluation.json").read_text())["samples"] == 300
