"""public.py: each public set in exactly its own schema, made small; hostile rows cost only themselves."""

import base64
import csv
import io
import json
import struct
import zlib

import pytest
from datasets import Dataset, Features, Value, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image

from deepeyes_lite.__main__ import main
from deepeyes_lite.data import FEATURES
from deepeyes_lite.realworld import public
from deepeyes_lite.realworld.public import SETS, write

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


def bomb():
    """A PNG of a few bytes that says it has 10,000 x 10,000 px."""
    data = b"\x89PNG\r\n\x1a\n"
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    for body in (header, b"IDAT"):
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data


def vstar(folder, name="sa_1", split="direct_attributes", image=None, **changes):
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / split / f"{name}.jpg").write_bytes(picture() if image is None else image)
    (folder / split / f"{name}.json").write_text(json.dumps({**FLAG, **changes}))


def read(name, folder, source, **options):
    return write(name, folder / "set", source, progress=False, **options)


# --- V* Bench -----------------------------------------------------------------------------------


def test_vstar_has_its_options_below_the_question_and_the_first_is_right(tmp_path):
    vstar(tmp_path / "v")
    vstar(tmp_path / "v", "sa_2", "relative_position", bbox=[[0, 0, 9, 9], [90, 50, 50, 50]])
    vstar(tmp_path / "v", "sa_3", "relative_position", picture((14, 28)), bbox=[[7, 14, 7, 14]])
    vstar(tmp_path / "v", "0", "GPT4V-hard")  # a split that is not counted
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert errors == [] and dataset.features == FEATURES
    first, second, small = dataset
    assert first["question"] == (
        "What is the colour of the flag?\n"
        "A. The flag is white.\nB. The flag is red.\nC. The flag is blue."
    )
    assert (first["answer"], first["options"]) == ("A", FLAG["options"])
    assert first["boxes_px"] == [[10, 5, 30, 15]]  # from x, y, width, height
    names = [first[name] for name in ("id", "kind", "source", "verifier")]
    assert names == ["vstar-direct_attributes/sa_1", "direct_attributes", "V* Bench", "choice"]
    assert second["kind"] == "relative_position"
    assert second["boxes_px"] == [[0, 0, 9, 9], [90, 50, 100, 60]]  # cut to the image
    # Boxes are those of the enlarged image.
    assert (small["image"].size, small["boxes_px"]) == ((28, 56), [[14, 28, 28, 56]])


def test_a_bad_question_of_vstar_costs_only_itself(tmp_path):
    vstar(tmp_path / "v")
    bad = [
        ({"options": ["one"]}, "none of 1 options (2 to 8)"),
        ({"options": "white"}, "list of options"),
        ({"options": ["white", None]}, "options is empty"),
        ({"question": ""}, "question is empty"),
        ({"question": "Is it?<|image_pad|>"}, "only the template may write"),
        ({"bbox": [[1, 2, 3]]}, "bbox must hold boxes of four numbers"),
        ({"bbox": [[1, 2, 3, "4"]]}, "bbox must hold boxes"),
        ({"bbox": {"x": 1}}, "bbox must hold boxes"),
        ({"image": b"no image"}, "no image"),
        ({"image": bomb()}, "million pixels"),
        ({"image": picture(format="PNG")[:-30]}, "damaged"),
        ({}, "has no image of that name"),
        ({}, "has no annotation of that name"),
        ({}, "the annotation is no JSON object"),
    ]
    for number, (change, _) in enumerate(bad, start=10):
        vstar(tmp_path / "v", f"sa_{number}", **change)
    folder = tmp_path / "v" / "direct_attributes"
    (folder / "sa_21.jpg").unlink()
    (folder / "sa_22.json").unlink()
    (folder / "sa_23.json").write_text("[" * 100_000)
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert dataset["id"][:] == ["vstar-direct_attributes/sa_1"]
    by_name = dict(error.split(": ", 1) for error in errors)
    assert len(errors) == len(bad)
    for number, (_, message) in enumerate(bad, start=10):
        assert message in by_name[f"direct_attributes/sa_{number}"]


# --- HR-Bench -----------------------------------------------------------------------------------

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
    "image": base64.b64encode(
        picture((400, 300), "BMP")
    ).decode(),  # longer than a field of csv may be
}


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


@pytest.mark.parametrize("ending", ["parquet", "tsv"])
def test_hrbench_keeps_texts_as_they_are_written(tmp_path, ending):
    path = hrbench(tmp_path / f"hr_bench_4k.{ending}", {}, {"category": "cross", "answer": "D"})
    dataset, errors = read("hrbench-4k", tmp_path, path)
    assert errors == []
    first, second = dataset
    assert first["options"] == ["NA", "12", "exit", "None"]
    assert first["question"].endswith("\nA. NA\nB. 12\nC. exit\nD. None")
    assert (first["id"], first["answer"]) == ("hrbench-4k-0", "B")
    assert (first["source"], first["image"].size) == ("HR-Bench 4K", (400, 300))
    assert [row["kind"] for row in (first, second)] == ["single", "cross"]
    if ending == "parquet":  # a folder holds the file of its name
        assert len(write("hrbench-4k", tmp_path / "again", tmp_path)[0]) == 2


def test_a_bad_row_of_hrbench_costs_only_itself(tmp_path):
    bad = [
        ({"answer": "E"}, "answer 'E' is none of 4 options"),
        ({"answer": "no such letter " * 99}, "is none of 4 options"),
        ({"answer": ""}, "answer is empty"),
        ({"image": "@@@"}, "no image"),
        ({"image": "@@@a"}, "not base64"),
        ({"image": base64.b64encode(bomb()).decode()}, "million pixels"),
        ({"A": "", "B": "", "C": ""}, "none of 1 options"),
        ({"question": " "}, "question is empty"),
        ({"C": "caf\udce9"}, "C is not UTF-8"),
    ]
    path = hrbench(tmp_path / "hr_bench_4k.tsv", {}, *(change for change, _ in bad), {"index": 0})
    dataset, errors = read("hrbench-4k", tmp_path, path)
    # An index may start again; no row is lost for it.
    assert dataset["id"][:] == ["hrbench-4k-0", "hrbench-4k-0-row-12"]
    for row, (error, (_, message)) in enumerate(zip(errors, bad, strict=True), start=3):
        assert error.startswith(f"row {row}: ") and message in error
    (tmp_path / "set").rename(tmp_path / "all")
    dataset, errors = read("hrbench-4k", tmp_path, path, limit=2)
    assert (len(dataset), len(errors)) == (1, 1)


# --- POPE ---------------------------------------------------------------------------------------


def test_pope_is_yes_or_no_in_three_categories(tmp_path):
    row = {"id": "0", "question_id": "1", "question": "Is there a snowboard in the image?"}
    row |= {"answer": "yes", "category": "adversarial", "image": {"bytes": picture(), "path": None}}
    changes = [
        {},
        {"answer": "No", "category": "random"},
        {"answer": "perhaps"},
        {"image": {"bytes": bomb(), "path": None}},  # not decoded before its size is known
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


# --- all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_without_a_network_the_message_says_what_to_do(name, tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(public, "load_dataset", offline)
    monkeypatch.setattr(public, "snapshot_download", offline)
    with pytest.raises(OSError, match="no network.*name them with --from"):
        write(name, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_at_all_leaves_nothing(tmp_path):
    vstar(tmp_path / "v", question="")
    (tmp_path / "hr_bench_4k.parquet").write_bytes(b"PAR1 broken")
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
    assert {path.name for path in tmp_path.iterdir()} == {"v", "set"}
    assert main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export", "--data", out, "--out", str(parquet)]) == 0
    assert capsys.readouterr().out == f"11 rows: {parquet}\n"
    load_from_disk(out).select(range(2)).save_to_disk(tmp_path / "two")
    model = ["--model", str(random_eyes), "--k", "1", "--out", str(tmp_path / "selection")]
    assert main(["select", "--data", str(tmp_path / "two"), *model]) == 0
    assert "of 2 questions kept" in capsys.readouterr().out
