"""Two tools, and when to call which: a warm start, GRPO, and what was called on which kind of question.

tiny-eyes has no word for a second tool, and a tool that is never called cannot be learned from reward. So
there is a warm start: a few new words, and supervised episodes whose tool is drawn *before* anyone looks
at the scene (`faint.traces`). They teach how a call is written, and nothing about when it helps: GRPO has to
find that out.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path

from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study import tool_use
from deepeyes_lite.study.low_contrast import (
    AIMED,
    APART,
    CONTRAST,
    HELPS,
    KINDS,
    WORDS,
    learn_words,
    questions,
    traces,
)
from deepeyes_lite.study.run import record
from deepeyes_lite.study.tool_use import NONE, chosen
from deepeyes_lite.tools import ZOOM
from deepeyes_lite.training import (
    RunConfig,
    base_of,
    check_or_write_config,
    load_trained,
    read_config,
    train,
)
from deepeyes_lite.trajectories import Trajectory

WARM_STEPS, WARM_BATCH, WARM_RATE = 20, 16, 5e-4


def warm_start(
    to: str | Path,
    base: str = RunConfig.model,
    steps: int = WARM_STEPS,
    apart: float = APART,
    aimed: float = AIMED,
) -> Path:
    """tiny-eyes with words for the second tool, and the habit of calling either at random.

    Args:
        to: folder of the model; what is there already is not made again.
        base: folder of tiny-eyes.
        steps: of SFT on `traces`, the vision tower left as it is.
        apart: how far the new words start from known ones, see `learn_words`.
        aimed: share of zooms that are aimed, see `traces`.
    """
    from trl import SFTConfig, SFTTrainer

    from deepeyes_lite.realworld.cold_start import collator

    to = Path(to)
    if to.exists():
        return to
    model, processor = load(base, extra_tool="contrast")
    learn_words(model, processor.tokenizer, WORDS, apart)
    model.model.visual.requires_grad_(False)
    with atomic_write(to) as tmp:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(tmp),
                max_steps=steps,
                per_device_train_batch_size=WARM_BATCH,
                learning_rate=WARM_RATE,
                warmup_steps=5,
                max_length=None,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                save_strategy="no",
                logging_steps=10,
                report_to=[],
                use_cpu=True,
                bf16=False,
                dataloader_pin_memory=False,
                gradient_checkpointing=False,
            ),
            # Far from the scenes of tiny-eyes' own lessons.
            train_dataset=questions("pretrain", -(-steps * WARM_BATCH // 3), start=9_500_000),
            data_collator=collator(processor, partial(traces, aimed=aimed)),
            processing_class=processor,
        )
        trainer.train()
        model.save_pretrained(tmp)
        del processor.extra_tool
        processor.save_pretrained(tmp)
    return to


RECORD = ("config.json", "history.csv", tool_use.FILE, "evaluation.json")


def run(
    out: str | Path,
    records: str | Path | None = None,
    seed: int = 0,
    arm: str = "conditional",
    steps: int = 40,
    samples: int = 30,
    apart: float = APART,
    aimed: float = AIMED,
) -> dict:
    """Warm start, GRPO with both tools, evaluation; a run that was killed goes on.

    Args:
        out: folder; the warm start and the questions in it are shared by its runs.
        records: folder in which the record of the run is kept, too.
        seed: of the run.
        arm: of the reward.
        steps: of GRPO.
        samples: questions of each kind in the evaluation.
        apart: how far the new words start from known ones, see `learn_words`.
        aimed: share of zooms in the warm start that are aimed, see `traces`.

    Returns:
        What ``evaluation.json`` holds, see `evaluate`.

    Raises:
        ValueError: if the folder holds runs from another warm start.
    """
    out = Path(out)
    check_or_write_config(out, {"apart": apart, "aimed": aimed})
    base = warm_start(out / "warm-start", apart=apart, aimed=aimed)
    data = out / "questions"
    if not data.exists():
        with atomic_write(data) as tmp:
            questions("train", 100).save_to_disk(tmp)
    config = RunConfig(
        reward=arm, steps=steps, seed=seed, model=str(base), data=str(data), extra_tool="contrast"
    )
    folder = train(config, out / f"{arm}-{seed}")
    report = evaluate(folder, samples)
    if records:
        record(folder, Path(records) / folder.name, RECORD)
    return report


def evaluate(folder: str | Path, samples: int = 30, seed: int = 0) -> dict:
    """Ask a finished run, and the warm start that it came from, the same held-out questions of all kinds.

    Returns:
        What ``evaluation.json`` then holds: ``samples`` of each kind, and `by_kind` under each condition.
    """
    path = Path(folder) / "evaluation.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    asked = questions("test", samples, KINDS)
    models = {"warm start": base_of(read_config(folder)), "trained": load_trained(folder)}
    found = {
        name: by_kind(rollout(asked, LocalPolicy(*model), seed=seed))
        for name, model in models.items()
    }
    policy = LocalPolicy(*models["trained"])
    found["trained, tools off"] = by_kind(rollout(asked, policy, tool="off", seed=seed))
    report = {"samples": samples, "seed": seed, "conditions": found}
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def by_kind(episodes: list[Trajectory]) -> dict[str, dict]:
    """For each kind of question the accuracy, and how many episodes called which tool."""
    kinds = {}
    for kind in dict.fromkeys(t.sample["kind"] for t in episodes):
        some = [t for t in episodes if t.sample["kind"] == kind]
        calls = Counter(chosen([turn.text for turn in t.turns]) for t in some)
        kinds[kind] = {
            "accuracy": share(sum(t.correct for t in some), len(some)),
            "chosen": dict(calls.most_common()),
        }
    return kinds


def table(report: dict) -> str:
    """An evaluation as text: accuracy, and the share of episodes that call each tool, by kind."""
    tools = {NONE: "none", ZOOM: "zoom", CONTRAST: "contrast", f"{CONTRAST} + {ZOOM}": "both"}
    lines = [f"{'':22}{'':18}{'accuracy':>18}" + "".join(f"{t:>10}" for t in tools.values())]
    for condition, kinds in report["conditions"].items():
        for kind, found in kinds.items():
            n = found["accuracy"]["n"]
            shares = "".join(f"{found['chosen'].get(tool, 0) / n:>10.0%}" for tool in tools)
            lines.append(f"{condition:22}{kind:18}{interval(found['accuracy']):>18}{shares}")
    return "\n".join(
        [*lines, f"{report['samples']} held-out questions of each kind; 95 % intervals"]
    )


def curve(records: list[list[dict]], kind: str, tool: str) -> tuple[list[int], list[float]]:
    """Steps, and the share of the episodes of a kind that called a tool and no other, all runs together.

    Args:
        records: of several runs, the rows of `tool_use.read`.
        kind: of question.
        tool: its name, or "none".
    """
    called, asked = Counter(), Counter()
    for row in (row for rows in records for row in rows if row["kind"] == kind):
        asked[row["step"]] += row["episodes"]
        called[row["step"]] += row["episodes"] * (row["tool"] == tool)
    return sorted(asked), [called[step] / asked[step] for step in sorted(asked)]


def verdict(reports: list[dict]) -> str:
    """Whether trained policies tell the kinds apart, in words.

    They do in a run if the tool that helps one kind is surely called more often on it than on the kind that
    needs the other tool: the two 95 % intervals do not touch.
    """
    lines = []
    for kind, other in (("small", "faint"), ("faint", "small")):
        apart = 0
        for number, report in enumerate(reports):
            kinds = report["conditions"]["trained"]
            here, there = (called(kinds, name, HELPS[kind]) for name in (kind, other))
            apart += here["low"] > there["high"]
            lines.append(
                f"run {number}: on {interval(here)} of {kind}, {interval(there)} of {other}"
            )
        lines.append(
            f"{HELPS[kind]}: chosen for {kind} questions in {apart} of {len(reports)} runs"
        )
    return "\n".join(lines)


def called(kinds: dict, kind: str, tool: str) -> dict:
    """Share of the questions of a kind on which a tool was called, and no other; see `by_kind`."""
    return share(kinds[kind]["chosen"].get(tool, 0), kinds[kind]["accuracy"]["n"])
