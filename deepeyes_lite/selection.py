"""Which questions are worth training on: DeepEyes' filters, each told apart and counted.

The paper (arXiv 2505.14362, section on data) keeps a question if its answer can be checked, if the base
model is right sometimes and wrong sometimes, and, for fine-grained data, if supplying the target's crop
turns a wrong answer into a right one. Multiple choice is rewritten to an open question first. Only the
filtered data were published, no filter; these are written after the description.

Every filter takes a dataset in our schema and returns it with its measurements as columns and the
column ``dropped``: the reason, or "" while the question is kept. Rows are never removed and a row that
is dropped is not measured again, so filters chain:

    dataset = verifiable(dataset)
    dataset = difficulty(dataset, policy)
    dataset = tool_benefit(dataset, policy)
    report(dataset), kept(dataset)
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from deepeyes_lite.files import measure
from deepeyes_lite.options import LETTERS, fixed_places, normalise, split_options
from deepeyes_lite.policies import OracleZoomPolicy, Policy
from deepeyes_lite.rollout import rollout

BATCH = 64  # episodes that run side by side
LONGEST_ANSWER = 5  # words; a longer one has no single right wording, so no rule can check it
NO_ANSWER = {"n/a", "none of the above", "not sure", "unknown", "cannot be determined", "unclear"}


# --- filters ------------------------------------------------------------------------------------


def verifiable(dataset: Dataset) -> Dataset:
    """Drop questions whose answer no rule can check."""
    return _drop(dataset, [_unverifiable(answer) for answer in dataset["answer"]])


def _unverifiable(answer: str) -> str:
    plain = normalise(answer)
    if not plain:
        return "no answer"
    if plain in NO_ANSWER:
        return "says that there is no answer"
    if len(plain.split()) > LONGEST_ANSWER:
        return "answer too long for a rule"
    return ""


def difficulty(
    dataset: Dataset,
    policy: Policy,
    k: int = 8,
    seed: int = 0,
    record: str | Path | None = None,
    progress: bool = True,
) -> Dataset:
    """Drop questions of pass rate 0 and 1; adds the column ``pass_rate``, out of ``k`` episodes.

    A group of GRPO in which every rollout gets the same reward has no gradient; neither question teaches
    anything now.

    Args:
        dataset: in our schema.
        policy: who answers, with the tool as it is prompted.
        k: episodes of each question.
        seed: of the sampling.
        record: JSONL file of the measurements; a killed measurement goes on from it.
        progress: whether to show a bar.

    Raises:
        ValueError: if ``record`` holds another measurement.
    """

    def passes(rows: list[dict], seed: int) -> list[dict]:
        episodes = rollout(
            [row for row in rows for _ in range(k)], policy, seed=seed, progress=False
        )
        right = [episode.correct for episode in episodes]
        return [{"pass_rate": sum(right[i : i + k]) / k} for i in range(0, len(right), k)]

    identity = {"filter": "difficulty", "k": k, "seed": seed}
    chunk = max(1, BATCH // k)
    dataset = _measure(dataset, passes, {"pass_rate": math.nan}, chunk, identity, record, progress)
    reasons = {0.0: "never right", 1.0: "always right"}
    return _drop(dataset, [reasons.get(rate, "") for rate in dataset["pass_rate"]])


def tool_benefit(
    dataset: Dataset,
    policy: Policy,
    seed: int = 0,
    record: str | Path | None = None,
    progress: bool = True,
    oracle: OracleZoomPolicy | None = None,
) -> Dataset:
    """Keep what the view does not answer and the target's crop does.

    Adds ``right_from_view`` (no tool in the prompt) and ``right_with_crop`` (every target box zoomed to by an
    oracle); 1, 0, or -1 where it was not measured. Rows without target boxes pass unmeasured, as chart and
    reasoning data do in the paper.

    Args:
        dataset: in our schema.
        policy: who answers; at temperature 0, or this filter is a matter of luck.
        seed: of the sampling.
        record: JSONL file of the measurements; a killed measurement goes on from it.
        progress: whether to show a bar.
        oracle: zooms to the target boxes and lets ``policy`` answer; None for one with the label "target".

    Raises:
        ValueError: if ``record`` holds another measurement.
    """

    def benefit(rows: list[dict], seed: int) -> list[dict]:
        figures = [{"right_from_view": -1, "right_with_crop": -1} for _ in rows]
        boxed = [i for i, row in enumerate(rows) if row["boxes_px"]]
        for name, who, tool in (
            ("right_from_view", policy, "off"),
            ("right_with_crop", oracle or OracleZoomPolicy(policy), "on"),
        ):
            asked = [rows[i] for i in boxed]
            for i, episode in zip(boxed, rollout(asked, who, tool, seed, progress=False)):
                figures[i][name] = int(episode.correct)
        return figures

    identity = {"filter": "tool_benefit", "seed": seed}
    unmeasured = {"right_from_view": -1, "right_with_crop": -1}
    dataset = _measure(dataset, benefit, unmeasured, BATCH, identity, record, progress)
    reasons = {(1, 0): "right from the view", (1, 1): "right from the view"}
    reasons[0, 0] = "wrong even with the crop"
    pairs = zip(dataset["right_from_view"], dataset["right_with_crop"])
    return _drop(dataset, [reasons.get(pair, "") for pair in pairs])


def kept(dataset: Dataset) -> Dataset:
    """The questions that no filter dropped."""
    return dataset.select([i for i, reason in enumerate(dataset["dropped"]) if not reason])


def report(dataset: Dataset, examples: int = 3) -> dict:
    """What was dropped and why, and what became of the rows that were corrupted on purpose.

    Returns:
        ``questions``, ``kept``; ``dropped``: for each reason its count and the ids of the first
        ``examples``; ``planted``: for each kind of corrupted row how many were caught
        and how many missed; ``innocent_dropped``: how many others were dropped.
    """
    rows = list(zip(dataset["id"], dataset["dropped"], dataset["source"]))
    counts = Counter(reason for _, reason, _ in rows if reason)
    planted = {}
    for source in sorted({source for *_, source in rows if "planted" in source}):
        reasons = [reason for _, reason, from_ in rows if from_ == source]
        caught = sum(map(bool, reasons))
        planted[source] = {"caught": caught, "missed": len(reasons) - caught}
    return {
        "questions": len(rows),
        "kept": sum(not reason for _, reason, _ in rows),
        "dropped": {
            reason: {
                "count": count,
                "examples": [id for id, why, _ in rows if why == reason][:examples],
            }
            for reason, count in counts.most_common()
        },
        "planted": planted,
        "innocent_dropped": sum(bool(r) and "planted" not in s for _, r, s in rows),
    }


def table(report: dict) -> str:
    """A `report` as text."""
    lines = [f"{report['kept']} of {report['questions']} questions kept"]
    for reason, drop in report["dropped"].items():
        lines.append(f"{drop['count']:6} {reason} (such as {', '.join(drop['examples'])})")
    for source, counts in report["planted"].items():
        lines.append(f"{source}: {counts['caught']} caught, {counts['missed']} missed")
    if report["planted"]:
        lines.append(f"dropped without being planted: {report['innocent_dropped']}")
    return "\n".join(lines)


# --- multiple choice, rewritten -----------------------------------------------------------------

_LEANS_ON_OPTIONS = re.compile(r"\b(which of|of the following|the options?|these)\b", re.IGNORECASE)


def open_ended(dataset: Dataset) -> Dataset:
    """Rewrite multiple choice to open questions: the options go, the right one's text is the answer.

    An open question cannot be guessed by elimination. Questions without options stay as they are; one
    that makes no sense without its options is dropped.
    """
    columns, reasons = {"question": [], "answer": [], "options": [], "verifier": []}, []
    for row in dataset.remove_columns("image"):
        text, truth, reason = _opened(row["question"], row["answer"])
        if text != row["question"]:
            row = {**row, "question": text, "answer": truth, "options": [], "verifier": "text"}
        for name, values in columns.items():
            values.append(row[name])
        reasons.append(reason)
    changed = _with(dataset, columns)
    return _drop(changed.select_columns(dataset.column_names), reasons)


def _opened(question: str, answer: str) -> tuple[str, str, str]:
    """Question, answer and the reason to drop it, or "".

    >>> _opened("What colour is the cup? A. red B. dark blue", "B")
    ('What colour is the cup?', 'dark blue', '')
    >>> _opened("Which of these is red? (A) the cup (B) the hat", "(A)")[2]
    'makes no sense without its options'
    """
    stem, options = split_options(question)
    if not options:
        return question, answer, ""
    letter = normalise(answer).upper()
    truth = dict(zip(LETTERS, options)).get(letter)
    if truth is None:  # the answer may be the option's text already
        same = [text for text in options if normalise(text) == normalise(answer)]
        truth = same[0] if same else None
    if truth is None:
        return question, answer, "answer is none of the options"
    if not stem or _LEANS_ON_OPTIONS.search(stem) or fixed_places([truth]):
        return question, answer, "makes no sense without its options"
    return stem, truth, ""


# --- the same for all ---------------------------------------------------------------------------


def _reasons(dataset: Dataset) -> list[str]:
    there = "dropped" in dataset.column_names
    return list(dataset["dropped"]) if there else [""] * len(dataset)


def _drop(dataset: Dataset, reasons: list[str]) -> Dataset:
    """Write reasons into ``dropped``; the first one stays."""
    both = [old or new for old, new in zip(_reasons(dataset), reasons, strict=True)]
    return _with(dataset, {"dropped": both})


def _with(dataset: Dataset, columns: dict[str, list]) -> Dataset:
    """The dataset with these columns, new or anew."""
    known = dataset.features  # a column of empty lists has lost its type otherwise
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, values in columns.items():
        dataset = dataset.add_column(name, values, feature=known.get(name))
    return dataset


def _measure(
    dataset: Dataset,
    figures: Callable[[list[dict], int], list[dict]],
    unmeasured: dict,
    chunk: int,
    identity: dict,
    record: str | Path | None,
    progress: bool,
) -> Dataset:
    """Add the columns that ``figures(rows, seed)`` gives, ``chunk`` rows at a time (`records.measure`).

    Rows that are dropped already are not measured and get ``unmeasured``.
    """
    alive = [i for i, reason in enumerate(_reasons(dataset)) if not reason]

    def work(start: int, stop: int, seed: int) -> list[dict]:
        return figures([dataset[i] for i in alive[start:stop]], seed)

    ids = [dataset[i]["id"] for i in alive]
    lines = measure(ids, work, chunk, identity, record, progress, identity["filter"])
    values = [dict(unmeasured) for _ in range(len(dataset))]
    for i, line in zip(alive, lines):
        values[i] = line
    return _with(dataset, {name: [row[name] for row in values] for name in unmeasured})
