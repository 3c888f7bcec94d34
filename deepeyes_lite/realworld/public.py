"""The public sets in our schema: DeepEyes' training data, V* Bench, HR-Bench, POPE.

Each is read from the hub as it is needed, or from a copy on the disk. A row that cannot be used costs
that row and a message. ``kind`` is the set's own split or category, ``source`` the set's name; options
stand below the question, as a model is asked, and once more in the column ``options``.
"""

import base64
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, load_dataset
from huggingface_hub import snapshot_download
from pyarrow.parquet import ParquetFile
from tqdm.auto import tqdm

from deepeyes_lite.boxes import clamp, rescale
from deepeyes_lite.data import ROWS_AT_ONCE, build, load
from deepeyes_lite.files import atomic_write
from deepeyes_lite.options import LETTERS, split_options, with_options
from deepeyes_lite.realworld.folder import (
    BadRow,
    Row,
    inside,
    new_sample,
    read_image,
    read_json,
    read_rows,
    read_text,
    usable,
)
from deepeyes_lite.realworld.verl import from_verl


@dataclass(frozen=True)
class PublicSet:
    """Where a set is and how it is read.

    Attributes:
        hub: its repository of datasets.
        files: patterns of its files in there.
        sample: makes a sample of the number (or name) of a row and its columns.
    """

    hub: str
    files: tuple[str, ...]
    sample: Callable[[int | str, dict], dict]


def write(
    name: str,
    out: str | Path,
    source: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> tuple[Dataset, list[str]]:
    """Read a public set and write it as a dataset in our schema.

    Args:
        name: a key of ``SETS``.
        out: folder to write; `data.load`, `train --data` and `benchmark --data` take it.
        source: a file or folder of the set's own files on this machine; without it, from the hub.
        limit: read so many rows at most.
        progress: whether to show a bar.

    Returns:
        The dataset, and a message for each row that was left out.

    Raises:
        ValueError: for an unknown set, a limit below 1, a folder that is there already, or a set
            without a usable row.
        OSError: if the files are not there, or the hub is out of reach.
    """
    out = Path(out)
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; there are {', '.join(SETS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is at least 1, got {limit}")
    if out.exists():
        raise ValueError(f"{out} is there already; choose another folder or delete it")
    entry, errors = SETS[name], []
    try:
        rows = _rows(entry, source)
    except Exception as error:  # a broken file, no network, no such repository: each has its own
        raise OSError(
            f"{source or entry.hub} could not be read ({error}); copy the files of {entry.hub} to this "
            "machine and name them with --from"
        ) from error
    rows = tqdm(itertools.islice(rows, limit), name, total=limit, disable=not progress)
    with atomic_write(out) as tmp:
        # In a file, because a set need not fit into memory.
        aside = tmp / "rows"
        aside.mkdir(parents=True)
        dataset = build(usable(rows, entry.sample, errors), aside / "rows.arrow")
        if not len(dataset):
            problem = f"{source or entry.hub}: there is no usable row"
            raise ValueError("\n  ".join([problem, *errors[:5]]))
        dataset.save_to_disk(tmp)
        del dataset  # Windows deletes no open file
        shutil.rmtree(aside)
    return load(out), errors


def summary(errors: list[str]) -> list[str]:
    """The messages of `write`, alike ones together: the first of them and how many there are.

    >>> summary(["row 2: 'a.png' is large", "row 5: answer is empty", "row 7: 'b.png' is large"])
    ["row 2: 'a.png' is large (2 rows alike)", 'row 5: answer is empty']
    """
    alike: dict[str, list[str]] = {}
    for error in errors:
        alike.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", error), []).append(error)
    return [
        f"{rows[0]} ({len(rows)} rows alike)" if len(rows) > 1 else rows[0]
        for rows in alike.values()
    ]


# --- rows ---------------------------------------------------------------------------------------


def _rows(entry: PublicSet, source: str | Path | None) -> Iterable[Row]:
    """The rows of a set one by one, out of its files on this machine or at the hub."""
    patterns = entry.files
    if source is None and patterns[0].endswith(".parquet"):
        files = [f"hf://datasets/{entry.hub}/{pattern}" for pattern in patterns]
    else:
        place = Path(
            source or snapshot_download(entry.hub, repo_type="dataset", allow_patterns=[*patterns])
        )
        files = [str(place)] if place.is_file() else []
        for pattern in patterns:  # as in the repository, or all in one folder
            found = sorted(place.glob(pattern)) or sorted(place.glob(Path(pattern).name))
            files += [str(path) for path in found if path.is_file()]
    if not files:
        raise FileNotFoundError(f"it holds none of {', '.join(patterns)}")
    if files[0].endswith(".tsv"):  # HR-Bench has such files beside its parquet
        return itertools.chain.from_iterable(read_rows(Path(file)) for file in files)
    listed = [file for file in dict.fromkeys(files) if file.endswith((".parquet", ".jsonl"))]
    if listed and not any(file.endswith(".json") for file in files):
        files = listed
    if files[0].endswith(".jsonl"):
        rows, folder = read_rows(Path(files[0])), Path(files[0]).parent.resolve()
        return ((i, row | {"folder": folder} if isinstance(row, dict) else row) for i, row in rows)
    if files[0].endswith(".parquet"):
        if source is not None:
            return enumerate(_parquet_rows(files))
        rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
        return enumerate(rows.decode(False))  # bytes: no image is decoded before its size is known
    return _vstar_rows([file for file in files if file not in listed])


def _parquet_rows(files: list[str]) -> Iterator[dict]:
    """A few rows at a time: a group of rows may be small in the file and fill the memory."""
    tables = [*map(ParquetFile, files)]  # a broken file is told at once
    batches = (batch for table in tables for batch in table.iter_batches(ROWS_AT_ONCE))
    return (row for batch in batches for row in batch.to_pylist())


def _vstar_rows(files: list[str]) -> Iterator[Row]:
    """Images and annotations of V* Bench, paired by name."""
    pairs: dict[Path, dict] = {}
    for path in map(Path, files):
        column = "annotation" if path.suffix == ".json" else "image"
        pairs.setdefault(path.with_suffix(""), {})[column] = path
    for stem, row in pairs.items():
        missing = {"annotation", "image"} - set(row)
        name = f"{stem.parent.name}/{stem.name}"
        yield name, f"has no {missing.pop()} of that name" if missing else row


# --- samples ------------------------------------------------------------------------------------


def _vstar_sample(name: int | str, row: dict) -> dict:
    """V* Bench: JSON beside the image with question, options (the first is right) and bbox (x, y, w, h).

    Or a row of lmms-eval's parquet, or of ``test_questions.jsonl``: the options in the text, no boxes.
    """
    if "text" in row:
        return _vstar_row(name, row)
    record = read_json(row["annotation"].read_bytes())
    options = record.get("options") if isinstance(record, dict) else None
    if not isinstance(options, list):
        raise BadRow("the annotation is no JSON object with a list of options")
    options = [read_text({"options": option}, "options") for option in options]
    image, data, size = read_image(row["image"])
    try:
        boxes = [(x, y, x + width, y + height) for x, y, width, height in record.get("bbox") or []]
        boxes = [clamp(box, size) for box in boxes]
    except (TypeError, ValueError):
        raise BadRow("bbox must hold boxes of four numbers [x, y, width, height]") from None
    boxes = [rescale(box, size, image.size) for box in boxes if box[0] < box[2] and box[1] < box[3]]
    return _choice(
        {**record, "answer": "A"},
        options,
        id=f"vstar-{name}",
        image=data,
        kind=name.split("/")[0],
        source="V* Bench",
        boxes_px=boxes,
    )


def _vstar_row(number: int | str, row: dict) -> dict:
    """Columns image, text with its options, label (the right letter), category and question_id."""
    picture, id = row.get("image"), f"vstar-{read_text(row, 'question_id', str(number))}"
    if isinstance(picture, str) and "folder" in row:
        source: Path | bytes | None = inside(row["folder"], picture)
    else:
        source = picture.get("bytes") if isinstance(picture, dict) else None
    if not source:
        raise BadRow("the image is not in the file; bytes are missing")
    _, data, _ = read_image(source, f"image of {id}")
    question, options = split_options(read_text(row, "text"))
    given = {"question": question, "answer": read_text(row, "label").strip("(). ")}
    kind = read_text(row, "category", "all")
    return _choice(given, options, id=id, image=data, kind=kind, source="V* Bench")


def _hrbench_sample(size: str, number: int, row: dict) -> dict:
    """HR-Bench: columns A to D, the right letter in ``answer``, the image in base64.

    Each question comes four times, its options moved on by one (``cycle_category``).
    """
    given = [letter for letter in "ABCD" if str(row.get(letter) or "").strip()]
    options = [" ".join(read_text(row, letter).split()) for letter in given]
    id = f"hrbench-{size}-{read_text(row, 'index', str(number))}"
    try:
        image = base64.b64decode(read_text(row, "image"))
    except ValueError:
        raise BadRow("the image is not base64") from None
    _, data, _ = read_image(image, id)
    kind, source = read_text(row, "category", "all"), f"HR-Bench {size.upper()}"
    return _choice(row, options, id=id, image=data, kind=kind, source=source)


def _choice(row: dict, options: list[str], **columns) -> dict:
    """A multiple-choice sample, its options below the question."""
    answer = read_text(row, "answer").upper()
    if not 2 <= len(options) <= len(LETTERS) or answer not in list(LETTERS[: len(options)]):
        raise BadRow(
            f"answer {answer[:20]!r} is none of {len(options)} options (2 to {len(LETTERS)})"
        )
    row = {"question": with_options(read_text(row, "question"), options), "answer": answer}
    return new_sample(row, options=options, verifier="choice", **columns)


def _pope_sample(number: int, row: dict) -> dict:
    """POPE: is there such a thing in the picture; yes or no, in three categories."""
    picture = row.get("image")
    data = picture.get("bytes") if isinstance(picture, dict) else None
    if not data:
        raise BadRow("the image is not in the file; bytes are missing")
    answer = read_text(row, "answer").lower()
    if answer not in ("yes", "no"):
        raise BadRow(f"answer must be yes or no, got {answer[:20]!r}")
    kind = read_text(row, "category", "all")
    id = read_text(row, "id", f"{kind}-{row.get('question_id', number)}")
    _, data, _ = read_image(data, f"image of {id}")
    row = {**row, "answer": answer}
    return new_sample(row, f"pope-{id}", data, kind, "POPE", verifier="yes_no")


_DEEPEYES = {
    "vstar": "data_0.1.2_visual_toolbox_v2.parquet",  # fine-grained, 22,362 rows
    "chart": "data_v0.8_visual_toolbox_v2.parquet",  # ArxivQA, 13,659 rows, huge images
    "reasoning": "data_thinklite_reasoning_acc.parquet",  # ThinkLite-VL, 11,031 rows, no tool
}
_47K = "ChenShawn/DeepEyes-Datasets-47k"
# 115 + 76 questions, two other splits do not count; or, where there are no folders, one table of all.
_VSTAR = ("direct_attributes/*", "relative_position/*", "test_questions.jsonl", "data/*.parquet")
_VSTAR = (*_VSTAR, "*.parquet")
SETS = {
    "deepeyes": PublicSet(_47K, tuple(_DEEPEYES.values()), from_verl),
    **{f"deepeyes-{part}": PublicSet(_47K, (file,), from_verl) for part, file in _DEEPEYES.items()},
    "vstar": PublicSet("craigwu/vstar_bench", _VSTAR, _vstar_sample),
    **{
        f"hrbench-{size}": PublicSet(
            "DreamMr/HR-Bench", (f"hr_bench_{size}.parquet",), partial(_hrbench_sample, size)
        )
        for size in ("4k", "8k")
    },
    "pope": PublicSet("lmms-lab/POPE", ("data/test-*.parquet",), _pope_sample),
}
