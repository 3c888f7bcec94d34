"""Commands about the tiny world and the study in it."""

import json
from pathlib import Path


def add(command) -> None:
    """Add them to the parser; ``command`` takes a name, a function and a help text."""
    sub = command("study", study, "run the study's plan, or go on with it")
    sub.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the runs")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"), help="what is kept")
    sub.add_argument("--only", default="*", help="pattern of the runs' names, such as 'none-*'")
    sub.add_argument("--preset", default="demo", help="what all runs share: demo or quick")
    sub.add_argument("--model", help="folder of tiny-eyes")
    sub.add_argument(
        "--seed", type=int, default=0, help="the first one, of a study with other seeds"
    )
    sub.add_argument("--samples", type=int, default=300, help="held-out scenes")
    sub = command("claims", claims, "fill the claims ledger from the study's records")
    sub.add_argument("--records", type=Path, default=Path("data/runs/study"))
    sub.add_argument("--out", type=Path, default=Path("data/claims.json"), help="file to write")
    sub = command("animate", animate, "draw a recorded run as a short animation")
    sub.add_argument("--records", type=Path, required=True, help="a run's folder or its record")
    sub.add_argument("--out", type=Path, default=Path("data/figures"), help="folder to write")
    sub = command("two-tools", two_tools, "train with the zoom and a second tool, and evaluate")
    sub.add_argument("--out", type=Path, default=Path("runs/two-tools"), help="folder of the runs")
    sub.add_argument("--records", type=Path, help="folder for a small record of the run, too")
    # Without a default: what is not given is left to `two_tools.run`.
    sub.add_argument("--arm", help="a reward variant")
    sub.add_argument("--seed", type=int)
    sub.add_argument("--steps", type=int)
    sub.add_argument("--samples", type=int, help="held-out questions of each kind")
    help_apart = "how far new words start from known ones; 0: copies"
    sub.add_argument("--apart", type=float, help=help_apart)
    sub.add_argument("--aimed", type=float, help="share of the warm start's zooms")
    sub = command("pretrain", pretrain, "make tiny-eyes from scratch (about three hours)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--quick", action="store_true", help="a smoke run of a minute")
    sub.add_argument("--seed", type=int, default=0)
    sub = command("card", card, "measure tiny-eyes and write card.json beside it")
    sub.add_argument("--model", type=Path, default=Path("data/tiny-eyes"))
    sub.add_argument("--samples", type=int, default=600)


def study(args) -> None:
    from deepeyes_lite.study.run import study as run
    from deepeyes_lite.training import preset

    base = preset(args.preset, seed=args.seed, **({"model": args.model} if args.model else {}))
    run(args.out, args.records, base, args.only, args.samples)


def claims(args) -> None:
    from deepeyes_lite.study.claims import ledger, table
    from deepeyes_lite.study.figures import write_figures
    from deepeyes_lite.study.records import load_records, spent

    rows = ledger(args.records)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{table(rows)}\n\n{spent(load_records(args.records))}")
    for path in write_figures(args.records, rows, args.out.parent / "figures"):
        print(f"figure: {path}")


def animate(args) -> None:
    from deepeyes_lite.viz.animation import write

    print(f"{write(args.records, args.out)}\nwritten: zoom.gif and zoom.png in {args.out}")


def two_tools(args) -> None:
    from deepeyes_lite.study.two_tools import run, table

    names = ("seed", "reward", "steps", "samples", "apart", "aimed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    print(table(run(args.out, args.records, **given)))


def pretrain(args) -> None:
    from deepeyes_lite.tinyworld.pretraining.pretrain import PLAN, QUICK
    from deepeyes_lite.tinyworld.pretraining.pretrain import pretrain as run

    print(f"tiny-eyes: {run(args.out, QUICK if args.quick else PLAN, args.seed)}")


def card(args) -> None:
    from deepeyes_lite.tinyworld.pretraining.card import table, write_card

    print(table(write_card(args.model, args.samples)))
