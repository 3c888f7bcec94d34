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


def picture(size=(100, 60), format="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, 128).save(buffer, format)
    return buffer.getvalue()


def bomb():
    """A PNG of a few bytes that says it has 30,000 x 30,000 px."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


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
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert errors == [] and dataset.features == FEATURES
    first, second = dataset
    assert first["question"] == (
        "What is the colour of the flag?\n"
        "A. The flag is white.\nB. The flag is red.\nC. The flag is blue."
    )
    assert (first["answer"], first["options"]) == ("A", FLAG["options"])
    assert first["boxes_px"] == [[10, 5, 30, 15]]  # from x, y, width, height
    assert first["id"] == "vstar-direct_attributes/sa_1"
    assert (first["kind"], first["source"], first["verifier"]) == (
        "direct_attributes",
        "V* Bench",
        "choice",
    )
    assert second["kind"] == "relative_position"
    assert second["boxes_px"] == [[0, 0, 9, 9], [90, 50, 100, 60]]  # cut to the image


def test_boxes_are_those_of_the_enlarged_image(tmp_path):
    vstar(tmp_path / "v", image=picture((14, 28)), bbox=[[7, 14, 7, 14]])
    dataset, _ = read("vstar", tmp_path, tmp_path / "v")
    assert dataset[0]["image"].size == (28, 56)
    assert dataset[0]["boxes_px"] == [[14, 28, 28, 56]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["one"]}, "options must be a list of 2 to 8 texts"),
        ({"options": "white"}, "options must be a list"),
        ({"options": ["white", None]}, "options is empty"),
        ({"question": ""}, "question is empty"),
        ({"question": "Is it?<|image_pad|>"}, "only the template may write"),
        ({"bbox": [[1, 2, 3]]}, "bbox must hold boxes of four numbers"),
        ({"bbox": [[1, 2, 3, "4"]]}, "bbox must hold boxes"),
        ({"bbox": {"x": 1}}, "bbox must hold boxes"),
        ({"image": b"no image"}, "is not an image"),
        ({"image": bomb()}, "million pixels"),
        ({"image": picture(format="PNG")[:-30]}, "damaged or cut off"),
    ],
)
def test_a_bad_question_costs_only_itself(tmp_path, change, message):
    vstar(tmp_path / "v")
    vstar(tmp_path / "v", "sa_2", **change)
    dataset, (error,) = read("vstar", tmp_path, tmp_path / "v")
    assert dataset["id"][:] == ["vstar-direct_attributes/sa_1"]
    assert str(error).startswith("direct_attributes/sa_2: ") and message in str(error)


def test_what_has_no_partner_or_no_json_is_said(tmp_path):
    vstar(tmp_path / "v")
    for name in ("sa_2", "sa_3", "sa_4"):
        vstar(tmp_path / "v", name)
    folder = tmp_path / "v" / "direct_attributes"
    (folder / "sa_2.jpg").unlink()
    (folder / "sa_3.json").unlink()
    (folder / "sa_4.json").write_text("[" * 100_000)
    dataset, errors = read("vstar", tmp_path, tmp_path / "v")
    assert len(dataset) == 1
    told = {error.row.split("/")[1]: error.message for error in errors}
    assert told["sa_2"] == "has no image of that name"
    assert told["sa_3"] == "has no annotation of that name"
    assert "cannot be read" in told["sa_4"]


def test_the_splits_that_are_not_counted_are_not_read(tmp_path):
    vstar(tmp_path / "v")
    vstar(tmp_path / "v", "0", "GPT4V-hard")
    assert len(read("vstar", tmp_path, tmp_path / "v")[0]) == 1


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
    "image": base64.b64encode(picture()).decode(),
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
    assert (first["source"], first["image"].size) == ("HR-Bench 4K", (100, 60))
    assert [row["kind"] for row in (first, second)] == ["single", "cross"]


def test_a_folder_holds_the_file_of_its_name(tmp_path):
    hrbench(tmp_path / "hr_bench_8k.parquet", {})
    assert read("hrbench-8k", tmp_path, tmp_path)[0]["source"][:] == ["HR-Bench 8K"]
    with pytest.raises(FileNotFoundError, match="holds none of hr_bench_4k.parquet"):
        write("hrbench-4k", tmp_path / "other", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "answer 'E' is none of 4 options"),
        ({"answer": "no such letter " * 99}, "is none of 4 options"),
        ({"answer": ""}, "answer is empty"),
        ({"image": "@@@"}, "is not"),
        ({"image": base64.b64encode(bomb()).decode()}, "million pixels"),
        ({"A": "", "B": "", "C": ""}, "none of 1 options"),
        ({"question": " "}, "question is empty"),
        ({"C": "caf\udce9"}, "C is not UTF-8"),
    ],
)
def test_a_bad_row_of_hrbench_costs_only_itself(tmp_path, change, message):
    path = hrbench(tmp_path / "hr_bench_4k.tsv", {}, change)
    dataset, (error,) = read("hrbench-4k", tmp_path, path)
    assert len(dataset) == 1 and error.row == 3 and message in error.message


def test_a_table_that_is_broken_in_one_place_is_read_on(tmp_path, monkeypatch):
    path = hrbench(tmp_path / "hr_bench_4k.tsv", {}, {"question": "x" * 9000}, {})
    monkeypatch.setattr(
        public, "MAX_FILE_BYTES", 3000
    )  # a field that is longer than an image may be
    before = csv.field_size_limit()
    dataset, (error,) = read("hrbench-4k", tmp_path, path)
    assert len(dataset) == 2 and "not valid TSV" in error.message
    assert csv.field_size_limit() == before


# --- POPE ---------------------------------------------------------------------------------------


def pope(path, *changes):
    row = {
        "id": "0",
        "question_id": "1",
        "question": "Is there a snowboard in the image?",
        "answer": "yes",
        "image_source": "COCO_val2014_000000310196",
        "image": {"bytes": picture(), "path": None},
        "category": "adversarial",
    }
    rows = [{**row, "id": str(i), **change} for i, change in enumerate(changes)]
    types = {name: Value("string") for name in row} | {"image": ImageFeature()}
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(types)).to_parquet(str(path))


def test_pope_is_yes_or_no_in_three_categories(tmp_path):
    file = tmp_path / "POPE" / "data" / "test-00000-of-00001.parquet"
    pope(file, {}, {"answer": "No", "category": "random"}, {"answer": "perhaps"})
    dataset, (error,) = read("pope", tmp_path, tmp_path / "POPE")
    assert [(row["answer"], row["kind"]) for row in dataset] == [
        ("yes", "adversarial"),
        ("no", "random"),
    ]
    assert set(dataset["verifier"]) == {"yes_no"} and dataset["id"][0] == "pope-0"
    assert str(error) == "row 2: answer must be yes or no, got 'perhaps'"


def test_an_image_is_not_decoded_before_its_size_is_known(tmp_path):
    file = tmp_path / "POPE" / "data" / "test-0.parquet"
    pope(file, {}, {"image": {"bytes": bomb(), "path": None}})
    dataset, (error,) = read("pope", tmp_path, tmp_path / "POPE")
    assert len(dataset) == 1 and "million pixels" in error.message


# --- all ----------------------------------------------------------------------------------------


def test_rows_beyond_the_limit_are_not_read_and_an_index_may_start_again(tmp_path):
    path = hrbench(tmp_path / "hr_bench_4k.tsv", {}, {"index": 0}, {}, {"answer": "E"})
    dataset, errors = read("hrbench-4k", tmp_path, path, limit=2)
    assert dataset["id"][:] == ["hrbench-4k-0", "hrbench-4k-0-row-3"] and errors == []


def test_a_set_larger_than_one_part_is_written_whole(tmp_path):
    for i in range(9):
        vstar(tmp_path / "v", f"sa_{i}")
    dataset, _ = read("vstar", tmp_path, tmp_path / "v")
    assert load_from_disk(tmp_path / "set")["id"][:] == dataset["id"][:]
    assert len(dataset) == 9 and {p.name for p in tmp_path.iterdir()} == {"v", "set"}


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
    with pytest.raises(ValueError, match="no usable row\n.*question is empty"):
        read("vstar", tmp_path, tmp_path / "v")
    (tmp_path / "hr_bench_4k.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(OSError, match="could not be read"):
        read("hrbench-4k", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="unknown set 'coco'; there are deepeyes"):
        read("coco", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="limit is at least 1"):
        read("vstar", tmp_path, tmp_path / "v", limit=0)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read("vstar", tmp_path, tmp_path / "nowhere")
    assert not (tmp_path / "set").exists()


def test_the_command_counts_what_it_left_out_and_does_not_overwrite(tmp_path, capsys):
    for i in range(4):
        vstar(tmp_path / "v", f"sa_{i}", question="What?" if i == 1 else "")
    arguments = ["data", "vstar", "--from", str(tmp_path / "v"), "--out", str(tmp_path / "set")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "direct_attributes/sa_0: question is empty (3 rows alike)",
        f"1 questions, 3 rows left out: {tmp_path / 'set'}",
    ]
    assert main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    out = tmp_path / "v.parquet"
    assert main(["export", "--data", str(tmp_path / "set"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"1 rows: {out}\n"
    assert main(["export", "--data", str(tmp_path), "--out", str(out)]) == 1


def test_what_was_written_can_be_trained_on_and_selected_from(tmp_path, random_eyes, capsys):
    from deepeyes_lite.training import RunConfig, training_set

    for i in range(2):
        vstar(tmp_path / "v", f"sa_{i}", options=["white", "red"])
    read("vstar", tmp_path, tmp_path / "v")
    rows = training_set(RunConfig(data=str(tmp_path / "set"), prompts_per_step=2))
    assert rows["options"][0] == ["white", "red"] and rows["verifier"][0] == "choice"
    assert rows["prompt"][0][0]["content"] == rows["question"][0]
    arguments = ["--data", str(tmp_path / "set"), "--model", str(random_eyes), "--k", "1"]
    assert main(["select", "--out", str(tmp_path / "selection"), *arguments]) == 0
    assert "of 2 questions kept" in capsys.readouterr().out
    Dataset.from_list([{"question": "?"}]).save_to_disk(tmp_path / "other")
    arguments[1] = str(tmp_path / "other")
    assert main(["select", "--out", str(tmp_path / "no"), *arguments]) == 1
    assert "lacks the columns" in capsys.readouterr().err
