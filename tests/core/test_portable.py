"""Nothing in the package that only POSIX has, nothing that depends on the system's encoding.

Windows and macOS are not at hand: this reads the source, and runs a command with a foreign encoding.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deepeyes_lite").rglob("*.py"))
MODULES = {
    "crypt",
    "curses",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "readline",
    "resource",
    "signal",
}
MODULES |= {"syslog", "termios", "tty"}
OF_OS = {"chown", "fork", "forkpty", "getloadavg", "getpgid", "getuid", "geteuid", "kill", "killpg"}
OF_OS |= {"mkfifo", "nice", "sched_getaffinity", "setsid", "statvfs", "symlink", "uname", "wait"}
FOLDERS = ("/tmp", "/dev", "/proc", "/home", "/usr", "/etc", "/var")


def complaints(source: str):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            yield from (f"import of {name}" for name in names & MODULES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            if node.attr in OF_OS:
                yield f"os.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(FOLDERS):
                yield f"the folder {node.value!r}"
        elif isinstance(node, ast.Call):
            yield from without_encoding(node)


def without_encoding(call: ast.Call):
    """Text that is read or written in whatever encoding the system has; images are opened otherwise."""
    name = ast.unparse(call.func)
    words = {keyword.arg for keyword in call.keywords}
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    is_text = name.endswith((".read_text", ".write_text")) or (
        name.endswith(".open") and not name.startswith("Image") and "b" not in str(first)
    )
    if (
        (is_text or name == "open")
        and "encoding" not in words
        and not name.startswith(("os.", "self."))
    ):
        yield f"{ast.unparse(call)[:60]} without an encoding"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_nothing_of_one_system_alone(path):
    assert list(complaints(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from signal import SIGKILL",
        "import os\nos.fork()",
        "open('a')",
        "path.read_text()",
        "path.write_text('a')",
        "path.open('w', newline='')",
        "x = '/dev/null'",
    ],
)
def test_what_would_be_found(source):
    assert list(complaints(source))


def test_a_console_that_lacks_a_letter_stops_no_command(tmp_path):
    path = tmp_path / "05_grpo_lora-Zoë→□.ipynb"
    path.write_text("no notebook", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "deepeyes_lite", "grade", str(path)],
        env={
            **os.environ,
            "PYTHONIOENCODING": "cp1252",
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "0",
        },
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 1 and result.stderr == b""
    assert "05_grpo_lora-Zoë??.ipynb" in result.stdout.decode("cp1252")
