"""The one rule of the layout: flat files are the method and import no folder; folders say for whom."""

import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

from house import BESIDE, PACKAGE, PICTURE, READING, imports, part, parts, purpose, reading_list


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """All circles of imports; graphlib names one at a time, so one arrow of each is taken away."""
    arrows, found = {name: set(targets) for name, targets in arrows.items()}, []
    while True:
        try:
            TopologicalSorter(arrows).prepare()
            return found
        except CycleError as error:
            target, importer, *_ = circle = error.args[1]
            found.append(" is imported by ".join(circle))
            arrows[importer].discard(target)


def test_flat_files_import_no_folder():
    """`__main__` is the caller that hands the folders in, and may."""
    wrong = [
        f"{importer} imports {target}"
        for importer, targets in sorted(imports().items())
        for target in sorted(targets)
        if not part(importer).endswith("/") and part(importer) != "__main__"
        if part(target).endswith("/")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_imported_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "b"}, "d": {"a"}})
    found = circles(imports())
    assert not found, "\n".join(found)


def test_every_folder_says_for_whom_it_is():
    folders = [path.parent for path in PACKAGE.glob("*/**/__init__.py")]
    assert not [folder for folder in folders if not re.search(r"\bfor\b", purpose(folder))]


def test_the_reading_list_and_the_picture_are_those_of_the_files():
    """Else: python tests/house.py --write."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*READING, *BESIDE, "__init__"}
    assert reading_list() in (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    drawn = re.findall(r'id="(\S+) imports (\S+)"', PICTURE.read_text(encoding="utf-8"))
    assert set(drawn) == parts()


def test_the_package_itself_imports_nothing_heavy():
    """Notebooks and the command line start with it."""
    code = "import sys, deepeyes_lite; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "trl", "datasets", "PIL", "numpy"}
    assert not heavy & set(result.stdout.split())
