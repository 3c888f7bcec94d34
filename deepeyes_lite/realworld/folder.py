"""Samples from a folder of one's own: images and a table of questions and answers.

A folder is somebody's own data and is not trusted: no path leaves the folder, no image is decoded
before its size is known, and a bad row costs that row and a clear message, not the rest.
"""

import csv
import io
import itertools
import json
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from datasets import Dataset

from deepeyes_lite.boxes import Size, rescale
from deepeyes_lite.data import build
from deepeyes_lite.prompts import markup_in
from deepeyes_lite.realworld.images import BadImage, read_image_file

REQUIRED = ("image", "question", "answer")


@dataclass(frozen=True)
class RowError:
    """A row of a table that was left out, and why.

    Attributes:
        row: number of the row as an editor or a spreadsheet shows it, where a CSV's header is row 1; or
            the name of the file that holds the row alone.
        message: what was wrong and what to do.
    """

    row: int | str
    message: str

    def __str__(self) -> str:
        return f"{self.row if isinstance(self.row, str) else f'row {self.row}'}: {self.message}"


class BadRow(ValueError):
    """Ends the reading of one row; its message becomes a `RowError`."""


def summary(errors: list[RowError]) -> list[str]:
    """The errors, alike ones together: the first of them and how many there are.

    >>> errors = [RowError(row, f"'{row}.png' is not an image") for row in (2, 3, 7)]
    >>> summary([*errors, RowError(5, "answer is empty")])
    ["row 2: '2.png' is not an image (3 rows alike)", 'row 5: answer is empty']
    """
    alike: dict[str, list[RowError]] = {}
    for error in errors:
        shape = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", error.message)
        alike.setdefault(shape, []).append(error)
    return [
        str(found[0]) + (f" ({len(found)} rows alike)" if len(found) > 1 else "")
        for found in alike.values()
    ]


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
                raise BadRow(record)
            sample = _sample(root, row, record)
            if sample["id"] in ids:
                raise BadRow(f"id {reprlib.repr(sample['id'])} is taken by an earlier row")
        except (BadRow, BadImage) as error:
            errors.append(RowError(row, str(error)))
        else:
            ids.add(sample["id"])
            samples.append(sample)
    if not samples:
        first = "".join(f"\n  {error}" for error in errors[:5]) or " it has no rows"
        raise ValueError(f"{root / table} has no usable row:{first}")
    return build(samples), errors


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
    question, answer = read_text(record, "question"), read_text(record, "answer")
    if token := markup_in(question):
        raise BadRow(f"the question contains {token}, which only the template may write")
    image, size, stored_size = read_image_file(_image_path(root, read_text(record, "image")))
    boxes_px = [rescale(box, size, stored_size) for box in _boxes(record.get("boxes_px"), size)]
    return {
        "id": read_text(record, "id", default=f"folder-{row}"),
        "image": {"bytes": image, "path": None},
        "question": question,
        "answer": answer,
        "boxes_px": [list(box) for box in boxes_px],
        "kind": read_text(record, "kind", default="own"),
        "legible": -1,
        "source": "folder",
    }


def read_text(record: dict, column: str, default: str | None = None) -> str:
    """A column of a row as text, stripped; or a `BadRow` that says what is there instead."""
    value = record.get(column)
    if value is None:
        value = ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{column} must be text, got {reprlib.repr(value)}")
    text = str(value).strip() or default
    if not text:
        raise BadRow(f"{column} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{column} is not UTF-8; save the table as UTF-8") from None
    return text


def _image_path(root: Path, name: str) -> Path:
    """The image's path, which lies in the folder; a Windows path is checked on every system."""
    windows, shown = PureWindowsPath(name), reprlib.repr(name)
    if windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise BadRow(f"image {shown} must be a relative path inside the folder, without '..'")
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BadRow(f"image {shown} is a link that leads out of the folder; copy the file in")
        if not path.is_file():
            raise BadRow(f"image {shown} is not in the folder")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", "a loop of links")
        raise BadRow(f"image {shown} cannot be opened: {reason}") from None
    return path


def _boxes(value: object, size: Size) -> list[list[float]]:
    """Boxes of one row, in pixels of the upright original; an empty cell is an empty list."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except (ValueError, RecursionError):
            raise BadRow(f"boxes_px is not JSON: {reprlib.repr(value)}") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRow(f"boxes_px must be like [[x1, y1, x2, y2]], got {reprlib.repr(value)}")
    for box in value:
        shown = reprlib.repr(box)
        if not isinstance(box, list) or len(box) != 4:
            raise BadRow(f"boxes_px must be like [[x1, y1, x2, y2]]; {shown} is not a box")
        # bool is an int in Python; NaN fails every comparison, so ask for what is right.
        if not all(type(x) in (int, float) and abs(x) < 1e9 for x in box):
            raise BadRow(f"a box has four finite numbers, got {shown}")
        x1, y1, x2, y2 = box
        if x1 >= x2 or y1 >= y2:
            raise BadRow(f"box {shown} is empty; give x1 < x2 and y1 < y2")
        if x1 < 0 or y1 < 0 or x2 > size[0] or y2 > size[1]:
            raise BadRow(f"box {shown} reaches out of the image of {size[0]} x {size[1]} px")
    return value
