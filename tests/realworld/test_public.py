"""public.py: each public set in exactly its own schema, made small; hostile rows cost only themselves."""

import base64
import csv
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image

from deepeyes_lite.__main__ import main
from deepeyes_lite.data import FEATURES
from deepeyes_lite.options import with_options
from deepeyes_lite.realworld import public
from deepeyes_lite.realworld.public import SETS, write
from realworld.test_folder import png

FLAG = {
    "target_object": ["flag"],
    "bbox": [[10, 5, 20, 10]],
    "question": "What is the colour of the flag?",
    "options": ["The flag is white.", "The flag is red.", "The flag is blue."],
}


def picture(size=(100, 60), format="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, 128).save(buffer, format)
    return buffer.getvalue()


def vstar(folder, name="sa_1", split="direct_attributes", image=None, **changes):
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / split / f"{name}.jpg").write_bytes(picture() if image is None else image)
    (folder / split / f"{name}.json").write_text(json.dumps({**FLAG, **changes}))


def read(name, folder, source, **options):
    return write(name, folder / "set", source, progress=False, **options)


def test_vstar_has_its_options_below_the_question_and_the_first_is_right(tmp_path):
    vstar(tmp_path / "v")
    vstar(tmp_path / "v", "sa_2", "relative_position", bbox=[[0, 0, 9, 9], [90, 50, 50, 50]])
    vstar(tmp_path / "v", "sa_3", "relative_position", picture((14, 28)), bbox=[[7, 14, 7, 14]])
    vstar(tmp_path / "v", "0", "GPT4V-hard")  # a split that is not counted
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert errors == [] and dataset.features == FEATURES
    first, second, small = dataset
    assert first["question"] == with_options(FLAG["question"], FLAG["options"])
    assert (first["answer"], first["options"]) == ("A", FLAG["options"])
    assert first["boxes_px"] == [[10, 5, 30, 15]]  # from x, y, width, height
    names = [first[name] for name in ("id", "kind", "source", "verifier")]
    assert names == ["vstar-direct_attributes/sa_1", "direct_attributes", "V* Bench", "choice"]
    assert second["boxes_px"] == [[0, 0, 9, 9], [90, 50, 100, 60]]  # cut to the image
    # Boxes are those of the enlarged image.
    assert (small["image"].size, small["boxes_px"]) == ((28, 56), [[14, 28, 28, 56]])


def test_a_bad_question_of_vstar_costs_only_itself(tmp_path):
    vstar(tmp_path / "v")
    bad = [
        ({"options": ["one"]}, "none of 1 options (2 to 8)"),
        ({"options": ["white", None]}, "options is empty"),
        ({"question": "Is it?<|image_pad|>"}, "only the template may write"),
        ({"bbox": [[1, 2, 3, "4"]]}, "bbox must hold boxes"),
        ({"image": b"no image"}, "no image"),
        ({"image": png(10_000, 10_000)}, "million pixels"),
        ({"image": picture(format="PNG")[:-30]}, "damaged"),
        ({}, "has no image of that name"),
        ({}, "has no annotation of that name"),
        ({}, "the annotation is no JSON object"),
    ]
    names = [f"sa_{number}" for number in range(10, 10 + len(bad))]
    for name, (change, _) in zip(names, bad):
        vstar(tmp_path / "v", name, **change)
    folder = tmp_path / "v" / "direct_attributes"
    (folder / f"{names[-3]}.jpg").unlink()
    (folder / f"{names[-2]}.json").unlink()
    (folder / f"{names[-1]}.json").write_text("[" * 100_000)
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert dataset["id"][:] == ["vstar-direct_attributes/sa_1"]
    by_name = dict(error.split(": ", 1) for error in errors)
    assert len(errors) == len(bad)
    for name, (_, message) in zip(names, bad):
        assert message in by_name[f"direct_attributes/{name}"]


ASKED = "\nAnswer with the option's letter from the given choices directly."


def test_vstar_is_read_from_one_table_too(tmp_path):
    """The columns of lmms-eval's parquet, and the lines of the set's own test_questions.jsonl."""
    texts = ["What is it? (A) rubber (B) cotton (C) kevlar", "Where?\n(A) left\n(B) right" + ASKED]
    rows = [
        {"text": text, "category": category, "label": label, "question_id": str(i)}
        for i, (text, category, label) in enumerate(
            zip(texts, ["direct_attributes", "relative_position"], ["C", "(A)"])
        )
    ]
    rows.append({**rows[0], "question_id": "2", "label": "D"})
    image = {"bytes": picture(), "path": None}
    types = {name: Value("string") for name in rows[0]} | {"image": ImageFeature()}
    for place in ("a/data/test-00000-of-00001.parquet", "b/vstar.parquet"):
        (tmp_path / place).parent.mkdir(parents=True)
        pictured = [{**row, "image": image} for row in rows]
        Dataset.from_list(pictured, features=Features(types)).to_parquet(str(tmp_path / place))
    vstar(tmp_path / "c")
    lines = [{**row, "image": "direct_attributes/sa_1.jpg"} for row in rows]
    lines.append({**rows[0], "image": "../b/vstar.parquet"})
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "c" / "test_questions.jsonl").write_text(text, encoding="utf-8")
    for i, source in enumerate(["a", "b", "b/vstar.parquet", "c/test_questions.jsonl"]):
        (tmp_path / str(i)).mkdir()
        dataset, errors = read("vstar", tmp_path / str(i), tmp_path / source)
        first, second = dataset
        assert first["question"] == "What is it?\nA. rubber\nB. cotton\nC. kevlar"
        assert second["question"] == "Where?\nA. left\nB. right"
        assert dataset["answer"][:] == ["C", "A"] and first["image"].size == (100, 60)
        names = [second[name] for name in ("id", "kind", "verifier")]
        assert names == ["vstar-1", "relative_position", "choice"]
        assert "answer 'D' is none of 3 options" in errors[0]
        assert len(errors) == 1 or "inside the folder" in errors[1]
    assert read("vstar", tmp_path, tmp_path / "c")[0]["answer"][:] == [
        "A"
    ]  # the folders come first


HRBENCH = {
    "index": 0,
    "question": "What is written on the sign?",
    "answer": "B",
    "category": "single",
    "A": "NA",  # a text, not a missing value
    "B": "12",
    "C": "exit",
    "D": "None",
    "cycle_category": "1",
}
# Longer than a field of csv may be.
HRBENCH["image"] = base64.b64encode(picture((400, 300), "BMP")).decode()


def hrbench(path, *changes):
    rows = [{**HRBENCH, "index": i, **change} for i, change in enumerate(changes)]
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    else:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, list(HRBENCH), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_hrbench_keeps_texts_as_they_are_written_and_bad_rows_cost_only_themselves(tmp_path):
    changes = [{"category": "cross", "answer": "D"}, {"image": "@@@a"}, {"A": "", "B": "", "C": ""}]
    for ending in ("parquet", "tsv"):
        folder = tmp_path / ending
        folder.mkdir()
        bad = [{"C": "caf\udce9"}] if ending == "tsv" else []
        # An index may start again; no row is lost for it.
        path = hrbench(folder / f"hr_bench_4k.{ending}", {}, *changes, *bad, {"index": 0})
        source = folder if ending == "parquet" else path  # a folder holds the file of its name
        (first, second, third), errors = read("hrbench-4k", folder, source)
        assert first["options"] == ["NA", "12", "exit", "None"]
        assert first["question"].endswith("\nA. NA\nB. 12\nC. exit\nD. None")
        assert (first["id"], first["answer"]) == ("hrbench-4k-0", "B")
        assert (first["source"], first["image"].size) == ("HR-Bench 4K", (400, 300))
        assert [row["kind"] for row in (first, second)] == ["single", "cross"]
        assert third["id"].startswith("hrbench-4k-0-row-")
        messages = ["not base64", "none of 1 options", "C is not UTF-8"][: 2 + len(bad)]
        for error, message in zip(errors, messages, strict=True):
            assert error.startswith("row ") and message in error
    dataset, errors = read("hrbench-4k", tmp_path, path, limit=3)
    assert (len(dataset), len(errors)) == (2, 1)


def test_pope_is_yes_or_no_in_three_categories(tmp_path):
    row = {"id": "0", "question_id": "1", "question": "Is there a snowboard in the image?"}
    row |= {"answer": "yes", "category": "adversarial", "image": {"bytes": picture(), "path": None}}
    changes = [
        {},
        {"answer": "No", "category": "random"},
        {"answer": "perhaps"},
        {
            "image": {"bytes": png(10_000, 10_000), "path": None}
        },  # not decoded before its size is known
    ]
    rows = [{**row, "id": str(i), **change} for i, change in enumerate(changes)]
    types = {name: Value("string") for name in row} | {"image": ImageFeature()}
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "test-00000-of-00001.parquet"
    Dataset.from_list(rows, features=Features(types)).to_parquet(str(file))
    dataset, errors = read("pope", tmp_path, tmp_path)
    answers = [(row["id"], row["answer"], row["kind"]) for row in dataset]
    assert answers == [("pope-0", "yes", "adversarial"), ("pope-1", "no", "random")]
    assert set(dataset["verifier"]) == {"yes_no"}
    assert errors[0] == "row 2: answer must be yes or no, got 'perhaps'"
    assert "million pixels" in errors[1]


def test_what_cannot_be_read_at_all_leaves_nothing(tmp_path, monkeypatch):
    vstar(tmp_path / "v", question="")
    (tmp_path / "hr_bench_4k.parquet").write_bytes(b"PAR1 broken")
    with monkeypatch.context() as patch:

        def offline(*arguments, **options):
            raise ConnectionError("no network")

        patch.setattr(public, "load_dataset", offline)
        patch.setattr(public, "snapshot_download", offline)
        for name in SETS:
            with pytest.raises(OSError, match="no network.*name them with --from"):
                write(name, tmp_path / "set")
    for error, message, name, source, limit in (
        (ValueError, "no usable row\n.*question is empty", "vstar", "v", None),
        (OSError, "could not be read", "hrbench-4k", "", None),
        (OSError, "it holds none of hr_bench_8k.parquet", "hrbench-8k", "", None),
        (OSError, "could not be read", "vstar", "nowhere", None),
        (ValueError, "unknown set 'coco'; there are deepeyes", "coco", "", None),
        (ValueError, "limit is at least 1", "vstar", "v", 0),
    ):
        with pytest.raises(error, match=message):
            read(name, tmp_path, tmp_path / source, limit=limit)
    assert {path.name for path in tmp_path.iterdir()} == {"v", "hr_bench_4k.parquet"}


def test_a_set_is_written_counted_selected_from_and_exported_by_commands(
    tmp_path, random_eyes, capsys
):
    for i in range(14):  # more than are written at once
        vstar(tmp_path / "v", f"sa_{i}", question="" if i > 10 else "What?")
    out, parquet = str(tmp_path / "set"), tmp_path / "v.parquet"
    arguments = ["data", "vstar", "--from", str(tmp_path / "v"), "--out", out]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "direct_attributes/sa_11: question is empty (3 rows alike)",
        f"11 questions, 3 rows left out: {out}",
    ]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"v", "set", ".set.lock"}  # a lock is not taken away: another may wait for it
    assert main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export", "--data", out, "--out", str(parquet)]) == 0
    assert capsys.readouterr().out == f"11 rows: {parquet}\n"
    load_from_disk(out).select(range(2)).save_to_disk(tmp_path / "two")
    model = ["--model", str(random_eyes), "--k", "1", "--out", str(tmp_path / "selection")]
    assert main(["select", "--data", str(tmp_path / "two"), *model]) == 0
    assert "of 2 questions kept" in capsys.readouterr().out


MEMORY = """
import re, sys
from pathlib import Path
from deepeyes_lite.realworld.public import write
try:
    write("pope", sys.argv[2], sys.argv[1], limit=3, progress=False)
except (ValueError, OSError) as error:
    print(error)
# Not ru_maxrss, which a child has from the process that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
assert peak < 1_500_000, f"{peak} kB are too much"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_small_parquet_that_unfolds_to_gigabytes_takes_little(tmp_path):
    zeros = pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array([bytes(2_000_000)]))
    image = pa.StructArray.from_arrays([zeros.dictionary.take(zeros.indices)], ["bytes"])
    pq.write_table(pa.table({"image": image, "answer": ["yes"] * 1000}), tmp_path / "a.parquet")
    del zeros, image
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    command = [sys.executable, "-c", MEMORY]
    command += [str(tmp_path / "a.parquet"), str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=600)
    assert not (tmp_path / "out.tmp").exists()
