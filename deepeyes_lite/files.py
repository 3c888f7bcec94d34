"""Files that a kill, or a second process, cannot spoil.

Write aside, then rename: a kill at any moment leaves the old file, or the new one, and never a half.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


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
