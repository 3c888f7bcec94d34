"""Samples from a folder of one's own: images and a table of questions and answers.

A folder is somebody's own data and is not trusted: no path leaves the folder, no image is decoded
before its size is known, and a bad row costs that row and a clear message, not the rest.
"""

import csv
import io
import itertools
import json
import reprlib
import warnings
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from datasets import Dataset
from PIL import ExifTags, Image, ImageOps

from deepeyes_lite.boxes import Size, rescale
from deepeyes_lite.data import build, encode
from deepeyes_lite.prompts import markup_in

REQUIRED = ("image", "question", "answer")
# The formats that are safe to open: Pillow hands an EPS file, for one, to an external interpreter.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256_000_000
MIN_SIDE = 28  # px; Qwen-VL processors refuse an image with a smaller side …
MAX_ASPECT = 200  # … and one that is longer than this many times its width


@dataclass(frozen=True)
class RowError:
    """A row of a table that was left out, and why.

    Attributes:
        row: number of the row as an editor or a spreadsheet shows it; a CSV's header is row 1.
        message: what was wrong and what to do.
    """

    row: int
    message: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.message}"


class _BadRow(ValueError):
    """Ends the reading of one row; its message becomes a `RowError`."""


def from_folder(folder: str | Path, table: str = "questions.csv") -> tuple[Dataset, list[RowError]]:
    """Read one's own samples: a folder with images and a table of questions and answers.

    The table is a CSV with a header (``.csv``) or has one JSON object a line (``.jsonl``), in
    UTF-8. Its columns are ``image`` (a path inside the folder), ``question``, ``answer``; if wanted
    also ``boxes_px`` (JSON: ``[[x1, y1, x2, y2], …]`` in pixels of the upright image), ``kind`` and
    ``id``. Others are ignored.

    Images become upright RGB; transparent parts become white, and sides under 28 px are enlarged
    (with their boxes), because Qwen-VL processors refuse them.

    Returns:
        The good rows as a dataset with the columns of ``data.FEATURES``, and one error per bad row.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: if the table cannot be read, lacks a required column, or has no good row.
    """
    root = Path(folder).resolve()
    samples, errors, ids = [], [], set()
    for row, record in _records(root / table):
        try:
            if isinstance(record, str):
                raise _BadRow(record)
            sample = _sample(root, row, record)
            if sample["id"] in ids:
                raise _BadRow(f"id {reprlib.repr(sample['id'])} is taken by an earlier row")
        except _BadRow as error:
            errors.append(RowError(row, str(error)))
        else:
            ids.add(sample["id"])
            samples.append(sample)
    if not samples:
        first = "".join(f"\n  {error}" for error in errors[:5]) or " it has no rows"
        raise ValueError(f"{root / table} has no usable row:{first}")
    return build(samples), errors


def read_photo(path: str | Path) -> Image.Image:
    """One picture of one's own, checked as those of a folder are: upright, RGB, whole.

    Raises:
        ValueError: with the reason, for a file that is no such picture.
    """
    if not Path(path).is_file():  # a pipe or a device would be read for ever
        raise ValueError(f"no file {reprlib.repr(str(path))}")
    data, *_ = _read_image(Path(path))
    return Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")


def _records(path: Path) -> list[tuple[int, dict | str]]:
    """Row numbers, each with a dict or with the message that says why there is none."""
    readers = {".csv": _csv_records, ".jsonl": _jsonl_records}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path.name!r} is not a table: its name must end in .csv or .jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"no table {path.name!r} in {path.parent}")
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")
    # A byte that is not UTF-8 becomes a lone surrogate here, and an error of its own row in _text.
    columns, records = readers[path.suffix.lower()](data.decode("utf-8-sig", "surrogateescape"))
    missing = [name for name in REQUIRED if name not in columns]
    if missing and records:
        raise ValueError(
            f"{path} lacks the column(s) {', '.join(missing)}; "
            f"found: {', '.join(map(reprlib.repr, columns)) or 'none'}"
        )
    return records


def _csv_records(text: str) -> tuple[list[str], list[tuple[int, dict | str]]]:
    # strict: a quote that is never closed would otherwise swallow the rows after it in silence.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, records = None, []
    for row in itertools.count(1):
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return header or [], records
        except csv.Error as error:
            header = header or []
            records.append((row, f"not valid CSV ({error}); is a quote missing or not doubled?"))
            continue
        if header is None:
            header = cells
        elif any(cells[len(header) :]):
            message = f"{len(cells)} fields under {len(header)} columns; quote a text with a comma"
            records.append((row, message))
        elif any(cells):
            records.append((row, dict(zip(header, cells))))


def _jsonl_records(text: str) -> tuple[list[str], list[tuple[int, dict | str]]]:
    columns, records = {}, []
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            record = f"not valid JSON ({error})"
        else:
            if not isinstance(record, dict):
                record = f'not a JSON object like {{"image": …}}: {reprlib.repr(record)}'
        if isinstance(record, dict):
            columns.update(dict.fromkeys(record))
        records.append((row, record))
    # Where no line can be read, the lines' own errors say more than three missing columns.
    return list(columns) or list(REQUIRED), records


def _sample(root: Path, row: int, record: dict) -> dict:
    question, answer = _text(record, "question"), _text(record, "answer")
    if token := markup_in(question):
        raise _BadRow(f"the question contains {token}, which only the template may write")
    image, size, stored_size = _read_image(_image_path(root, _text(record, "image")))
    boxes_px = [rescale(box, size, stored_size) for box in _boxes(record.get("boxes_px"), size)]
    return {
        "id": _text(record, "id", default=f"folder-{row}"),
        "image": {"bytes": image, "path": None},
        "question": question,
        "answer": answer,
        "boxes_px": [list(box) for box in boxes_px],
        "kind": _text(record, "kind", default="own"),
        "legible": -1,
        "source": "folder",
    }


def _text(record: dict, column: str, default: str | None = None) -> str:
    value = record.get(column)
    if value is None:
        value = ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _BadRow(f"{column} must be text, got {reprlib.repr(value)}")
    text = str(value).strip() or default
    if not text:
        raise _BadRow(f"{column} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadRow(f"{column} is not UTF-8; save the table as UTF-8") from None
    return text


def _image_path(root: Path, name: str) -> Path:
    """The image's path, which lies in the folder; a Windows path is checked on every system."""
    windows, shown = PureWindowsPath(name), reprlib.repr(name)
    if windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise _BadRow(f"image {shown} must be a relative path inside the folder, without '..'")
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise _BadRow(f"image {shown} is a link that leads out of the folder; copy the file in")
        if not path.is_file():
            raise _BadRow(f"image {shown} is not in the folder")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", "a loop of links")
        raise _BadRow(f"image {shown} cannot be opened: {reason}") from None
    return path


def _read_image(path: Path) -> tuple[bytes, Size, Size]:
    """An image as it is stored.

    The file's own bytes are kept where they hold an upright RGB image, since photographs would take
    twenty times the memory uncompressed.

    Returns:
        The encoded image, the size of the upright original, and the size as stored.
    """
    name = reprlib.repr(path.name)
    try:
        too_large = path.stat().st_size > MAX_FILE_BYTES
        data = b"" if too_large else path.read_bytes()
    except OSError as error:
        raise _BadRow(f"{name} cannot be read: {error.strerror}") from None
    if too_large:
        raise _BadRow(f"{name} is larger than {MAX_FILE_BYTES // 10**6} MB; reduce it")
    too_many = f"over {MAX_PIXELS // 10**6} million pixels; reduce it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our bounds are lower, our messages are errors
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _BadRow(f"{name} has {too_many}") from None
    except Exception:  # on a broken file Pillow's readers raise whatever they stumble over
        raise _BadRow(f"{name} is not an image ({', '.join(FORMATS)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _BadRow(f"{name} has {width} x {height} px, {too_many}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _BadRow(
            f"{name} has {width} x {height} px; no side may be over {MAX_ASPECT} times the other"
        )
    if image.mode in ("I", "F"):
        raise _BadRow(f"{name} has 32 bits a channel and no known range; save it with 8 bits")
    try:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception:
        raise _BadRow(f"{name} is damaged or cut off; save it again") from None
    if image.mode == "RGB" and not turned and min(image.size) >= MIN_SIDE:
        return data, image.size, image.size
    stored = _enlarge(_to_rgb(upright))
    return encode(stored, "PNG"), upright.size, stored.size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:  # what lies under full transparency is often black
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(rgba)
    image = image.convert("RGB")
    image.info.clear()  # a colour profile of the old mode is wrong for the new one
    return image


def _enlarge(image: Image.Image) -> Image.Image:
    scale = MIN_SIDE / min(image.size)
    if scale <= 1:
        return image
    return image.resize([max(MIN_SIDE, round(side * scale)) for side in image.size])


def _boxes(value: object, size: Size) -> list[list[float]]:
    """Boxes of one row, in pixels of the upright original; an empty cell is an empty list."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except (ValueError, RecursionError):
            raise _BadRow(f"boxes_px is not JSON: {reprlib.repr(value)}") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise _BadRow(f"boxes_px must be like [[x1, y1, x2, y2]], got {reprlib.repr(value)}")
    for box in value:
        shown = reprlib.repr(box)
        if not isinstance(box, list) or len(box) != 4:
            raise _BadRow(f"boxes_px must be like [[x1, y1, x2, y2]]; {shown} is not a box")
        # bool is an int in Python; NaN fails every comparison, so ask for what is right.
        if not all(type(x) in (int, float) and abs(x) < 1e9 for x in box):
            raise _BadRow(f"a box has four finite numbers, got {shown}")
        x1, y1, x2, y2 = box
        if x1 >= x2 or y1 >= y2:
            raise _BadRow(f"box {shown} is empty; give x1 < x2 and y1 < y2")
        if x1 < 0 or y1 < 0 or x2 > size[0] or y2 > size[1]:
            raise _BadRow(f"box {shown} reaches out of the image of {size[0]} x {size[1]} px")
    return value
