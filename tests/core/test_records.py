"""records.py: a killed measurement goes on and ends where the undisturbed one ends."""

import json

import pytest

from deepeyes_lite.files import measure, read_log

IDS = [f"q{i}" for i in range(7)]
WHAT = {"what": "seeds", "seed": 2}


class Killed(Exception):
    pass


def work(asked, die_after=None):
    def its(start, stop, seed):
        if die_after is not None and len(asked) >= die_after:
            raise Killed
        asked.append((start, stop, seed))
        return [{"value": seed + i} for i in range(start, stop)]

    return its


def run(path, die_after=None, identity=WHAT, ids=IDS):
    asked = []
    found = measure(ids, work(asked, die_after), 3, identity, path, progress=False)
    return found, asked


def test_each_chunk_has_the_seed_of_its_place():
    found, asked = run(None)
    assert asked == [(0, 3, 2_000_000), (3, 6, 2_000_003), (6, 7, 2_000_006)]
    assert [line["id"] for line in found] == IDS


@pytest.mark.parametrize("die_after", [0, 1, 2])
@pytest.mark.parametrize("cut", [0, 5, 30])
def test_a_killed_measurement_goes_on(tmp_path, die_after, cut):
    whole, _ = run(None)
    path = tmp_path / "deep" / "record.jsonl"
    with pytest.raises(Killed):
        run(path, die_after)
    if cut:  # the kill came while a line was being written
        path.write_bytes(path.read_bytes()[:-cut])
    found, asked = run(path)
    assert found == whole
    assert len(asked) <= 3 and (cut or len(asked) == 3 - die_after)
    assert read_log(path) == (WHAT, whole)
    assert run(path) == (whole, [])  # and is done


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"what": "seeds", "seed": 3}) + "\n",
        json.dumps(WHAT) + "\n" + json.dumps({"id": "q1", "value": 0}) + "\n",
        "no JSON\n",
        "[1]\n",
        json.dumps(WHAT) + "\n17\n",
    ],
)
def test_another_record_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "record.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="choose another file or delete it|is not a record"):
        run(path)
    assert path.read_text() == text


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match="x.jsonl is not a record"):
        read_log(path)
