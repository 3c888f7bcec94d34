"""The house in figures: how many lines each part has, and who imports whom; and its address.

``python tests/house.py`` prints the reading list and the table of lines. With ``--write`` they go where they
belong: the list into the docstring of deepeyes_lite/__init__.py, the table into README.md between its marks
``<!-- lines -->``, the picture of the imports into docs/imports.svg, and the repository's address from
pyproject.toml to wherever it is repeated.
"""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deepeyes_lite"
PICTURE = ROOT / "docs" / "imports.svg"
# The address after what stands before it in a link, or in the link of a badge.
ADDRESS = re.compile(r"(?:github\.com|github|gh|codespaces\.new)/([\w.-]+/deepeyes-lite)\b")
ADDRESSED = [ROOT / "README.md", ROOT / "CITATION.cff", *sorted(ROOT.glob("notebooks/*.ipynb"))]
WIDTH = 0.22  # half of a box, where the two columns are 1 apart

# The method in reading order. The first nine take one training step from the scene to the gradient.
READING = {
    "boxes": "frames (box_px, box_view, box_1000), IoU, the size of a view",
    "tools": "the zoom: a checked function, and TRL's environment class",
    "prompts": "chat template, response template, reserved tokens",
    "trajectories": "an episode, token by token; JSONL",
    "policies": "who replies: a transformers model, or a script",
    "rollout": "the batched loop: reply, call, crop, until the answer",
    "verifiers": "correct or incorrect, by rule",
    "rewards": "reward functions for TRL, variants as weights, advantages",
    "training": "a run: LoRA, TRL's trainer, record, resume",
    "selection": "which questions to train on: pass rate, tool benefit",
    "evaluation": "what came of it: intervals, controls, paired tests",
}
NINE = list(READING)[:9]
BESIDE = {
    "config": "what decides a run, and the presets",
    "models": "what differs from one family of models to the next",
    "options": "multiple choice, read out of a question and written into it",
    "formulas": "are two numbers or formulas equal, in floats",
    "data": "the one schema of a sample",
    "files": "atomic write, lock, resumable JSONL",
    "doctor": "checks of the machine",
    "fast": "to be read last: speed, no result changes",
    "__main__": "the commands; the one flat file that imports folders, to hand them in",
}


def lines(*paths: Path) -> int:
    """Lines of files, and of all Python files below folders; of a notebook those of its code cells."""
    count = 0
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".ipynb":
                cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
                text = "\n".join("".join(cell["source"]) for cell in cells)
            count += len(text.splitlines())
    return count


def flat(*names: str) -> int:
    return lines(*(PACKAGE / f"{name}.py" for name in names))


def purpose(folder: Path) -> str:
    """The first line of the docstring of a folder, which says for whom the folder is."""
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def imports() -> dict[str, set[str]]:
    """For each module of the package the modules of the package that it imports, also inside functions."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
    arrows = {}
    for name, path in paths.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules = {f"{node.module}.{alias.name}" for alias in node.names} & paths.keys()
                targets |= modules or {node.module}
        arrows[name] = targets & paths.keys()
    return arrows


def part(module: str) -> str:
    """The part that a module belongs to: a flat file such as `boxes`, or a folder such as `viz/`."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if (PACKAGE / f"{name}.py").exists() else f"{name}/"


def reading_list() -> str:
    """What the docstring of the package says from ``Read in this order`` on."""
    rows = ["Read in this order:", ""]
    for number, (name, phrase) in enumerate(READING.items(), 1):
        if number == 10:
            rows += [
                "",
                f"These {flat(*NINE):,} lines are one training step, from the scene to the",
            ]
            rows += ["gradient. Then which questions it trains on, and what it has learned:", ""]
        rows.append(f"    {number:>2} {name + '.py':<16}{flat(name):>5}  {phrase}")
    rows += ["", "What the method stands on:", ""]
    rows += [
        f"       {name + '.py':<16}{flat(name):>5}  {phrase}" for name, phrase in BESIDE.items()
    ]
    return "\n".join(rows) + "\n"


def table() -> str:
    """What README says between its marks: the order of reading, and the lines of each part."""
    order = ", ".join(f"[{name}](deepeyes_lite/{name}.py)" for name in NINE)
    course = ROOT / "notebooks"
    rows = {
        "these nine files": (flat(*NINE), "one training step, end to end"),
        "`selection`, `evaluation`": (
            flat("selection", "evaluation"),
            "which questions it trains on; what it has learned",
        ),
        ", ".join(f"`{name}`" for name in BESIDE): (
            flat(*BESIDE, "__init__"),
            "what the method stands on, and the commands; `fast` is read last",
        ),
    }
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        rows[f"`{folder.name}/`"] = (lines(folder), purpose(folder).rstrip("."))
    exercises = [path for path in (course / "checks", course / "grade.py") if path.exists()]
    # To the nearest hundred, so that not every changed test changes README.
    rows |= {
        "exercises": (round(lines(*exercises), -2), "`notebooks/checks/`, for learners; marks"),
        "notebooks": (round(lines(*course.glob("*.ipynb")), -2), "their code cells"),
        "`tests/`": (round(lines(ROOT / "tests"), -2), "for developers"),
    }
    return "\n".join(
        [
            f"The method is {lines(*PACKAGE.glob('*.py')):,} lines in flat files. Nine of them, "
            f"{flat(*NINE):,} lines, take one training",
            f"step from the scene to the gradient. Read them in this order: {order}.",
            "A folder is something else, and the first line of its `__init__.py` says for whom. Flat",
            "files import no folder; only `__main__`, the commands, hands them in",
            "([picture of the imports](docs/imports.svg)).",
            "",
            "| part | lines | what it is |",
            "|---|---:|---|",
            *(f"| {name} | {count:,} | {text} |" for name, (count, text) in rows.items()),
        ]
    )


def parts() -> set[tuple[str, str]]:
    """Who imports whom, by parts: ``("viz/", "boxes")``. The package's `DATA` is left out."""
    arrows = {(part(a), part(b)) for a, targets in imports().items() for b in targets}
    return {(a, b) for a, b in arrows if a != b and "__init__" not in (a, b)}


def draw(path: Path = PICTURE) -> None:
    """The picture of the imports: flat files in reading order, folders, arrows to what they import."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "house", "font.size": 11}
    import matplotlib.pyplot as plt

    files = [*READING, *BESIDE]
    folders = sorted({name for arrow in parts() for name in arrow if name.endswith("/")})
    place = {name: (0, -k - 0.5 * (name not in NINE)) for k, name in enumerate(files)}
    step = len(files) / len(folders)
    place |= {name: (1, 0.5 - step * (k + 0.5)) for k, name in enumerate(folders)}
    colour = dict.fromkeys(files, "0.35") | {name: f"C{k}" for k, name in enumerate(folders)}

    figure, ax = plt.subplots(figsize=(11, 9.5))
    for a, b in sorted(parts()):
        (x1, y1), (x2, y2) = place[a], place[b]
        # Arcs between files run on the left, those between folders on the right.
        arc = 0 if x1 != x2 else 0.5 if (y1 < y2) == (x1 == 1) else -0.5
        start = (x1 + (WIDTH if x2 > x1 or x1 == x2 == 1 else -WIDTH), y1)
        end = (x2 + (WIDTH if x1 > x2 or x1 == x2 == 1 else -WIDTH), y2)
        wrong = a in files and b in folders and a != "__main__"  # against the rule: thick and red
        style = (
            {"color": "red", "linewidth": 2.5} if wrong else {"color": colour[a], "linewidth": 0.8}
        )
        style |= {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={arc}"}
        arrow = ax.annotate("", end, start, arrowprops=style)
        arrow.arrow_patch.set_gid(f"{a} imports {b}")
    for name, (x, y) in place.items():
        number = files.index(name) + 1 if name in READING else ""
        label = f"{name:^18}" if name in folders else f"{number:>2} {name + '.py':<15}"
        box = {"boxstyle": "round", "edgecolor": colour[name]}
        box["facecolor"] = "#fff4d6" if name in NINE else "white"
        ax.text(x, y, label, ha="center", va="center", family="monospace", bbox=box)
    ax.set(xlim=(-0.6, 1.65), ylim=(-len(files), 0.6))
    ax.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Title": "Who imports whom"})
    plt.close(figure)


def address() -> str:
    """OWNER/NAME on GitHub, of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def between(path: Path, start: str, end: str, text: str) -> None:
    """Put a text between two marks of a file; what stood there goes."""
    head, mark, rest = path.read_text(encoding="utf-8").partition(start)
    if not mark:
        raise SystemExit(f"{path} has no mark {start!r}")
    path.write_text(head + start + text + end + rest.partition(end)[2], encoding="utf-8")


def write() -> None:
    list_ = reading_list().partition("\n")
    between(PACKAGE / "__init__.py", "".join(list_[:2]), '"""', list_[2])
    between(ROOT / "README.md", "<!-- lines -->\n", "\n<!-- lines -->", table())
    draw()
    for path in ADDRESSED:
        text = path.read_text(encoding="utf-8")
        for old in set(ADDRESS.findall(text)):
            text = text.replace(old, address())
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    print(reading_list(), table(), sep="\n")
