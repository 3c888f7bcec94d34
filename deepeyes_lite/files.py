"""Files that a kill, or a second process, cannot spoil.

Write aside, then rename: a kill at any moment leaves the old file, or the new one, and never a half.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Inside, write the file or folder under the name that is given; after it, it stands at ``path``.

    On an exception ``path`` stays as it was.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
    >>> with whole(target) as aside:
    ...     _ = aside.write_text("all of it")
    ...     target.exists()
    False
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(aside)
    yield aside
    if path.is_dir():  # the only moment without either; nobody can rename over a full folder
        shutil.rmtree(path)
    os.replace(aside, path)


@contextmanager
def alone(path: str | Path) -> Iterator[bool]:
    """Hold a lock file; False if another process holds it. Who is killed lets go of it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / ".lock"
    >>> with alone(path) as first, alone(path) as second:
    ...     first, second
    (True, False)
    >>> with alone(path) as first:
    ...     first
    True
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure(
    ids: list[str],
    work: Callable[[int, int, int], list[dict]],
    chunk: int,
    identity: dict,
    record: str | Path | None = None,
    progress: bool = True,
    name: str = "",
) -> list[dict]:
    """Measure rows, ``chunk`` of them at a time, or go on with a record.

    Args:
        ids: of the rows, in order.
        work: measures the rows from its first argument to before its second, with the seed that is the
            third; one dict of JSON values a row.
        chunk: rows that are measured together.
        identity: what is measured and how, with a ``seed``.
        record: JSONL file; without it nothing is kept.
        progress: whether to show a bar.
        name: what the bar says.

    Returns:
        For each row its ``id`` and what was measured.

    Raises:
        ValueError: if the record holds another measurement.
    """
    record = Path(record) if record else None
    found = _read(record, identity, ids)
    if len(found) < len(ids):  # a chunk that a kill left half written is measured anew
        found = found[: len(found) // chunk * chunk]
    if record:
        record.parent.mkdir(parents=True, exist_ok=True)
        _write(record, [identity, *found])
    bar = tqdm(total=len(ids), initial=len(found), desc=name, disable=not progress)
    for start in range(len(found), len(ids), chunk):
        stop = min(start + chunk, len(ids))
        new = work(start, stop, identity["seed"] * 1_000_000 + start)
        new = [{"id": id, **values} for id, values in zip(ids[start:stop], new, strict=True)]
        if record:
            with record.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in new))
        found += new
        bar.update(len(new))
    bar.close()
    return found


def read_record(record: str | Path) -> tuple[dict, list[dict]]:
    """What a record measured, and its lines; a last line that a kill cut short is left out.

    Raises:
        ValueError: if the file is no record.
    """
    text = Path(record).read_text(encoding="utf-8")
    try:
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        if not all(isinstance(line, dict) for line in lines) or not lines:
            raise ValueError("no JSON objects")
    except ValueError as error:
        raise ValueError(f"{record} is not a record of measurements ({error})") from None
    return lines[0], lines[1:]


def _read(record: Path | None, identity: dict, ids: list[str]) -> list[dict]:
    if record is None or not record.exists() or "\n" not in record.read_text(encoding="utf-8"):
        return []
    another = f"{record} holds another measurement; choose another file or delete it"
    try:
        its, lines = read_record(record)
    except ValueError as error:
        raise ValueError(f"{another} ({error})") from None
    if its != identity or [line.get("id") for line in lines] != ids[: len(lines)]:
        raise ValueError(f"{another} ({its})")
    return lines


def _write(path: Path, lines: list[dict]) -> None:
    with whole(path) as aside:
        aside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
