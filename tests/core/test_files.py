"""files.py: a killed measurement goes on and ends where the undisturbed one ends."""

import json

import pytest

from deepeyes_lite import files
from deepeyes_lite.files import atomic_write, measure, read_log

IDS = [f"q{i}" for i in range(7)]
WHAT = {"what": "seeds", "seed": 2}


class Killed(Exception):
    pass


def run(path, die_after=None):
    """What was measured, and the chunks for which work was done."""
    chunks = []

    def work(start, stop, seed):
        if len(chunks) == die_after:
            raise Killed
        chunks.append((start, stop, seed))
        return [{"value": seed + i} for i in range(start, stop)]

    return measure(IDS, work, 3, WHAT, path, progress=False), chunks


def test_each_chunk_has_the_seed_of_its_place():
    rows, chunks = run(None)
    assert chunks == [(0, 3, 2_000_000), (3, 6, 2_000_003), (6, 7, 2_000_006)]
    assert [row["id"] for row in rows] == IDS


@pytest.mark.parametrize("die_after, cut", [(0, 0), (0, 5), (1, 0), (1, 30), (2, 0), (2, 5)])
def test_a_killed_measurement_goes_on(tmp_path, die_after, cut):
    undisturbed, _ = run(None)
    path = tmp_path / "deep" / "record.jsonl"
    with pytest.raises(Killed):
        run(path, die_after)
    if cut:  # the kill came while a line was being written
        path.write_bytes(path.read_bytes()[:-cut])
    rows, chunks = run(path)
    assert rows == undisturbed
    assert len(chunks) <= 3 and (cut or len(chunks) == 3 - die_after)
    assert read_log(path) == (WHAT, undisturbed)
    assert run(path) == (undisturbed, [])  # nothing is left to do


def test_another_record_is_refused_and_kept(tmp_path):
    path = tmp_path / "record.jsonl"
    head = json.dumps(WHAT)
    another = json.dumps({"what": "seeds", "seed": 3})
    for text in (another, f'{head}\n{{"id": "q1", "value": 0}}', "no JSON", "[1]", f"{head}\n17"):
        path.write_text(text + "\n")
        with pytest.raises(ValueError, match="choose another file or delete it|is not a record"):
            run(path)
        assert path.read_text() == text + "\n"
    path.write_text("")
    with pytest.raises(ValueError, match="record.jsonl is not a record"):
        read_log(path)


def test_a_folder_that_is_written_anew_is_whole_or_absent_and_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "selected"

    def write(text):
        with atomic_write(target) as tmp:
            tmp.mkdir()
            (tmp / "a").write_text(text)
            (tmp / "b").write_text(text)

    def states():
        return {(p / "a").read_text() + (p / "b").read_text() for p in tmp_path.glob("selected")}

    write("1")
    real, seen = files._remove, []
    monkeypatch.setattr(files, "_remove", lambda path: (seen.append(states()), real(path)))
    with (target / "a").open() as reader:
        write("2")
        assert reader.read() == "1"
    assert all(state in ({"11"}, {"22"}) for state in seen) and states() == {"22"}
    with pytest.raises(ZeroDivisionError), atomic_write(target) as tmp:
        tmp.mkdir()
        _ = 1 / 0
    assert states() == {"22"} and [path.name for path in tmp_path.iterdir()] == ["selected"]
