"""The public sets in our schema: DeepEyes' training data, V* Bench, HR-Bench, POPE.

Each is read from the hub as it is needed, or from a copy on the disk. A row that cannot be used costs
that row and a message. ``kind`` is the set's own split or category, ``source`` the set's name; options
stand below the question, as a model is asked, and once more in the column ``options``.
"""

import base64
import binascii
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset, load_dataset, load_from_disk
from huggingface_hub import snapshot_download
from tqdm.auto import tqdm

from deepeyes_lite.boxes import clamp, rescale
from deepeyes_lite.data import build
from deepeyes_lite.files import atomic_write
from deepeyes_lite.prompts import markup_in
from deepeyes_lite.realworld.folder import BadRow, RowError, read_text
from deepeyes_lite.realworld.images import MAX_FILE_BYTES, BadImage, read_image, read_image_file
from deepeyes_lite.realworld.verl import from_verl
from deepeyes_lite.verifiers import LETTERS, with_options

# Number or name for messages, and the columns; or what is wrong with it.
Row = tuple[int | str, dict | str]
VSTAR_SPLITS = (
    "direct_attributes",
    "relative_position",
)  # 115 + 76; its two others are not counted


@dataclass(frozen=True)
class PublicSet:
    """Where a set is and how it is read.

    Attributes:
        hub: its repository of datasets.
        files: patterns of its files in there.
        rows: reads the rows, given the patterns' files or addresses.
        sample: makes a sample of a row.
    """

    hub: str
    files: tuple[str, ...]
    rows: Callable[[list[str]], Iterable[Row]]
    sample: Callable[[int | str, dict], dict]


def write(
    name: str,
    out: str | Path,
    source: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> tuple[Dataset, list[RowError]]:
    """Read a public set and write it as a dataset in our schema.

    Args:
        name: a key of ``SETS``.
        out: folder to write; `data.load`, `train --data` and `benchmark --data` take it.
        source: a file or folder of the set's own files on this machine; without it, from the hub.
        limit: read so many rows at most.
        progress: whether to show a bar.

    Returns:
        The dataset, and one error for each row that was left out.

    Raises:
        ValueError: for an unknown set, or if no row is usable.
        OSError: if the files are not there, or the hub is out of reach.
    """
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; there are {', '.join(SETS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is at least 1, got {limit}")
    entry, errors, ids = SETS[name], [], set()
    rows = entry.rows(_on_disk(entry, Path(source)) if source else _on_hub(entry))

    def samples() -> Iterator[dict]:
        for number, row in tqdm(rows, desc=name, total=limit, disable=not progress):
            try:
                if isinstance(row, str):
                    raise BadRow(row)
                sample = entry.sample(number, row)
            except (BadRow, BadImage) as error:
                errors.append(RowError(number, str(error)))
            else:
                if sample["id"] in ids:  # an index that starts again in another part of the set
                    sample["id"] += f"-row-{number}"
                ids.add(sample["id"])
                yield sample
            if limit and len(ids) + len(errors) >= limit:
                return

    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; choose another folder or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=out.name) as folder:
        dataset = build(samples(), f"{folder}/rows.arrow")  # a set need not fit into memory
        if not len(dataset):
            first = "".join(f"\n  {error}" for error in errors[:5])
            raise ValueError(f"{source or entry.hub}: there is no usable row{first}")
        with atomic_write(out) as tmp:
            dataset.save_to_disk(tmp)
    return load_from_disk(out), errors


def _on_disk(entry: PublicSet, source: Path) -> list[str]:
    if source.is_file():
        return [str(source)]
    if not source.is_dir():
        raise FileNotFoundError(f"there is no file or folder {source}")
    found = []
    for pattern in entry.files:  # as in the repository, or all in one folder
        found += sorted(source.glob(pattern)) or sorted(source.glob(Path(pattern).name))
    if not found:
        raise FileNotFoundError(f"{source} holds none of {', '.join(entry.files)} ({entry.hub})")
    return [str(path) for path in found]


def _on_hub(entry: PublicSet) -> list[str]:
    if entry.rows is not _vstar_rows:
        return [f"hf://datasets/{entry.hub}/{pattern}" for pattern in entry.files]
    try:
        folder = snapshot_download(entry.hub, repo_type="dataset", allow_patterns=list(entry.files))
    except Exception as error:
        raise _out_of_reach(entry.hub, error) from error
    return _on_disk(entry, Path(folder))


def _out_of_reach(what: str, error: Exception) -> OSError:
    return OSError(
        f"{what} could not be read ({error}); copy the files to this machine and name them with --from"
    )


# --- rows ---------------------------------------------------------------------------------------


def _table_rows(files: list[str]) -> Iterable[Row]:
    """Rows of parquet files, or of the tab-separated ones of HR-Bench, one by one."""
    if all(file.endswith(".tsv") for file in files):
        return _tsv_rows(files)
    try:
        data = load_dataset("parquet", data_files=files, split="train", streaming=True)
    except Exception as error:  # a broken file, no network, no such repository: each has its own
        raise _out_of_reach(", ".join(files), error) from error
    return enumerate(data.decode(False))  # bytes: no image is decoded before its size is known


def _tsv_rows(files: list[str]) -> Iterator[Row]:
    for path in files:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file, delimiter="\t")
            for number in itertools.count(2):
                # An image is one field, in base64; the limit is the csv module's, for everybody.
                before = csv.field_size_limit(MAX_FILE_BYTES * 4 // 3 + 4)
                try:
                    row = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    row = f"not valid TSV ({error})"
                finally:
                    csv.field_size_limit(before)
                yield number, row


def _vstar_rows(files: list[str]) -> Iterator[Row]:
    """Images and annotations of V* Bench, paired by name."""
    pairs: dict[Path, dict] = {}
    for path in map(Path, files):
        if path.is_file():
            kind = "annotation" if path.suffix == ".json" else "image"
            pairs.setdefault(path.with_suffix(""), {})[kind] = path
    for stem, row in pairs.items():
        yield f"{stem.parent.name}/{stem.name}", row


# --- samples ------------------------------------------------------------------------------------


def _sample(id: str, image: bytes, question: str, answer: str, kind: str, source: str) -> dict:
    if token := markup_in(question):
        raise BadRow(f"the question contains {token}, which only the template may write")
    return {
        "id": id,
        "image": {"bytes": image, "path": None},
        "question": question,
        "answer": answer,
        "boxes_px": [],
        "kind": kind,
        "legible": -1,
        "source": source,
    }


def _vstar_sample(name: str, row: dict) -> dict:
    """V* Bench: JSON beside the image with question, options (the first is right) and bbox (x, y, w, h)."""
    if set(row) != {"annotation", "image"}:
        raise BadRow(f"has no {({'annotation', 'image'} - set(row)).pop()} of that name")
    try:
        record = json.loads(row["annotation"].read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise BadRow(f"the annotation cannot be read ({error})") from None
    options = record.get("options") if isinstance(record, dict) else None
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise BadRow(f"options must be a list of 2 to {len(LETTERS)} texts")
    options = [read_text({"options": option}, "options") for option in options]
    image, size, stored = read_image_file(row["image"])
    question = with_options(read_text(record, "question"), options)
    sample = _sample(f"vstar-{name}", image, question, "A", name.split("/")[0], "V* Bench")
    boxes = record.get("bbox") or []
    boxes_px = [clamp(_xyxy(box), size) for box in (boxes if isinstance(boxes, list) else [boxes])]
    sample["boxes_px"] = [
        list(rescale(box, size, stored)) for box in boxes_px if box[0] < box[2] and box[1] < box[3]
    ]
    return {**sample, "options": options, "verifier": "choice"}


def _xyxy(box: object) -> tuple[float, float, float, float]:
    numbers = isinstance(box, list) and [x for x in box if type(x) in (int, float) and abs(x) < 1e9]
    if not numbers or len(box) != 4 or len(numbers) != 4:
        raise BadRow("bbox must hold boxes of four numbers [x, y, width, height]")
    x, y, width, height = box
    return x, y, x + width, y + height


def _hrbench_sample(size: str, number: int, row: dict) -> dict:
    """HR-Bench: columns A to D, the right letter in ``answer``, the image in base64.

    Each question comes four times, its options moved on by one (``cycle_category``).
    """
    given = [c for c in "ABCD" if str(row.get(c) or "").strip()]
    options = [" ".join(read_text(row, c).split()) for c in given]
    answer = read_text(row, "answer").upper()
    if len(options) < 2 or answer not in list(LETTERS[: len(options)]):
        raise BadRow(f"answer {answer[:20]!r} is none of {len(options)} options")
    try:
        data = base64.b64decode(read_text(row, "image"))
    except binascii.Error:
        raise BadRow("the image is not base64") from None
    id = f"hrbench-{size}-{read_text(row, 'index', default=str(number))}"
    image, *_ = read_image(data, id)
    question = with_options(read_text(row, "question"), options)
    kind = read_text(row, "category", default="all")
    sample = _sample(id, image, question, answer, kind, f"HR-Bench {size.upper()}")
    return {**sample, "options": options, "verifier": "choice"}


def _pope_sample(number: int, row: dict) -> dict:
    """POPE: is there such a thing in the picture; yes or no, in three categories."""
    picture = row.get("image")
    data = picture.get("bytes") if isinstance(picture, dict) else None
    if not data:
        raise BadRow("the image is not in the file; bytes are missing")
    answer = read_text(row, "answer").lower()
    if answer not in ("yes", "no"):
        raise BadRow(f"answer must be yes or no, got {answer[:20]!r}")
    kind = read_text(row, "category", default="all")
    id = read_text(row, "id", default=f"{kind}-{row.get('question_id', number)}")
    image, *_ = read_image(data, f"image of {id}")
    question = read_text(row, "question")
    sample = _sample(f"pope-{id}", image, question, answer, kind, "POPE")
    return {**sample, "verifier": "yes_no"}


_DEEPEYES = {
    "vstar": "data_0.1.2_visual_toolbox_v2.parquet",  # fine-grained, 22,362 rows
    "chart": "data_v0.8_visual_toolbox_v2.parquet",  # ArxivQA, 13,659 rows, huge images
    "reasoning": "data_thinklite_reasoning_acc.parquet",  # ThinkLite-VL, 11,031 rows, no tool
}


def _deepeyes(*files: str) -> PublicSet:
    return PublicSet("ChenShawn/DeepEyes-Datasets-47k", files, _table_rows, from_verl)


def _hrbench(size: str) -> PublicSet:
    files = (f"hr_bench_{size}.parquet",)
    return PublicSet("DreamMr/HR-Bench", files, _table_rows, partial(_hrbench_sample, size))


SETS = {
    "deepeyes": _deepeyes(*_DEEPEYES.values()),
    **{f"deepeyes-{part}": _deepeyes(file) for part, file in _DEEPEYES.items()},
    "vstar": PublicSet(
        "craigwu/vstar_bench", tuple(f"{s}/*" for s in VSTAR_SPLITS), _vstar_rows, _vstar_sample
    ),
    "hrbench-4k": _hrbench("4k"),
    "hrbench-8k": _hrbench("8k"),
    "pope": PublicSet("lmms-lab/POPE", ("data/test-*.parquet",), _table_rows, _pope_sample),
}
