"""Write aside, then rename: a kill at any moment leaves the old file, or the new one, and never a half."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
