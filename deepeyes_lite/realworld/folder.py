"""The door for data from outside: one picture, or a folder with pictures and a table of questions.

Nothing from outside is trusted: no path leaves the folder, no image is decoded before its size is known,
and a bad row costs that row and a clear message.
"""

import csv
import json
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datasets import Dataset
from PIL import Image

from deepeyes_lite.boxes import Box, Size, rescale
from deepeyes_lite.data import MAX_FILE_BYTES, BadRow, build, read_image
from deepeyes_lite.options import LETTERS, split_options, with_options
from deepeyes_lite.prompts import markup_in
from deepeyes_lite.verifiers import VERIFIERS, check_answer, rule_of

# `metadata.csv` with a column `file_name` is what users of the `imagefolder` of datasets have.
TABLES = ("questions.csv", "questions.jsonl", "metadata.csv", "metadata.jsonl")
# Number or name of a row for messages, and its columns or what is wrong with it.
Row = tuple[int | str, dict | str]


def from_folder(folder: str | Path) -> tuple[Dataset, list[str]]:
    """Read one's own samples: a folder with images and a table of questions and answers.

    The table is the first of ``TABLES`` in the folder: a CSV with a header, or one JSON object a line, in
    UTF-8. Its columns are ``image`` or ``file_name`` (a path inside the folder), ``question``, ``answer``; if
    wanted also ``boxes_px`` (JSON: ``[[x1, y1, x2, y2], …]`` in pixels of the upright image), ``options``
    (JSON, ``["red", "white"]``, or texts parted by ``|``; put below the question, unless it lists them),
    ``verifier`` (a key of ``verifiers.VERIFIERS``; without one, `verifiers.rule_of` chooses), ``kind`` and
    ``id``. Others are ignored. `read_image` says what becomes of an image.

    Returns:
        The good rows as a dataset with the columns of ``data.FEATURES``, and a message for each bad row.

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if the table has no good row.
    """
    root, columns, errors = Path(folder).resolve(), {}, []
    name = next((name for name in TABLES if (root / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(f"no table in {root}; it is one of {', '.join(TABLES)}")
    table = inside(root, name)

    def sample(number: int, row: dict) -> dict:
        columns.update(row)
        path = inside(root, read_text(row, "file_name" if "file_name" in row else "image"))
        image, data, size = read_image(path)
        boxes_px = [rescale(box, size, image.size) for box in _boxes(row.get("boxes_px"), size)]
        id, kind = read_text(row, "id", f"folder-{number}"), read_text(row, "kind", "own")
        row, options, verifier = with_rule(row)
        rule = {"options": options, "verifier": verifier}
        return new_sample(row, id, data, kind, "folder", boxes_px=boxes_px, **rule)

    dataset = build(usable(read_rows(table), sample, errors))
    if not len(dataset):
        found = ", ".join(map(reprlib.repr, columns)) or "none"
        problems = [f"{table} has no usable row; columns: {found}", *errors[:5]]
        raise ValueError("\n  ".join(problems))
    return dataset, errors


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table (.csv, .tsv, .jsonl) with their line numbers; the header of a CSV is line 1."""
    csv.field_size_limit(2 * MAX_FILE_BYTES)  # an image in base64 is one field
    # A byte that is not UTF-8 becomes a lone surrogate here, and an error of its own row in read_text.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = read_json(line)
                    yield number, row if isinstance(row, dict) else "not a JSON object"
            return
        # strict: a quote that is never closed would otherwise swallow the rows after it in silence.
        delimiter = "\t" if path.suffix == ".tsv" else ","
        reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                row = f"not valid CSV ({error}); is a quote missing or not doubled?"
            if row is None:
                return
            if isinstance(row, dict) and any(row.pop(None, [])):
                row = "more fields than columns; quote a text with a comma"
            if isinstance(row, str) or any(row.values()):  # spreadsheets leave rows without values
                yield reader.reader.line_num, row


def usable(rows: Iterable[Row], sample: Callable, errors: list[str]) -> Iterator[dict]:
    """The samples of the rows that can be used.

    Args:
        rows: the rows of a table.
        sample: makes a sample of the number and the columns of a row, or raises `BadRow`.
        errors: gets a message for each row that cannot be used.
    """
    ids = set()
    for number, row in rows:
        try:
            if isinstance(row, str):
                raise BadRow(row)
            new = sample(number, row)
        except BadRow as error:
            errors.append(f"{number if isinstance(number, str) else f'row {number}'}: {error}")
            continue
        if new["id"] in ids:  # for example an index that starts again in another part of a set
            new["id"] += f"-row-{number}"
        ids.add(new["id"])
        yield new


def new_sample(row: dict, id: str, image: bytes, kind: str, source: str, **more) -> dict:
    """A sample in our schema: question and answer of a row, and what else is known (``more``).

    Raises:
        BadRow: if question or answer is no text, or the question holds the template's own markup.
    """
    sample = {"id": id, "image": {"bytes": image, "path": None}, "boxes_px": [], "legible": -1}
    sample |= {name: read_text(row, name) for name in ("question", "answer")}
    sample |= {"kind": kind, "source": source, **more}
    if token := markup_in(sample["question"]):
        raise BadRow(f"the question contains {token}, which only the template may write")
    return sample


def with_rule(row: dict) -> tuple[dict, list[str], str]:
    """The row with its options in the question, the options, and the rule that checks its answer.

    Raises:
        BadRow: for an unknown rule, and for options that do not fit the question or the answer.
    """
    question, answer = read_text(row, "question"), read_text(row, "answer")
    options, given = split_options(question)[1], row.get("options")
    if given is not None and given != "":
        listed, options = options, given if isinstance(given, list) else read_json(given)
        if not isinstance(options, list):
            options = str(given).split("|")
        options = [read_text({"options": option}, "options") for option in options]
        if not 2 <= len(options) <= len(LETTERS):
            raise BadRow(f"{len(options)} options; a question has 2 to {len(LETTERS)}, parted by |")
        question = with_options(question, options)
        if listed and split_options(question)[1] != listed:
            raise BadRow("the question lists other options than the column options")
        names = [{"answer": a, "options": options, "verifier": "choice"} for a in LETTERS]
        if not any(check_answer(answer, name) for name in names[: len(options)]):
            raise BadRow(f"answer {reprlib.repr(answer)} is none of the options")
    verifier = read_text(row, "verifier", rule_of(answer, options))
    if verifier not in VERIFIERS:
        raise BadRow(f"unknown verifier {reprlib.repr(verifier)}; there are {', '.join(VERIFIERS)}")
    return {**row, "question": question}, options if verifier == "choice" else [], verifier


def read_text(row: dict, column: str, default: str = "") -> str:
    """A column of a row as stripped text; the default where it is empty.

    Raises:
        BadRow: if it is no text, or empty without a default.
    """
    value = "" if row.get(column) is None else row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{column} must be text, got {reprlib.repr(value)}")
    text = str(value).strip() or default
    if not text:
        raise BadRow(f"{column} is empty")
    if re.search("[\ud800-\udfff]", text):
        raise BadRow(f"{column} is not UTF-8; save the table as UTF-8")
    return text


def read_json(text: str | bytes) -> object:
    """The value of a JSON text from outside; None where the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def inside(root: Path, name: str) -> Path:
    """The file of a name in a table.

    Raises:
        BadRow: if it is not there, or not in the folder ``root``, which is resolved.
    """
    # A Mac's zip takes accents apart: "é" is two characters there, and one in the table, or the reverse.
    for form in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
        try:
            path = (root / form).resolve()
            if path.is_relative_to(root) and path.is_file():
                return path
        except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a null byte
            pass
    raise BadRow(f"no file {reprlib.repr(name)} inside the folder")


def _boxes(value: object, size: Size) -> list[Box]:
    """Boxes of one row, in pixels of the upright original; an empty cell is an empty list."""
    try:
        boxes = read_json(value) if isinstance(value, str) and value.strip() else value or []
        boxes = [tuple(map(float, box)) for box in boxes]
        good = all(0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1] for x1, y1, x2, y2 in boxes)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:  # NaN fails every comparison, too
        raise BadRow(
            f"boxes_px must be like [[x1, y1, x2, y2]] with x1 < x2 and y1 < y2, inside the image of "
            f"{size[0]} x {size[1]} px; got {reprlib.repr(value)}"
        )
    return boxes


def read_photo(path: str | Path) -> Image.Image:
    """A picture of one's own, as `read_image` checks and turns it.

    Raises:
        BadRow: with the reason, for a file that is no such picture.
    """
    return read_image(path)[0]
