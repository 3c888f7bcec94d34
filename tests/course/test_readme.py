"""The figures in the READMEs are those of the committed records and files."""

import html
import json
import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "data" / "runs"
STUDY = RUNS / "study"
SEEDS = sorted(STUDY.glob("conditional-[0-2]"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(mark: str, text: str = README) -> str:
    """What stands between the two marks of a README."""
    parts = text.split(f"<!-- {mark} -->")
    assert len(parts) == 3, f"two marks <!-- {mark} --> are needed"
    return parts[1].strip()


def test_the_lines_are_those_of_the_files():
    """Else: python tests/house.py --write."""
    from house import table

    assert block("lines") == table()


def test_the_demo_table_is_made_of_the_records():
    from deepeyes_lite.study.records import seeds_table

    assert block("demo") == seeds_table(SEEDS)
    assert len(SEEDS) == 3 and all((run / "snapshots" / "0100.jsonl").exists() for run in SEEDS)


def test_the_picture_is_made_of_the_record_that_is_named():
    """With its description; the pixels are left alone, for they depend on the build of the fonts."""
    from deepeyes_lite.viz.animation import alt, story

    shown = story(ROOT / re.search(r"deepeyes_lite animate (\S+?)`", README)[1])
    picture = block("zoom")
    assert f'alt="{html.escape(alt(shown))}"' in picture
    moving, still = (ROOT / re.search(rf'{name}="(\S+)"', picture)[1] for name in ("src", "srcset"))
    assert moving.stat().st_size < 1_000_000 and still.stat().st_size < 1_000_000
    with Image.open(moving) as image:
        assert image.n_frames == len(shown.episodes) and image.info["loop"] == 0


def test_the_ledger_and_the_cost_of_the_study_are_made_of_the_records():
    from deepeyes_lite.study.claims import ledger, table
    from deepeyes_lite.study.records import load_records, spent

    rows = ledger(STUDY)
    assert block("claims") == table(rows)
    assert json.loads((ROOT / "data" / "claims.json").read_text(encoding="utf-8")) == rows
    assert block("spent") == spent(load_records(STUDY))


def test_the_controls_are_made_of_their_record():
    from deepeyes_lite.study.controls import table

    report = json.loads((RUNS / "controls.json").read_text(encoding="utf-8"))
    assert report["samples"] == 300 and block("controls") == table(report)


def test_the_records_are_those_of_the_plan():
    from deepeyes_lite.config import preset
    from deepeyes_lite.study.run import plan, recorded
    from deepeyes_lite.training import read_history

    questions = Path("runs") / "study" / "data"
    runs = plan(preset("demo"), questions)
    assert f"a plan ({len(runs)} runs;" in README
    runs = plan(preset("demo", seed=5), questions) | runs
    for folder in (path for path in STUDY.iterdir() if path.is_dir()):
        run = runs[folder.name]
        steps = [row["step"] for row in read_history(folder / "history.csv")]
        assert recorded(folder, run) and steps == [*range(1, run.config.steps + 1)], folder
        if run.measured != "history":
            evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            assert evaluation["samples"] == 300, folder


def test_the_tables_of_notebooks_steps_and_memory_are_made_of_the_records():
    import bench_step
    import measure_notebooks
    from deepeyes_lite.realworld import gpu

    record = json.loads(measure_notebooks.RECORD.read_text(encoding="utf-8"))
    assert set(record) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert block("notebooks") == measure_notebooks.table(record)
    bench = json.loads((RUNS / "bench.json").read_text(encoding="utf-8"))
    assert block("bench") == bench_step.table(bench)
    assert block("memory") == gpu.table(RUNS / "gpu")


def test_the_card_is_made_of_its_measurement():
    from deepeyes_lite.tinyworld.pretraining.card import table

    folder = ROOT / "data" / "tiny-eyes"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert block("measured", (folder / "README.md").read_text(encoding="utf-8")) == table(card)


def test_the_adapter_s_card_has_the_figures_of_its_record():
    from deepeyes_lite.evaluation import table

    card = (ROOT / "data" / "tiny-eyes-zooms" / "README.md").read_text(encoding="utf-8")
    record = json.loads((STUDY / "conditional-0" / "evaluation.json").read_text(encoding="utf-8"))
    assert block("evaluation", card) == f"```\n{table(record)}\n```"
    assert "More Information Needed" not in card and "\nlicense: apache-2.0\n" in card


def test_model_and_adapter_are_plain_transformers_and_peft(monkeypatch):
    """The README's own lines, run; they act as what the package loads."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from deepeyes_lite.models import load_processor
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.rollout import rollout
    from deepeyes_lite.tinyworld.dataset import held_out

    monkeypatch.chdir(ROOT)
    names = {"AutoModelForImageTextToText": AutoModelForImageTextToText, "PeftModel": PeftModel}
    two, _, processor = (
        block("plain").strip("`").removeprefix("python\n").rpartition("processor = ")
    )
    exec(two, names)
    assert processor.startswith(
        "AutoProcessor.from_pretrained("
    )  # tests/tinyworld/test_model.py runs it
    policy = LocalPolicy(names["model"], load_processor("tiny-eyes"), temperature=0.0)
    episodes = rollout(held_out(8), policy, progress=False)
    assert sum(episode.called for episode in episodes) >= 6
    assert sum(episode.correct for episode in episodes) >= 6
