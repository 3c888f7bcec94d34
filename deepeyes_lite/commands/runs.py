"""Commands about a run: train it, evaluate it, merge it."""

from dataclasses import replace
from pathlib import Path


def add(command) -> None:
    """Add them to the parser; ``command`` takes a name, a function and a help text."""
    for name, run, text in (
        ("demo", demo, "train, evaluate and report: the main job"),
        ("train", train, "train one run, or go on with a killed one"),
    ):
        sub = command(name, run, text)
        sub.add_argument("--out", type=Path, help="run folder (default runs/PRESET-ARM-SEED)")
        sub.add_argument("--preset", default="demo", help="demo, quick, or a GPU's memory: 24GB")
        sub.add_argument("--arm", help="a reward variant: conditional, none, …")
        sub.add_argument("--bonus", type=float, help="of a correct answer with a zoom")
        sub.add_argument("--steps", type=int)
        sub.add_argument("--seed", type=int)
        sub.add_argument("--learning-rate", type=float)
        sub.add_argument("--legible-share", type=float)
        sub.add_argument("--model", help="a folder, or a name of the hub")
        sub.add_argument("--data", help="dataset of `select`, instead of fresh scenes")
        sub.add_argument(
            "--cold-start", type=int, help="steps of SFT on traces made of target boxes"
        )
        sub.add_argument("--extra-tool", help="a tool beside the zoom, such as contrast")
        sub.add_argument(
            "--trl",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an option of TRL's GRPOConfig, passed on; may be given many times",
        )
        if name == "demo":
            sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("evaluate", evaluate, "evaluate a finished run and write its report")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("merge", merge, "write a finished run as a whole model, for serving")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--to", type=Path, required=True, help="folder to write")


def train(args) -> None:
    from deepeyes_lite.training import train as run

    config, out = config_of(args)
    print(f"trained: {run(config, out)}")


def evaluate(args) -> None:
    from deepeyes_lite.evaluation import evaluate_run, table
    from deepeyes_lite.viz.report import write_report

    print(table(evaluate_run(args.out, args.samples)))
    print(f"report: {write_report(args.out)}")


def demo(args) -> None:
    train(args)
    args.out = config_of(args)[1]
    evaluate(args)


def merge(args) -> None:
    from deepeyes_lite.realworld.publishing import merge as run

    print(f"merged: {run(args.out, args.to)}")


def config_of(args):
    """The configuration of a run, and its folder, as the command line has them."""
    from deepeyes_lite.training import options, preset

    names = ("reward", "bonus", "steps", "seed", "learning_rate", "legible_share", "model", "data")
    names = (*names, "cold_start", "extra_tool")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    config = preset(args.preset, **changes)
    if args.trl:
        config = replace(config, trl={**config.trl, **options(args.trl)})
    out = args.out or Path("runs") / f"{args.preset}-{config.reward}-{config.seed}"
    return config, out
