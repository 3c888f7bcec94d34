"""The commands: ``python -m deepeyes_lite --help`` lists them."""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if it went well."""
    args = _parser().parse_args(argv)
    _quiet()
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"deepeyes-lite {args.command}: {error}", file=sys.stderr)
        return 1


def _quiet() -> None:
    """Keep the libraries' notes to developers off the screen of somebody who runs a command.

    And let a console that lacks a letter, such as those of Windows, show a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deepeyes_lite", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    for name, run, text in (
        ("demo", demo, "train, evaluate and report: the main job"),
        ("train", train, "train one run, or go on with a killed one"),
    ):
        sub = command(name, run, text)
        sub.add_argument("--out", type=Path, help="run folder (default runs/PRESET-ARM-SEED)")
        sub.add_argument("--preset", default="demo", help="demo or quick")
        sub.add_argument("--arm", help="a reward variant: conditional, none, …")
        sub.add_argument("--bonus", type=float, help="of a correct answer with a zoom")
        sub.add_argument("--steps", type=int)
        sub.add_argument("--seed", type=int)
        sub.add_argument("--learning-rate", type=float)
        sub.add_argument("--legible-share", type=float)
        sub.add_argument("--model", help="folder of tiny-eyes")
        sub.add_argument("--data", help="dataset of `select`, instead of fresh scenes")
        if name == "demo":
            sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("evaluate", evaluate, "evaluate a finished run and write its report")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("rollout", rollout, "roll out a model on held-out scenes into a JSONL file")
    sub.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    sub.add_argument("--run-folder", type=Path, help="a finished run; without it the base model")
    sub.add_argument("--samples", type=int, default=20)
    sub.add_argument("--tool", default="on", help="on, off, blank or other")
    sub.add_argument("--seed", type=int, default=0)
    sub = command("select", select, "filter questions by what the base model makes of them")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--folder", type=Path, help="your own pictures; without it the tiny world")
    sub.add_argument("--samples", type=int, default=200, help="questions of the tiny world")
    sub.add_argument("--k", type=int, default=8, help="episodes of each question")
    sub.add_argument("--spoiled", type=float, default=0.1, help="share of each kind of planted row")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--seed", type=int, default=0)
    sub = command("study", study, "run the study's plan, or go on with it")
    sub.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the runs")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"), help="what is kept")
    sub.add_argument("--only", default="*", help="pattern of the runs' names, such as 'none-*'")
    sub.add_argument("--preset", default="demo", help="what all runs share: demo or quick")
    sub.add_argument("--model", help="folder of tiny-eyes")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("claims", claims, "fill the claims ledger from the study's records")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"))
    sub.add_argument("--out", type=Path, default=Path("data/claims.json"), help="file to write")
    sub = command("pretrain", pretrain, "make tiny-eyes from scratch (two to three hours)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--quick", action="store_true", help="a smoke run of a minute")
    sub.add_argument("--seed", type=int, default=0)
    sub = command("card", card, "measure tiny-eyes and write card.json beside it")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--samples", type=int, default=600)
    sub = command("grade", grade, "marks for learners' notebooks; 0 if every exercise is solved")
    sub.add_argument("paths", type=Path, nargs="+", metavar="notebook.ipynb", help="or a folder")
    sub.add_argument("--csv", type=Path, help="file to write, a line for each exercise")
    sub.add_argument("--seconds", type=float, default=60, help="for each exercise")
    sub.add_argument("--memory", type=float, default=4, help="gigabytes for each notebook")
    command("doctor", doctor, "check the machine, one line per requirement")
    return parser


def _config(args):
    from deepeyes_lite.training import preset

    names = ("arm", "bonus", "steps", "seed", "learning_rate", "legible_share", "model", "data")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    config = preset(args.preset, **changes)
    out = args.out or Path("runs") / f"{args.preset}-{config.arm}-{config.seed}"
    return config, out


def train(args) -> None:
    from deepeyes_lite.training import train as run

    config, out = _config(args)
    print(f"trained: {run(config, out)}")


def evaluate(args) -> None:
    from deepeyes_lite.evaluation import evaluate_run, table
    from deepeyes_lite.report import write_report

    print(table(evaluate_run(args.out, args.samples)))
    print(f"report: {write_report(args.out)}")


def demo(args) -> None:
    train(args)
    args.out = _config(args)[1]
    evaluate(args)


def rollout(args) -> None:
    from deepeyes_lite.evaluation import held_out
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.tinyworld.model import load
    from deepeyes_lite.training import RunConfig, load_trained
    from deepeyes_lite.trajectories import write_jsonl

    model = load_trained(args.run_folder) if args.run_folder else load(RunConfig.model)
    episodes = run(held_out(args.samples), LocalPolicy(*model), tool=args.tool, seed=args.seed)
    write_jsonl(episodes, args.out)
    right = sum(episode.correct for episode in episodes)
    calls = sum(episode.called for episode in episodes)
    print(f"{right} of {len(episodes)} right, {calls} with a zoom: {args.out}")


def select(args) -> None:
    from deepeyes_lite import selection
    from deepeyes_lite.data import tiny_world
    from deepeyes_lite.folder import from_folder
    from deepeyes_lite.plots import pass_rate_bars, png
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.tinyworld.model import load
    from deepeyes_lite.training import claim

    names = ("folder", "samples", "k", "spoiled", "model", "seed")
    claim(args.out, {name: str(getattr(args, name)) for name in names})
    if args.folder:
        dataset, errors = from_folder(args.folder)
        for error in errors:
            print(error)
    else:
        spoiled = {"wrong label": args.spoiled, "unanswerable": args.spoiled}
        dataset = tiny_world("train", args.samples, spoiled=spoiled)
    model = load(args.model)
    dataset = selection.verifiable(selection.open_ended(dataset))
    dataset = selection.difficulty(
        dataset, LocalPolicy(*model), args.k, args.seed, args.out / "difficulty.jsonl"
    )
    surely = LocalPolicy(*model, temperature=0.0)
    dataset = selection.tool_benefit(dataset, surely, args.seed, args.out / "tool_benefit.jsonl")
    selection.kept(dataset).save_to_disk(args.out / "selected")
    found = selection.report(dataset)
    (args.out / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (args.out / "pass_rates.png").write_bytes(png(pass_rate_bars(dataset["pass_rate"])))
    print(selection.table(found))
    print(f"the questions that are kept: {args.out / 'selected'}")


def study(args) -> None:
    from deepeyes_lite.study import study as run
    from deepeyes_lite.training import preset

    base = preset(args.preset, **({"model": args.model} if args.model else {}))
    run(args.out, args.records, base, args.only, args.samples)


def claims(args) -> None:
    from deepeyes_lite.claims import ledger, table
    from deepeyes_lite.study_plots import write_figures

    rows = ledger(args.records)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    for path in write_figures(args.records, rows, args.out.parent / "figures"):
        print(f"figure: {path}")


def pretrain(args) -> None:
    from deepeyes_lite.tinyworld.pretrain import PLAN, QUICK
    from deepeyes_lite.tinyworld.pretrain import pretrain as run

    print(f"tiny-eyes: {run(args.out, QUICK if args.quick else PLAN, args.seed)}")


def card(args) -> None:
    from deepeyes_lite.tinyworld.card import table, write_card

    print(table(write_card(args.model, args.samples)))


def grade(args) -> int:
    from deepeyes_lite.grading import main as run

    return run(args.paths, args.csv, args.seconds, args.memory)


def doctor(args) -> int:
    from deepeyes_lite.doctor import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
