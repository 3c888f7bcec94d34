"""data.py, images.py, folder.py: the tiny world as a dataset; a folder of one's own with hostile rows."""

import csv
import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.data import FEATURES
from deepeyes_lite.realworld.folder import RowError, from_folder
from deepeyes_lite.realworld.images import read_photo
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tinyworld.scenes import SPLIT_LENGTH, World, draw_scene


def save(folder, name="a.png", size=(64, 48), mode="RGB", color="red", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def write_csv(folder, *rows, header=("image", "question", "answer"), name="questions.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_jsonl(folder, *records, name="questions.jsonl"):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def only_error(folder, table="questions.csv"):
    """The one error of a table whose other row is good."""
    dataset, errors = from_folder(folder, table)
    assert len(dataset) == 1 and len(errors) == 1, errors
    return errors[0]


GOOD = {"image": "a.png", "question": "What colour?", "answer": "red"}
GOOD_ROW = ("a.png", "What colour?", "red")


# --- the tiny world ---------------------------------------------------------------------------


def test_tiny_world_shows_the_scene_it_names():
    dataset = tiny_world("test", 3, start=7)
    assert dataset.features == FEATURES
    assert dataset["id"][:] == ["test-7", "test-8", "test-9"]
    for index, sample in zip((7, 8, 9), dataset):
        scene = draw_scene("test", index)
        assert np.array_equal(np.asarray(sample["image"]), np.asarray(scene.image))
        (box,) = sample["boxes_px"]
        target = next(thing for thing in scene.objects if list(thing.box_px) == box)
        assert sample["question"] == f"What letter is on the {target.name}?"
        assert sample["answer"] == target.letter
        assert sample["legible"] == int(target.legible)
        assert (sample["kind"], sample["source"]) == ("read", "tiny-world")


def test_tiny_world_is_the_same_from_any_start():
    assert tiny_world("train", 4)[3] == tiny_world("train", 1, start=3)[0]
    assert tiny_world("train", 1)[0] != tiny_world("test", 1)[0]


def test_tiny_world_stores_what_decodes_fast():
    raw = tiny_world("test", 1).with_format("arrow")[0]["image"][0].as_py()
    assert raw["path"] is None and raw["bytes"][:2] == b"BM"


def test_tiny_world_takes_the_dials():
    assert set(tiny_world("test", 8, World(legible_share=0.0))["legible"]) == {0}
    assert set(tiny_world("test", 8, World(legible_share=1.0))["legible"]) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "testing", "n": 1}, "unknown split 'testing'"),
        ({"split": "test", "n": 1, "kind": "colour"}, "unknown kind 'colour'"),
        ({"split": "test", "n": 0}, "n = 0"),
        ({"split": "test", "n": -3}, "n = -3"),
        ({"split": "test", "n": 1, "start": -1}, "scenes -1 to -1"),
        ({"split": "test", "n": 2, "start": SPLIT_LENGTH - 1}, "do not exist"),
    ],
)
def test_tiny_world_refuses_before_drawing(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_world(**arguments)


def test_last_scene_of_a_split_exists():
    assert tiny_world("test", 1, start=SPLIT_LENGTH - 1)["id"][:] == [f"test-{SPLIT_LENGTH - 1}"]


# --- a folder: what is read -------------------------------------------------------------------


def test_csv_gives_samples_of_the_schema(tmp_path):
    save(tmp_path)
    save(tmp_path, "sub/b.jpg", (100, 50))
    write_csv(
        tmp_path,
        ("a.png", "What colour?", "red", "[[1, 2, 30.5, 40]]", "colour", "one", "x"),
        ("sub/b.jpg", "Quelle couleur, déjà?", "rouge", "", "", "", ""),
        header=("image", "question", "answer", "boxes_px", "kind", "id", "notes"),
    )
    dataset, errors = from_folder(tmp_path)
    assert errors == []
    assert dataset.features == FEATURES
    first, second = dataset
    assert first["boxes_px"] == [[1.0, 2.0, 30.5, 40.0]]
    assert (first["kind"], first["id"], first["legible"]) == ("colour", "one", -1)
    assert second["question"] == "Quelle couleur, déjà?"
    assert (second["boxes_px"], second["kind"], second["id"]) == ([], "own", "folder-3")
    assert (second["image"].size, second["image"].mode) == ((100, 50), "RGB")


def test_jsonl_gives_the_same(tmp_path):
    save(tmp_path)
    write_jsonl(
        tmp_path,
        GOOD | {"boxes_px": [[0, 0, 64, 48]], "id": 5, "notes": {"any": 1}},
        "",
        GOOD | {"answer": 42, "boxes_px": None, "kind": None},
    )
    dataset, errors = from_folder(tmp_path, "questions.jsonl")
    assert errors == []
    assert dataset["id"][:] == ["5", "folder-3"]  # line numbers, the blank line counted
    assert dataset["answer"][:] == ["red", "42"]
    assert dataset["boxes_px"][:] == [[[0.0, 0.0, 64.0, 48.0]], []]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_bom_blank_rows_and_line_ends(tmp_path, newline):
    save(tmp_path)
    lines = [" image ,question,answer,", "", "a.png,What?,red,", ",,,", 'a.png," Is it, so? ",no,']
    (tmp_path / "questions.csv").write_bytes(b"\xef\xbb\xbf" + newline.join(lines).encode())
    dataset, errors = from_folder(tmp_path)
    assert errors == []
    assert dataset["question"][:] == ["What?", "Is it, so?"]
    assert dataset["id"][:] == ["folder-3", "folder-5"]
    records = [json.dumps(GOOD), json.dumps(GOOD | {"question": "a\u2028b"}, ensure_ascii=False)]
    data = b"\xef\xbb\xbf" + newline.join(records).encode()
    (tmp_path / "questions.jsonl").write_bytes(data)
    dataset, errors = from_folder(tmp_path, "questions.jsonl")
    assert errors == [] and len(dataset) == 2


def test_an_upright_rgb_file_is_kept_byte_for_byte(tmp_path):
    path = save(tmp_path, "a.jpg")
    write_csv(tmp_path, ("a.jpg", "What?", "red"))
    raw = from_folder(tmp_path)[0].with_format("arrow")[0]["image"][0].as_py()
    assert raw == {"bytes": path.read_bytes(), "path": None}


@pytest.mark.parametrize("suffix", ["png", "jpg", "mpo", "webp", "bmp", "gif", "tiff"])
def test_formats(tmp_path, suffix):
    more = {"mpo": {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}}
    save(tmp_path, f"a.{suffix}", **more.get(suffix, {}))
    write_csv(tmp_path, (f"a.{suffix}", "What?", "red"))
    image = from_folder(tmp_path)[0][0]["image"]
    assert (image.size, image.mode) == ((64, 48), "RGB")
    assert np.allclose(image.getpixel((5, 5)), (255, 0, 0), atol=4)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 200, (200, 200, 200)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("LA", (10, 255), (10, 10, 10)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),  # transparent: white, not what is hidden
        ("RGBA", (9, 8, 7, 255), (9, 8, 7)),
        ("I;16", 200 << 8, (200, 200, 200)),  # 16 bits are scaled, not clipped
    ],
)
def test_images_become_rgb(tmp_path, mode, color, expected):
    save(tmp_path, mode=mode, color=color)
    write_csv(tmp_path, GOOD_ROW)
    image = from_folder(tmp_path)[0][0]["image"]
    assert (image.mode, image.getpixel((5, 5))) == ("RGB", expected)


def test_cmyk_loses_its_profile(tmp_path):
    save(tmp_path, "a.jpg", mode="CMYK", color=(0, 0, 0, 0), icc_profile=b"not for RGB")
    write_csv(tmp_path, ("a.jpg", "What?", "white"))
    image = from_folder(tmp_path)[0][0]["image"]
    assert (image.mode, image.getpixel((5, 5))) == ("RGB", (255, 255, 255))
    assert "icc_profile" not in image.info


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, orientation):
    upright = Image.new("RGB", (64, 48))
    upright.paste((255, 255, 255), (0, 0, 20, 10))  # the mark is at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse, as Image.Transpose values
    turned = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "a.png", exif=exif)
    write_csv(tmp_path, (*GOOD_ROW, "[[0, 0, 64, 48]]"), header=(*GOOD, "boxes_px"))
    dataset, errors = from_folder(tmp_path)
    assert errors == []  # the box fits the upright image only
    assert np.array_equal(np.asarray(dataset[0]["image"]), np.asarray(upright))


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        ((14, 20), (28, 40)),
        ((7, 100), (28, 400)),
        ((1, 1), (28, 28)),
        ((1, 200), (28, 5600)),
        ((27, 28), (28, 29)),
    ],
)
def test_small_sides_are_enlarged_with_their_boxes(tmp_path, size, stored):
    save(tmp_path, size=size)
    box = json.dumps([[0, 0, size[0], size[1] / 2]])
    write_csv(tmp_path, (*GOOD_ROW, box), header=(*GOOD, "boxes_px"))
    sample = from_folder(tmp_path)[0][0]
    assert sample["image"].size == stored
    assert sample["boxes_px"] == [pytest.approx([0, 0, stored[0], stored[1] / 2])]


def test_a_dataset_may_be_larger_than_one_part(tmp_path):
    save(tmp_path)
    write_csv(tmp_path, *[GOOD_ROW] * 20)
    dataset, _ = from_folder(tmp_path)
    assert dataset["id"][:] == [f"folder-{row}" for row in range(2, 22)]


# --- a folder: rows that are left out ---------------------------------------------------------


def test_good_rows_are_kept_and_each_bad_row_has_one_error(tmp_path):
    save(tmp_path)
    write_csv(
        tmp_path,
        ("a.png", "What?", ""),
        GOOD_ROW,
        ("gone.png", "", ""),
        ("a.png", "One, two", "three", "four"),
        GOOD_ROW,
    )
    dataset, errors = from_folder(tmp_path)
    assert dataset["id"][:] == ["folder-3", "folder-6"]
    assert [error.row for error in errors] == [2, 4, 5]
    assert str(errors[0]) == "row 2: answer is empty"
    assert "4 fields under 3 columns" in errors[2].message
    assert isinstance(errors[0], RowError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "is not in the folder"),
        ("sub", "is not in the folder"),  # a folder
        ("", "image is empty"),
        ("../secret.png", "inside the folder"),
        ("sub/../../secret.png", "inside the folder"),
        ("..\\secret.png", "inside the folder"),
        ("/etc/passwd", "inside the folder"),
        ("C:\\secret.png", "inside the folder"),
        ("\\\\server\\share\\secret.png", "inside the folder"),
        ("a\0.png", "inside the folder"),
        ("x" * 5000 + ".png", "cannot be opened: File name too long"),
        ("link.png", "link that leads out"),
        ("linked/secret.png", "link that leads out"),
        ("loop.png", "image 'loop.png'"),
        ("text.png", "is not an image"),
        ("empty.png", "is not an image"),
        ("vector.eps", "is not an image"),
        ("cut.png", "damaged or cut off"),
        ("cut.jpg", "damaged or cut off"),
        ("broken.png", "damaged or cut off"),
    ],
)
def test_image_that_cannot_be_had(tmp_path, name, message):
    folder = tmp_path / "mine"
    save(folder)
    secret = save(tmp_path, "secret.png")
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (folder / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for suffix in ("png", "jpg"):
        noise.save(folder / f"cut.{suffix}")
        data = (folder / f"cut.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    data = bytearray((folder / "a.png").read_bytes())
    where = data.index(b"IDAT") + 8
    data[where : where + 8] = b"\xff" * 8
    (folder / "broken.png").write_bytes(data)
    write_csv(folder, GOOD_ROW, (name, "What?", "red"))
    error = only_error(folder)
    assert error.row == 3
    assert message in error.message
    assert len(error.message) < 300


def test_a_link_inside_the_folder_is_followed(tmp_path):
    folder = tmp_path / "mine"
    save(folder)
    (folder / "alias.png").symlink_to("a.png")
    (tmp_path / "way").symlink_to(folder)  # and the folder itself may be a link
    write_csv(folder, ("alias.png", "What?", "red"))
    assert from_folder(tmp_path / "way")[1] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path):
    save(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    write_csv(tmp_path, GOOD_ROW, ("pipe.png", "What?", "red"))
    assert "is not in the folder" in only_error(tmp_path).message


def png_header(width, height):
    """A PNG that promises many pixels and holds none."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (8_001, 8_000, "8001 x 8000 px, over 64 million pixels"),
        (10_000, 10_000, "over 64 million pixels"),  # where Pillow itself only warns
        (60_000, 60_000, "over 64 million pixels"),  # where Pillow itself raises
        (1, 201, "no side may be over 200 times the other"),
        (60_000_000, 1, "no side may be over 200 times the other"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bombs_are_refused_without_decoding(tmp_path, width, height, message):
    save(tmp_path)
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    write_csv(tmp_path, GOOD_ROW, ("bomb.png", "What?", "red"))
    assert message in only_error(tmp_path).message


def test_a_huge_file_is_not_read(tmp_path):
    save(tmp_path)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(257_000_000)  # a hole: takes no room on the disk
    write_csv(tmp_path, GOOD_ROW, ("huge.png", "What?", "red"))
    assert "larger than 256 MB" in only_error(tmp_path).message


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path, mode):
    save(tmp_path)
    save(tmp_path, "deep.tiff", mode=mode, color=5)
    write_csv(tmp_path, GOOD_ROW, ("deep.tiff", "What?", "red"))
    assert "save it with 8 bits" in only_error(tmp_path).message


BAD_BOXES = [
    ("[[0, 0, 10]]", "is not a box"),
    ("[[0, 0, 10, 10, 10]]", "is not a box"),
    ("[0, 0, 10, 10]", "must be like [[x1, y1, x2, y2]]"),
    ('{"x1": 0}', "must be like [[x1, y1, x2, y2]]"),
    ("7", "must be like [[x1, y1, x2, y2]]"),
    ("[[0, 0, 10, NaN]]", "four finite numbers"),
    ("[[0, 0, Infinity, 10]]", "four finite numbers"),
    ("[[0, 0, 1e999, 10]]", "four finite numbers"),
    (f"[[0, 0, {10**400}, 10]]", "four finite numbers"),
    ('[[0, 0, "10", 10]]', "four finite numbers"),
    ("[[0, 0, true, 10]]", "four finite numbers"),
    ("[[0, 0, null, 10]]", "four finite numbers"),
    ("[[5, 5, 5, 10]]", "is empty"),
    ("[[10, 10, 5, 5]]", "is empty"),
    ("[[-1, 0, 10, 10]]", "reaches out of the image of 64 x 48 px"),
    ("[[0, 0, 64, 48.5]]", "reaches out of the image of 64 x 48 px"),
    ("[[0, 0, 10, 10], [100, 100, 110, 110]]", "reaches out"),
]


@pytest.mark.parametrize(("boxes", "message"), BAD_BOXES)
def test_malformed_boxes_in_csv_and_jsonl(tmp_path, boxes, message):
    save(tmp_path)
    write_csv(tmp_path, (*GOOD_ROW, ""), (*GOOD_ROW, boxes), header=(*GOOD, "boxes_px"))
    error = only_error(tmp_path)
    assert message in error.message and len(error.message) < 300
    line = json.dumps(GOOD)[:-1] + f', "boxes_px": {boxes}}}'
    write_jsonl(tmp_path, GOOD, line)
    assert message in only_error(tmp_path, "questions.jsonl").message


@pytest.mark.parametrize("boxes", ["0 0 10 10", "[[0, 0, 10, 10]", "__import__('os')", "[" * 10**5])
def test_boxes_that_are_not_json(tmp_path, boxes):
    save(tmp_path)
    write_csv(tmp_path, (*GOOD_ROW, ""), (*GOOD_ROW, boxes), header=(*GOOD, "boxes_px"))
    assert "boxes_px is not JSON" in only_error(tmp_path).message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('["a.png", "What?", "red"]', "not a JSON object"),
        ("3", "not a JSON object"),
        ('"text"', "not a JSON object"),
        (json.dumps({"image": "a.png", "answer": "red"}), "question is empty"),
        (json.dumps(GOOD | {"question": " \t"}), "question is empty"),
        (json.dumps(GOOD | {"question": None}), "question is empty"),
        (json.dumps(GOOD | {"question": ["What?"]}), "question must be text"),
        (json.dumps(GOOD | {"answer": True}), "answer must be text"),
        (json.dumps(GOOD | {"image": {"path": "a.png"}}), "image must be text"),
        (json.dumps(GOOD | {"question": "\ud800?"}), "question is not UTF-8"),
        (json.dumps(GOOD | {"id": "\udfff"}), "id is not UTF-8"),
        (json.dumps(GOOD | {"question": "What?<|image_pad|>"}), "contains <|image_pad|>"),
        (json.dumps(GOOD | {"question": "<|im_start|>system"}), "contains <|im_start|>"),
    ],
)
def test_bad_jsonl_rows(tmp_path, line, message):
    save(tmp_path)
    write_jsonl(tmp_path, GOOD, line)
    error = only_error(tmp_path, "questions.jsonl")
    assert error.row == 2
    assert message in error.message and len(error.message) < 300


def test_duplicated_ids_keep_the_first_good_row(tmp_path):
    save(tmp_path)
    write_csv(
        tmp_path,
        ("gone.png", "What?", "red", "x"),
        (*GOOD_ROW, "x"),
        (*GOOD_ROW, "x"),
        (*GOOD_ROW, "folder-6"),
        (*GOOD_ROW, ""),  # whose own name would be folder-6
        header=(*GOOD, "id"),
    )
    dataset, errors = from_folder(tmp_path)
    assert dataset["id"][:] == ["x", "folder-6"]
    assert [error.row for error in errors] == [2, 4, 6]
    assert "id 'x' is taken by an earlier row" in errors[1].message


def test_csv_that_is_partly_broken(tmp_path):
    save(tmp_path)
    table = tmp_path / "questions.csv"
    head = b"image,question,answer\na.png,What?,red\n"
    table.write_bytes(head + b"a.png,Quelle caf\xe9?,red\n")  # Latin-1
    assert "question is not UTF-8" in only_error(tmp_path).message
    table.write_bytes(head + b'a.png,"What?,red\na.png,What?,red\n')  # a quote is never closed
    assert "is a quote missing" in only_error(tmp_path).message
    table.write_bytes(head + b"a.png," + b"x" * 200_000 + b",red\n")  # csv's own field limit
    assert "not valid CSV" in only_error(tmp_path).message
    table.write_bytes(head + b"a.png,What?\n")
    assert "answer is empty" in only_error(tmp_path).message


# --- a folder: tables that cannot be read ------------------------------------------------------


def test_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"questions\.csv"):
        from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        from_folder(tmp_path / "no-such-folder")


def test_missing_columns_are_named(tmp_path):
    save(tmp_path)
    write_csv(tmp_path, ("a.png", "What?"), header=("image", "text"))
    with pytest.raises(ValueError, match=r"lacks the column\(s\) question, answer; found: 'image'"):
        from_folder(tmp_path)
    (tmp_path / "questions.csv").write_text("image;question;answer\na.png;What?;red\n")
    with pytest.raises(ValueError, match="found: 'image;question;answer'"):
        from_folder(tmp_path)
    write_jsonl(tmp_path, {"image": "a.png", "question": "What?"})
    with pytest.raises(ValueError, match=r"lacks the column\(s\) answer"):
        from_folder(tmp_path, "questions.jsonl")


def test_no_good_row_lists_the_first_errors(tmp_path):
    write_csv(tmp_path, *[("gone.png", "What?", "red")] * 9)
    with pytest.raises(ValueError, match="no usable row") as error:
        from_folder(tmp_path)
    assert "row 2: image 'gone.png' is not in the folder" in str(error.value)
    assert "row 6:" in str(error.value) and "row 7:" not in str(error.value)


@pytest.mark.parametrize("name", ["questions.csv", "questions.jsonl"])
@pytest.mark.parametrize("text", ["", "\n\n", "image,question,answer\n", "nonsense"])
def test_tables_without_rows(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="no usable row|lacks the column"):
        from_folder(tmp_path, name)


def test_utf16_and_unknown_formats_are_refused(tmp_path):
    (tmp_path / "questions.csv").write_bytes("image,question,answer\n".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16; save it as UTF-8"):
        from_folder(tmp_path)
    (tmp_path / "questions.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.jsonl"):
        from_folder(tmp_path, "questions.xlsx")


def test_random_bytes_never_raise_anything_else(tmp_path):
    save(tmp_path)
    rng = np.random.default_rng(0)
    good = {"questions.csv": b"image,question,answer\na.png,What?,red\n"}
    good["questions.jsonl"] = json.dumps(GOOD).encode() + b"\n"
    for name, head in good.items():
        for _ in range(30):
            (tmp_path / name).write_bytes(head + rng.bytes(200) + b"\n" + rng.bytes(100))
            dataset, _ = from_folder(tmp_path, name)
            assert len(dataset) == 1


def test_damaged_files_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8))
    save(tmp_path)
    rows = [GOOD_ROW]
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, format)
        for i in range(8):
            data = bytearray(buffer.getvalue())
            for _ in range(20):
                data[rng.integers(len(data))] = rng.integers(256)
            (tmp_path / f"{format}{i}").write_bytes(data)
            rows.append((f"{format}{i}", "What?", "noise"))
    write_csv(tmp_path, *rows)
    dataset, errors = from_folder(tmp_path)
    assert len(dataset) + len(errors) == len(rows)
    for sample in dataset:  # what was accepted can be decoded again
        assert sample["image"].mode == "RGB"


# --- one picture ------------------------------------------------------------------------------


def test_a_photo_comes_upright_and_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, "a.jpg", (64, 48), exif=exif)
    assert (read_photo(path).mode, read_photo(path).size) == ("RGB", (48, 64))
    assert read_photo(save(tmp_path, "b.png", mode="L", color=7)).getpixel((0, 0)) == (7, 7, 7)


def test_hostile_photos_are_refused_with_the_reason(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(100_000, 100_000))
    (tmp_path / "text.jpg").write_text("This is no picture.")
    whole = save(tmp_path, "whole.jpg", (300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("bomb.png", "million pixels; reduce it"),
        ("text.jpg", "'text.jpg' is not an image"),
        ("cut.jpg", "damaged or cut off"),
        ("pipe.png", "no file"),
        ("nowhere.png", "no file"),
        (".", "no file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_photo(tmp_path / name)
