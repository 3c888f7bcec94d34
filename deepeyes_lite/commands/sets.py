"""Commands about questions: read a public set, choose among them, hand them on."""

import json
from pathlib import Path


def add(command) -> None:
    """Add them to the parser; ``command`` takes a name, a function and a help text."""
    sub = command("data", data, "read a public set into a dataset for train, select and benchmark")
    sub.add_argument("name", help="deepeyes, vstar, hrbench-4k, hrbench-8k, pope, …")
    sub.add_argument("--from", dest="source", type=Path, help="its files on this machine")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--limit", type=int, help="read so many rows at most")
    sub = command("select", select, "filter questions by what the base model makes of them")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--folder", type=Path, help="your own pictures; without it the tiny world")
    sub.add_argument("--data", type=Path, help="dataset of `data`, instead of a folder")
    sub.add_argument("--samples", type=int, default=200, help="questions of the tiny world")
    sub.add_argument("--k", type=int, default=8, help="episodes of each question")
    sub.add_argument("--spoiled", type=float, default=0.1, help="share of each kind of planted row")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--seed", type=int, default=0)
    sub = command("export", export, "write a dataset as DeepEyes' parquet, for verl or ms-swift")
    sub.add_argument("--data", type=Path, required=True, help="dataset of `data` or `select`")
    sub.add_argument("--out", type=Path, required=True, help="parquet file to write")


def data(args) -> None:
    from deepeyes_lite.realworld.public import summary, write

    dataset, errors = write(args.name, args.out, args.source, args.limit)
    for line in summary(errors):
        print(line)
    print(f"{len(dataset)} questions, {len(errors)} rows left out: {args.out}")


def select(args) -> None:
    from deepeyes_lite import selection
    from deepeyes_lite.data import load as load_data
    from deepeyes_lite.models import load
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.realworld.folder import from_folder
    from deepeyes_lite.tinyworld.dataset import tiny_world
    from deepeyes_lite.training import check_or_write_config
    from deepeyes_lite.viz.plots import pass_rate_bars, png

    names = ("folder", "data", "samples", "k", "spoiled", "model", "seed")
    check_or_write_config(args.out, {name: str(getattr(args, name)) for name in names})
    if args.folder:
        dataset, errors = from_folder(args.folder)
        for error in errors:
            print(error)
    elif args.data:
        dataset = load_data(args.data)
    else:
        corrupted = {"wrong label": args.corrupted, "unanswerable": args.corrupted}
        dataset = tiny_world("train", args.samples, corrupted=corrupted)
    model = load(args.model)
    dataset = selection.verifiable(selection.open_ended(dataset))
    dataset = selection.difficulty(
        dataset, LocalPolicy(*model), args.k, args.seed, args.out / "difficulty.jsonl"
    )
    greedy = LocalPolicy(*model, temperature=0.0)
    dataset = selection.tool_benefit(dataset, greedy, args.seed, args.out / "tool_benefit.jsonl")
    selection.kept(dataset).save_to_disk(args.out / "selected")
    found = selection.report(dataset)
    (args.out / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (args.out / "pass_rates.png").write_bytes(png(pass_rate_bars(dataset["pass_rate"])))
    print(selection.table(found))
    print(f"the questions that are kept: {args.out / 'selected'}")


def export(args) -> None:
    from deepeyes_lite.data import load
    from deepeyes_lite.realworld.verl import export as run

    print(f"{run(load(args.data), args.out)} rows: {args.out}")
