"""folder.py: pictures and tables from outside are read; what is hostile or damaged costs only its row."""

import csv
import io
import json
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.data import FEATURES
from deepeyes_lite.realworld.folder import BadRow, from_folder, read_image, read_photo
from deepeyes_lite.verifiers import check_answer

GOOD = {"image": "a.png", "question": "What colour?", "answer": "red"}


def save(folder, name="a.png", size=(64, 48), mode="RGB", color="red", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def write_csv(folder, *rows, header=tuple(GOOD)):
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_jsonl(folder, *records):
    """As Windows writes it: with a byte order mark and two characters at the end of a line."""
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    (folder / "questions.jsonl").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())


def png(width, height):
    """A PNG that promises many pixels and holds none."""
    data = b"\x89PNG\r\n\x1a\n"
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for body in (header, b"IDAT" + zlib.compress(b"")):
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data


def test_csv_gives_samples_of_the_schema(tmp_path):
    save(tmp_path)
    save(tmp_path, "sub/b.jpg", (100, 50))
    write_csv(
        tmp_path,
        ("a.png", "What colour?", "red", "[[1, 2, 30.5, 40]]", "colour", "one", "x"),
        ("", "", "", "", "", "", ""),  # as a spreadsheet leaves it
        ("sub/b.jpg", "Quelle couleur, déjà?", "rouge", "", "", "", ""),
        header=(*GOOD, "boxes_px", "kind", "id", "notes"),
    )
    dataset, errors = from_folder(tmp_path)
    assert errors == [] and dataset.features == FEATURES
    first, second = dataset
    assert first["boxes_px"] == [[1.0, 2.0, 30.5, 40.0]]
    assert (first["kind"], first["id"], first["legible"]) == ("colour", "one", -1)
    assert second["question"] == "Quelle couleur, déjà?"
    assert (second["boxes_px"], second["kind"], second["id"]) == ([], "own", "folder-4")
    assert (second["image"].size, second["image"].mode) == ((100, 50), "RGB")


def test_json_lines_and_the_names_of_imagefolder_give_the_same(tmp_path):
    save(tmp_path)
    row = GOOD | {"answer": 42, "boxes_px": None, "kind": None, "question": "a\u2028b"}
    write_jsonl(tmp_path, GOOD | {"boxes_px": [[0, 0, 64, 48]], "id": 5, "notes": {}}, "", row)
    dataset, errors = from_folder(tmp_path)
    assert errors == []
    assert dataset["id"][:] == ["5", "folder-3"]  # line numbers, the blank line counted
    assert dataset["answer"][:] == ["red", "42"]
    assert dataset["boxes_px"][:] == [[[0.0, 0.0, 64.0, 48.0]], []]
    (tmp_path / "questions.jsonl").unlink()
    rows = [(*GOOD.values(), "x")] * 2
    write_csv(tmp_path, *rows, header=("file_name", "question", "answer", "id"))
    (tmp_path / "questions.csv").rename(tmp_path / "metadata.csv")
    dataset = from_folder(tmp_path)[0]
    assert dataset["answer"][:] == ["red"] * 2
    assert dataset["id"][:] == ["x", "x-row-3"]  # an id that is taken is made another


def test_each_bad_row_has_its_number_and_its_reason(tmp_path):
    save(tmp_path)
    bad = {
        ',"What?",red': "image is empty",
        "a.png,What?": "answer is empty",
        "a.png,One, two,three": "more fields than columns",
        "a.png,Quelle caf\udce9?,red": "question is not UTF-8",  # Latin-1
        "a.png,Is it?<|image_pad|>,red": "contains <|image_pad|>",
        'a.png,"What?,red\na.png,What?,red': "is a quote missing",  # never closed
    }
    text = "\n".join(["image,question,answer", "a.png,What?,red", *bad])
    (tmp_path / "questions.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    dataset, errors = from_folder(tmp_path)
    assert len(dataset) == 1 and len(errors) == len(bad)
    for row, (error, message) in enumerate(zip(errors, bad.values()), start=3):
        assert message in error and (error.startswith(f"row {row}: ") or error == errors[-1])
    (tmp_path / "questions.csv").unlink()
    bad = {
        "[" * 100_000: "not a JSON object",
        '["a.png", "What?", "red"]': "not a JSON object",
        json.dumps(GOOD | {"question": ["What?"]}): "question must be text",
        json.dumps(GOOD | {"question": "\ud800?"}): "question is not UTF-8",
    }
    write_jsonl(tmp_path, GOOD, *bad)
    _, errors = from_folder(tmp_path)
    for row, (error, message) in enumerate(zip(errors, bad.values(), strict=True), start=2):
        assert error.startswith(f"row {row}: {message}") and len(error) < 300


def test_a_box_lies_inside_the_upright_image(tmp_path):
    save(tmp_path)
    boxes = ["[[0, 0, 10]]", '{"x1": 0}', "7", "[[0, 0, 10, NaN]]", "[[0, 0, 1e999, 10]]"]
    boxes += [f"[[0, 0, {10**400}, 10]]", "[[0, 0, null, 10]]", "[[5, 5, 5, 10]]"]
    boxes += ["[[10, 10, 5, 5]]", "[[-1, 0, 10, 10]]", "[[0, 0, 64, 48.5]]"]
    bad = [*boxes, "0 0 10 10", "[[0, 0, 10, 10]", "__import__('os')", "[" * 10**5]
    rows = [(*GOOD.values(), box) for box in ("", *bad)]
    write_csv(tmp_path, *rows, header=(*GOOD, "boxes_px"))
    dataset, errors = from_folder(tmp_path)
    assert len(dataset) == 1 and len(errors) == len(bad)
    assert all("inside the image of 64 x 48 px" in e and len(e) < 300 for e in errors)
    (tmp_path / "questions.csv").unlink()
    write_jsonl(tmp_path, GOOD, *(json.dumps(GOOD)[:-1] + f', "boxes_px": {b}}}' for b in boxes))
    assert len(from_folder(tmp_path)[1]) == len(boxes)


def test_a_table_that_cannot_be_used_is_named_with_what_it_has(tmp_path):
    for folder in (tmp_path, tmp_path / "no-such-folder"):
        with pytest.raises(FileNotFoundError, match=r"no table in .*questions\.csv"):
            from_folder(folder)
    head, gone = b"image,question,answer\n", b"gone.png,What?,red\n" * 9
    for data, message in (
        (b"", "no usable row; columns: none"),
        (b"image;question;answer\na.png;What?;red\n", "columns: 'image;question;answer'"),
        ("image,question,answer\na.png,?,red\n".encode("utf-16"), "no usable row"),
        (head + gone, "row 6: no file 'gone.png' inside the folder$"),
    ):
        (tmp_path / "questions.csv").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            from_folder(tmp_path)


def test_random_bytes_never_raise_anything_else(tmp_path):
    save(tmp_path)
    rng = np.random.default_rng(0)
    for name, good in (
        ("questions.csv", b"image,question,answer\na.png,What?,red\n"),
        ("questions.jsonl", json.dumps(GOOD).encode() + b"\n"),
    ):
        for _ in range(30):
            (tmp_path / name).write_bytes(good + rng.bytes(200) + b"\n" + rng.bytes(100))
            assert len(from_folder(tmp_path)[0]) == 1
        (tmp_path / name).unlink()
    # Nor do damaged images.
    picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8))
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, format)
        for _ in range(8):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            data[rng.integers(len(data), size=20)] = rng.integers(256, size=20)
            try:
                image, stored, _ = read_image(data.tobytes(), "damaged")
            except BadRow:
                continue
            assert image.mode == read_image(stored, "again")[0].mode == "RGB"


def test_no_path_leaves_the_folder(tmp_path):
    folder = tmp_path / "mine"
    save(folder)
    secret = save(tmp_path, "secret.png")
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    bad = ["gone.png", "sub", "../secret.png", "sub/../../secret.png", "..\\secret.png"]
    bad += [str(secret), "C:\\secret.png", "a\0.png", "x" * 5000, "link.png", "linked/secret.png"]
    bad += ["loop.png", "pipe.png"]
    write_jsonl(folder, GOOD, *(GOOD | {"image": name} for name in bad))
    _, errors = from_folder(folder)
    assert len(errors) == len(bad)
    assert all("no file " in error and len(error) < 200 for error in errors)
    (folder / "alias.png").symlink_to("a.png")  # a link inside is followed
    (tmp_path / "way").symlink_to(folder)  # and the folder itself may be a link
    write_jsonl(folder, GOOD | {"image": "alias.png"})
    assert from_folder(tmp_path / "way")[1] == []


def test_an_image_becomes_upright_rgb_and_is_kept_where_it_is(tmp_path):
    path = save(tmp_path, "a.jpg")
    image, data, size = read_image(path)
    assert (image.mode, data, size) == ("RGB", path.read_bytes(), (64, 48))
    assert read_image(data)[1] == data
    more = {"mpo": {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}}
    for suffix in ("png", "mpo", "webp", "bmp", "gif", "tiff"):
        image, *_ = read_image(save(tmp_path, f"a.{suffix}", **more.get(suffix, {})))
        assert np.allclose(image.getpixel((5, 5)), (255, 0, 0), atol=4), suffix
    for mode, color, expected in (
        ("L", 200, (200, 200, 200)),
        ("P", 0, (0, 0, 0)),
        ("LA", (10, 255), (10, 10, 10)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),  # transparent: white, not what is hidden
        ("RGBA", (9, 8, 7, 255), (9, 8, 7)),
        ("I;16", 200 << 8, (200, 200, 200)),  # 16 bits are scaled, not clipped
    ):
        image, data, _ = read_image(save(tmp_path, mode=mode, color=color))
        assert (image.mode, image.getpixel((5, 5))) == ("RGB", expected), mode
        assert Image.open(io.BytesIO(data)).getpixel((5, 5)) == expected
    image, data, _ = read_image(
        save(tmp_path, "c.jpg", mode="CMYK", color=0, icc_profile=b"not RGB")
    )
    assert image.getpixel((5, 5)) == (255, 255, 255) and b"iCCP" not in data


def test_exif_orientation_is_applied_once(tmp_path):
    upright = Image.new("RGB", (64, 48))
    upright.paste((255, 255, 255), (0, 0, 20, 10))  # the mark is at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse, as Image.Transpose values
    for orientation in range(1, 9):
        turned = upright.transpose(undo[orientation]) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.save(tmp_path / "a.png", exif=exif)
        image, data, size = read_image(tmp_path / "a.png")
        assert size == (64, 48) and np.array_equal(image, upright)
        assert np.array_equal(read_image(data)[0], upright)


@pytest.mark.filterwarnings("error")
def test_what_is_no_usable_image_is_refused_in_a_sentence(tmp_path):
    whole = save(tmp_path, "whole.jpg", (300, 300)).read_bytes()
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(257_000_000)  # a hole: takes no room on the disk
    save(tmp_path, "deep.tiff", mode="F", color=5)
    for name, data, message in (
        ("many.png", png(8_001, 8_000), "8001 x 8000 px .* 64 million pixels"),
        ("bomb.png", png(60_000, 60_000), "too large"),  # where Pillow itself raises
        ("thin.png", png(1, 201), "no side over 200 times the other"),
        ("text.jpg", b"This is no picture.", "'text.jpg' is damaged, too large, or no image"),
        ("vector.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "no image"),
        ("cut.jpg", whole[: len(whole) // 2], "damaged"),
        ("deep.tiff", None, "mode F; an image has 8 bits a channel"),
        ("huge.png", None, "larger than 256 MB"),
        ("pipe.png", None, "no regular file"),
        ("gone.png", None, "no regular file"),
        (".", None, "no regular file"),
    ):
        if data:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BadRow, match=message):
            read_photo(tmp_path / name)


def png16(values, colour, hidden=b""):
    """A PNG of 16 bits a channel: grey (colour 0) or RGB (2), one colour of it transparent."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    parts = [b"IHDR" + header, *([b"tRNS" + hidden] if hidden else [])]
    data = b"\x89PNG\r\n\x1a\n"
    for body in (*parts, b"IDAT" + zlib.compress(rows), b"IEND"):
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data


def test_a_transparent_colour_is_white_at_any_depth(tmp_path):
    path = save(tmp_path, transparency=(255, 0, 0))
    assert read_photo(path).getpixel((0, 0)) == (255, 255, 255)
    for colour, shape in ((0, (30, 40)), (2, (30, 40, 3))):
        values = np.full(shape, 0x1234)
        values[5] = 0x8000
        hidden = struct.pack(">H", 0x1234) * (3 if colour else 1)
        image = read_image(png16(values, colour, hidden))[0]
        assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((0, 5)) == (128,) * 3


def test_twelve_bits_in_a_file_of_sixteen_are_no_black_picture():
    for bits in (8, 10, 12, 14, 16):
        ramp = np.tile(np.linspace(0, 2**bits - 1, 64), (30, 1)).astype(np.uint16)
        tiff = io.BytesIO()
        Image.fromarray(ramp).save(tiff, "TIFF")
        for data in (png16(ramp, 0), tiff.getvalue()):
            image = np.asarray(read_image(data)[0])[0, :, 0]
            assert image.tolist() == (ramp[0] >> (bits - 8)).tolist()
    ramp = np.tile(np.linspace(0, 4095, 64), (30, 1)).astype(np.uint16)
    with pytest.raises(BadRow, match="12 bits in a file of 16; save it with 8 bits a channel"):
        read_image(png16(np.repeat(ramp[..., None], 3, axis=2), 2))
    black = read_image(png16(np.zeros((30, 40, 3)), 2))[0]
    assert black.getextrema() == ((0, 0),) * 3


def test_a_name_with_accents_is_found_however_it_was_zipped(tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / form
        save(folder, unicodedata.normalize(form, "Café é.png"))
        write_csv(folder, (unicodedata.normalize(other, "Café é.png"), "What?", "red"))
        dataset, errors = from_folder(folder)
        assert errors == [] and len(dataset) == 1


def test_the_rule_of_a_question_travels_with_it(tmp_path):
    save(tmp_path)
    rows = [
        ("What colour?", "B", '["red", "dark blue"]', "", "choice", "A. red\nB. dark blue"),
        ("What colour?", "dark blue", "red | dark blue", "", "choice", "A. red\nB. dark blue"),
        ("What? (A) red (B) blue", "B", "", "", "choice", "What? (A) red (B) blue"),
        ("What? (A) red (B) blue", "A", "red|blue", "", "choice", "What? (A) red (B) blue"),
        ("Is it red?", "Yes", "", "", "yes_no", "Is it red?"),
        ("How much?", "$12.50", "", "", "number", "How much?"),
        ("Which house?", "12", "", "text", "text", "Which house?"),
        ("What?", "red", "", "", "text", "What?"),
    ]
    bad = {
        ("What?", "B", "", "taste"): "unknown verifier 'taste'; there are text, choice",
        ("What?", "green", "red|blue", ""): "answer 'green' is none of the options",
        ("What?", "C", "red|blue", ""): "answer 'C' is none of the options",
        ("What?", "red", "red", ""): "1 options; a question has 2 to 8",
        ("What? A. red B. blue", "A", "blue|white", ""): "lists other options",
        ("What?", "A", '["red", {}]', ""): "options must be text",
    }
    header = ("image", "question", "answer", "options", "verifier")
    write_csv(tmp_path, *(("a.png", *row[:4]) for row in [*rows, *bad]), header=header)
    dataset, errors = from_folder(tmp_path)
    for row, (_, _, _, _, verifier, question) in zip(dataset, rows, strict=True):
        assert row["verifier"] == verifier and row["question"].endswith(question)
        assert bool(row["options"]) == (verifier == "choice")
    assert dataset["options"][1] == ["red", "dark blue"]
    for error, message in zip(errors, bad.values(), strict=True):
        assert message in error
    right = {"B": "**B**", "dark blue": "It is dark blue.", "Yes": "Yes, it is", "$12.50": "12.5"}
    for row in dataset:
        assert check_answer(right.get(row["answer"], row["answer"]), row)
