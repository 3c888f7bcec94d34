"""Commands that let a model answer: a model of this machine, or a served one."""

from pathlib import Path


def add(command) -> None:
    """Add them to the parser; ``command`` takes a name, a function and a help text."""
    sub = command("rollout", rollout, "roll out a model on held-out scenes into a JSONL file")
    sub.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    sub.add_argument("--samples", type=int, default=20)
    sub.add_argument("--kind", default="read", help="of the questions: read, compare, exists, …")
    sub.add_argument("--folder", type=Path, help="your own pictures, instead of held-out scenes")
    sub.add_argument("--tool", default="on", help="on, off, blank or other")
    sub.add_argument("--seed", type=int, default=0, help="of local sampling")
    _add_model(sub)
    _add_judge(sub)
    sub = command("ask", ask, "ask a question about a picture, and see the episode")
    sub.add_argument("photo", type=Path)
    sub.add_argument("question")
    sub.add_argument("--out", type=Path, default=Path("ask.html"), help="page to write")
    _add_model(sub)
    sub = command("benchmark", benchmark, "ask V* Bench, HR-Bench or another dataset of `data`")
    sub.add_argument("--data", type=Path, required=True, help="dataset of `data`")
    sub.add_argument("--out", type=Path, required=True, help="folder of the records")
    sub.add_argument("--no-tool", action="store_true", help="prompts that offer no tool")
    sub.add_argument("--k", type=int, default=1, help="episodes of each question: Avg@k")
    sub.add_argument("--temperature", type=float, help="default 0 for k = 1, else 1")
    sub.add_argument("--seed", type=int, default=0, help="of the options' order and the sampling")
    sub.add_argument("--against", type=Path, help="records of another run, for a paired test")
    _add_model(sub)
    _add_judge(sub)


def _add_model(sub) -> None:
    group = sub.add_argument_group("who answers; the base model tiny-eyes, if nothing is named")
    group.add_argument("--run-folder", type=Path, help="a finished run")
    group.add_argument("--model", help="a folder, a name of the hub, or a name at the endpoint")
    group.add_argument("--max-pixels", type=int, default=0, help="greatest area of a view")
    group.add_argument("--extra-tool", default="", help="a tool beside the zoom: contrast")
    group.add_argument("--endpoint", help="address of an OpenAI-compatible server")
    group.add_argument("--prompt", default="tools", help="tools, or deepeyes for its own weights")
    group.add_argument("--frame", help="box_1000 or box_view, if not that of the prompt")
    group.add_argument("--timeout", type=float, default=120, help="seconds for one answer")
    group.add_argument("--concurrency", type=int, default=8, help="requests at a time")


def _add_judge(sub) -> None:
    group = sub.add_argument_group(
        "who judges answers that no rule can compare; nobody, if not named"
    )
    group.add_argument("--judge", metavar="URL", help="address of an OpenAI-compatible server")
    group.add_argument("--judge-model", metavar="NAME", help="the model's name there")


def rollout(args) -> None:
    from deepeyes_lite.realworld.folder import from_folder
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.rollout import rollout_to_file
    from deepeyes_lite.tinyworld.dataset import held_out
    from deepeyes_lite.training import check_or_write_config
    from deepeyes_lite.trajectories import write_jsonl

    if args.folder:
        dataset, errors = from_folder(args.folder)
    else:
        dataset, errors = held_out(args.samples, kind=args.kind), []
    for error in errors:
        print(error)
    judge = _judge(args, Path(f"{args.out}.judge.jsonl"))
    if args.endpoint:
        policy = _served(args, 0.0)
        # Beside the file, so that a stopped batch does not go on with another model or prompt.
        names = ("folder", "kind", "tool", "endpoint")
        settings = {name: str(getattr(args, name)) for name in names}
        settings |= {"model": policy.endpoint.model, "prompt": policy.prompt}
        settings |= {"frame": policy.frame, "max_pixels": policy.max_pixels}
        settings |= {"extra_tool": args.extra_tool} if args.extra_tool else {}
        check_or_write_config(Path(f"{args.out}.settings"), settings | _judged_by(judge))
        episodes = rollout_to_file(
            dataset, policy, args.out, args.tool, args.concurrency, judge=judge
        )
    else:
        policy = _local(args, 1.0)
        episodes = run(dataset, policy, tool=args.tool, seed=args.seed, judge=judge)
        write_jsonl(episodes, args.out)
    right = sum(episode.correct for episode in episodes)
    calls = sum(episode.called for episode in episodes)
    print(f"{right} of {len(episodes)} right, {calls} with a zoom: {args.out}")
    if ended := [t.turns[-1].errors[0] for t in episodes if t.turns[-1].errors]:
        print(f"{len(ended)} ended by the server and counted wrong: {ended[0]}")
    if judge:
        print(judge.summary())


def ask(args) -> int:
    from deepeyes_lite.files import atomic_write
    from deepeyes_lite.realworld.folder import read_image
    from deepeyes_lite.rollout import rollout as run
    from deepeyes_lite.viz.html import episode_page, episode_text

    if args.out.suffix != ".html" or args.out.is_dir():  # it is replaced, whatever it was
        raise ValueError(f"--out is a page, so its name ends in .html; got {str(args.out)!r}")
    image, *_ = read_image(args.photo)
    sample = {"id": args.photo.name, "image": image, "question": args.question}
    policy = _served(args, 0.0) if args.endpoint else _local(args, 0.0)
    (episode,) = run([sample | {"answer": ""}], policy, progress=False)
    print(episode_text(episode))
    if not args.endpoint and policy.spec.family == "tiny-eyes":
        print("tiny-eyes knows only its own world of coloured shapes; larger models: --endpoint")
    named = policy.endpoint.model if args.endpoint else args.model or args.run_folder
    with atomic_write(args.out) as tmp:
        page = episode_page({str(named or "tiny-eyes"): episode})
        tmp.write_text(page, encoding="utf-8")
    print(f"page: {args.out}")
    return int(bool(episode.turns[-1].errors))  # the server ended it


def benchmark(args) -> None:
    from deepeyes_lite.data import load as load_data
    from deepeyes_lite.realworld import benchmarks
    from deepeyes_lite.training import check_or_write_config

    if args.temperature is None:
        args.temperature = 0.0 if args.k == 1 else 1.0
    if args.k > 1 and args.temperature <= 0:
        raise ValueError("at temperature 0 all k answers are one; set --k 1 or a temperature")
    dataset = load_data(args.data)
    judge = _judge(args, args.out / "judge.jsonl")
    policy = (_served if args.endpoint else _local)(args, args.temperature, not args.no_tool)
    names = ("data", "model", "run_folder", "no_tool", "k", "temperature", "seed", "max_pixels")
    names = (*names, "endpoint", "prompt", "frame")
    settings = {name: str(getattr(args, name)) for name in names} | _judged_by(judge)
    settings |= {"extra_tool": args.extra_tool} if args.extra_tool else {}
    if args.endpoint:
        settings["model"] = policy.endpoint.model
    check_or_write_config(args.out, settings)
    print(
        benchmarks.table(benchmarks.benchmark(dataset, policy, args.out, args.k, args.seed, judge))
    )
    if judge:
        print(judge.summary())
    if args.against:
        print(f"\n{args.out} minus {args.against}")
        found = benchmarks.compare(args.out, args.against)
        print("\n".join(benchmarks.differences_table(found)))


def _served(args, temperature: float, tools: bool = True):
    from deepeyes_lite.realworld.endpoint import Endpoint
    from deepeyes_lite.realworld.endpoint_policy import MAX_PIXELS, EndpointPolicy

    if args.run_folder:
        raise ValueError("--run-folder and --endpoint are two models; choose one")
    endpoint = Endpoint(args.endpoint, args.model, args.timeout, concurrency=args.concurrency)
    return EndpointPolicy(
        endpoint,
        args.prompt,
        args.frame,
        temperature,
        max_pixels=args.max_pixels or MAX_PIXELS,
        tools=tools,
        extra=args.extra_tool,
    )


def _local(args, temperature: float, tools: bool = True):
    from deepeyes_lite.models import load
    from deepeyes_lite.policies import LocalPolicy
    from deepeyes_lite.training import RunConfig, load_trained

    if args.run_folder and args.model:
        raise ValueError("--run-folder and --model are two models; choose one")
    if args.run_folder:
        model = load_trained(args.run_folder)
    else:
        name = args.model or RunConfig.model
        model = load(name, max_pixels=args.max_pixels, extra_tool=args.extra_tool)
    return LocalPolicy(*model, tools=tools, temperature=temperature)


def _judge(args, cache: Path):
    from deepeyes_lite.realworld.endpoint import Endpoint
    from deepeyes_lite.realworld.judge import Judge

    if args.judge:
        return Judge(Endpoint(args.judge, args.judge_model), cache)
    if args.judge_model:
        raise ValueError("--judge-model names a model of --judge; give its address, too")
    return None


def _judged_by(judge) -> dict:
    """For the settings of a batch, so that it does not go on under another judge."""
    return {"judge": judge.endpoint.model if judge else "none"}
