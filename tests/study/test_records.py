"""records.py: what the committed records hold, and the tables that are made of records."""

from pathlib import Path

import numpy as np
import pytest

from deepeyes_lite import DATA
from deepeyes_lite.config import preset
from deepeyes_lite.evaluation import NotMeasured
from deepeyes_lite.study.plan import plan
from deepeyes_lite.study.records import load_records, seeds_table, spent

STUDY = DATA / "runs" / "study"


def test_the_committed_records_are_of_the_groups_of_the_plan():
    runs = {}
    for seed in (5, 0):
        runs |= plan(preset("demo", seed=seed), Path("data"))
    records = load_records(STUDY)
    assert len(records) >= 103
    assert {name: run.group for name, run in records.items()} == {n: runs[n].group for n in records}
    assert {run.device for run in records.values()} == {"CPU", "NVIDIA H200"}


def test_a_record_gives_its_episodes_and_the_ends_of_its_history():
    run = load_records(STUDY)["conditional-0"]
    legible, illegible = (run.episodes("trained", "correct", half) for half in (1, 0))
    assert len(legible) + len(illegible) == len(run.episodes("trained", "correct")) == 300
    assert np.isnan(run.episodes("base", "best_iou")).any()  # no call, no IoU
    assert len(run.episodes("chart: base", "correct")) == len(
        run.episodes("chart: trained", "calls")
    )
    assert run.mean("call_rate", "first") < 0.5 < run.mean("call_rate", "last")
    assert run.mean("call_rate", "last") <= run.mean("call_rate", "peak") <= 1
    with pytest.raises(NotMeasured, match="no episodes of 'moved'"):
        run.episodes("moved", "correct")


def test_the_table_of_seeds_has_a_row_for_every_seed():
    runs = sorted(STUDY.glob("conditional-[0-2]"))
    text = seeds_table(reversed(runs))
    assert text == seeds_table(runs)
    assert [line[:5] for line in text.splitlines()[2:]] == ["| 0 |", "| 1 |", "| 2 |"]
    assert len({line.count("|") for line in text.splitlines()}) == 1
    lines = spent(load_records(STUDY)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| CPU", "| NVIDIA H200"]
