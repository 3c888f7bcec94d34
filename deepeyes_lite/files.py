"""Files that a kill, or a second process, cannot spoil.

Write aside, then rename: a kill at any moment leaves the old file, or the new one, and never a half.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout
from tqdm.auto import tqdm


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Inside, write the file or folder under the name that is given; after it, it stands at ``path``.

    On an exception ``path`` stays as it was. A folder that stood there is moved away first, for nobody can
    rename over a full one: whoever has it open reads on, and a kill in that moment leaves none, never half.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
    >>> with atomic_write(target) as aside:
    ...     _ = aside.write_text("all of it")
    ...     target.exists()
    False
    >>> target.read_text()
    'all of it'
    """
    path = Path(path)
    tmp, old = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(tmp)
    try:
        yield tmp
    except BaseException:
        _remove(tmp)
        raise
    if path.is_dir():
        _remove(old)
        os.replace(path, old)
    os.replace(tmp, path)
    _remove(old)


@contextmanager
def file_lock(path: str | Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file; False if another process holds it. Who is killed lets go of it.

    Args:
        path: of the lock file.
        wait: whether to wait until the other process lets go of it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / ".lock"
    >>> with file_lock(path) as first, file_lock(path) as second:
    ...     first, second
    (True, False)
    >>> with file_lock(path) as first:
    ...     first
    True
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(blocking=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this is the process that writes, of the several that train together."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def sole_writer(path: str | Path) -> Iterator[None]:
    """Inside, no other process of ours writes this file or folder; the lock is a hidden file beside it.

    Raises:
        ValueError: if another process writes it.
    """
    path = Path(path).absolute()
    with file_lock(path.with_name(f".{path.name}.lock")) as free:
        if not free:
            raise ValueError(f"another process writes {path}; let it end, or choose another name")
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_or_write_config(folder: str | Path, config: dict, defaults: dict | None = None) -> None:
    """Write ``config.json`` into a folder, or see that the one there is the same.

    Args:
        folder: of a run, or of whatever else goes on after a kill.
        config: what decides what happens in it.
        defaults: values of what a record from before an option existed was made with.

    Raises:
        ValueError: if the folder holds something else; it names what differs.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        with atomic_write(path) as tmp:
            tmp.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return
    try:
        held = {**(defaults or {}), **json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError):
        raise ValueError(f"{path} cannot be read; choose another folder or delete it") from None
    names = [name for name in {**held, **config} if held.get(name) != config.get(name)]
    if names:
        differences = "; ".join(
            f"{n}: {held.get(n)!r} there, {config.get(n)!r} here" for n in names
        )
        raise ValueError(
            f"{folder} holds another run ({differences}); choose another folder or delete it"
        )


class JsonlLog:
    """A file of JSON lines that only grows: the one way to go on with a list of items after a kill.

    Its first line says what is recorded and how. A last line that a kill cut short is dropped.

    Attributes:
        rows: the lines after the first.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> JsonlLog(path, {"what": "squares"}).append({"id": 2, "value": 4})
    >>> JsonlLog(path, {"what": "squares"}).rows
    [{'id': 2, 'value': 4}]
    >>> JsonlLog(path, {"what": "cubes"})
    Traceback (most recent call last):
    ValueError: ...log.jsonl holds another record ({'what': 'squares'}); choose another file or delete it
    """

    def __init__(self, path: str | Path, identity: dict):
        """Open or create the file.

        Args:
            path: the JSONL file.
            identity: what is recorded and how; a file with another one is refused.

        Raises:
            ValueError: if the file holds something else.
        """
        self.path = Path(path)
        self._lock = Lock()
        self.rows: list[dict] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = self.path.read_bytes() if self.path.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        if not complete:
            self.path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
            return
        held, self.rows = read_log(self.path)
        if held != identity:
            raise ValueError(
                f"{path} holds another record ({held}); choose another file or delete it"
            )
        if complete != data:
            os.truncate(self.path, len(complete))

    def append(self, *rows: dict) -> None:
        """Write rows, flushed at once; several threads may do so."""
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        self.rows += rows


def read_log(path: str | Path) -> tuple[dict, list[dict]]:
    """What a `JsonlLog` says it records, and its rows; a last line that a kill cut short is left out.

    Raises:
        ValueError: if the file is no such log.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        if not all(isinstance(line, dict) for line in lines) or not lines:
            raise ValueError("no JSON objects")
    except ValueError as error:
        raise ValueError(f"{path} is not a record ({error})") from None
    return lines[0], lines[1:]


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

    The seed of a chunk is that of its place, so a measurement that was killed ends where the
    undisturbed one ends.

    Args:
        ids: of the rows, in order.
        work: measures the rows from its first argument to before its second, with the seed that is the
            third; one dict of JSON values a row.
        chunk: rows that are measured together.
        identity: what is measured and how, with a ``seed``.
        record: file for a `JsonlLog`; without it nothing is kept.
        progress: whether to show a bar.
        name: what the bar says.

    Returns:
        For each row its ``id`` and what was measured.

    Raises:
        ValueError: if the record holds another measurement.
    """
    log = JsonlLog(record, identity) if record else None
    rows = list(log.rows) if log else []
    if [row.get("id") for row in rows] != ids[: len(rows)]:
        raise ValueError(f"{record} holds other rows; choose another file or delete it")
    bar = tqdm(total=len(ids), initial=len(rows), desc=name, disable=not progress)
    while len(rows) < len(ids):
        start = len(rows) // chunk * chunk  # a chunk that a kill cut short is measured anew
        stop = min(start + chunk, len(ids))
        values = work(start, stop, identity["seed"] * 1_000_000 + start)
        new = [{"id": id, **value} for id, value in zip(ids[start:stop], values, strict=True)]
        new = new[len(rows) - start :]
        if log:
            log.append(*new)
        rows += new
        bar.update(len(new))
    bar.close()
    return rows
