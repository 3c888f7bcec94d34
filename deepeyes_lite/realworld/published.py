"""Figures that others published on the public benchmarks, with source and protocol. None is ours.

The same weights score from 83 to 91.6 on V* Bench, depending on who asks and how; so a figure is worth
its protocol, and a row of ours may stand beside one of these only if the protocols are the same.
"""

from typing import NamedTuple


class Figure(NamedTuple):
    """One published accuracy.

    Attributes:
        source: as in the column ``source`` of our schema.
        model: what was measured.
        percent: accuracy; several where several runs were published.
        protocol: how, as far as it is said.
        where: who published it.
        mark: P, read there; S, from somebody's summary of a paper.
    """

    source: str
    model: str
    percent: str
    protocol: str
    where: str
    mark: str = "P"


_FIRST = "options as listed: the right one is always A; judge"
_UNSAID = "order of options not said"
_PAGE, _V2 = "DeepEyes, project page", "DeepEyesV2, table"
_BASE = f"no tool in the prompt (issue #77); {_UNSAID}"
_SHUFFLED = "options shuffled; judge"
_THEIRS = "their harness"
_MINI = f"Avg@32, {_THEIRS}"

PUBLISHED = [
    Figure("V* Bench", "DeepEyes-7B", "90.1", _FIRST, _PAGE),
    Figure("V* Bench", "DeepEyes-7B", "89.0, 91.6", _FIRST, "DeepEyes PR #66"),
    Figure("V* Bench", "DeepEyes-7B", "87.4 to 89.5", _FIRST + "; 5 runs", "DeepEyes issue #60"),
    Figure("V* Bench", "DeepEyes-7B", "84.3, 85.9", _SHUFFLED, "DeepEyes PR #66"),
    Figure("V* Bench", "DeepEyes-7B", "85.6", _UNSAID, _V2),
    Figure("V* Bench", "DeepEyes-7B", "85.9", _UNSAID, "Vision-RL² README"),
    Figure("V* Bench", "DeepEyes-7B", "83.3", _MINI, "Mini-o3 README"),
    Figure("V* Bench", "Qwen2.5-VL-7B", "71.2", _BASE, _PAGE),
    Figure("V* Bench", "Qwen2.5-VL-7B", "63.4", "with the tool's prompt", "DeepEyes issue #91"),
    Figure("V* Bench", "Qwen2.5-VL-7B", "78.5", _UNSAID, _V2),
    Figure("V* Bench", "Qwen2.5-VL-7B", "75.5", _MINI, "Mini-o3 README"),
    Figure("V* Bench", "Qwen2.5-VL-7B", "78.0", _UNSAID, "ViGoRL paper"),
    Figure("V* Bench", "Qwen2.5-VL-7B", "74.3", _UNSAID, "summary of TreeVGR", "S"),
    Figure("V* Bench", "Qwen2.5-VL-32B", "87.9", _UNSAID, _PAGE),
    Figure("V* Bench", "DeepEyes-32B", "93.3", _UNSAID, "summary of DeepEyes", "S"),
    Figure("V* Bench", "Qwen2.5-VL-3B", "74.2", _UNSAID, "ViGoRL paper"),
    Figure("V* Bench", "ViGoRL-3B", "81.2", _UNSAID, "ViGoRL paper"),
    Figure("V* Bench", "Mini-o3-7B", "88.2", _MINI, "Mini-o3 README"),
    Figure("V* Bench", "DeepEyesV2-7B", "81.8", _UNSAID, _V2),
    Figure("V* Bench", "o3", "95.7", _UNSAID, _PAGE),
    *(
        Figure(f"HR-Bench {size}", model, percent, protocol, where)
        for model, four, eight, protocol, where in (
            ("DeepEyes-7B", "75.1", "72.6", "options in the set's four orders; judge", _PAGE),
            ("DeepEyes-7B", "73.2", "69.5", _THEIRS, "Mini-o3 README"),
            ("Qwen2.5-VL-7B", "68.8", "65.3", _UNSAID, _PAGE),
            ("Qwen2.5-VL-32B", "73.9", "70.4", _UNSAID, _PAGE),
            ("Mini-o3-7B", "77.5", "73.3", _THEIRS, "Mini-o3 README"),
            ("DeepEyesV2-7B", "77.9", "73.8", _UNSAID, _V2),
        )
        for size, percent in (("4K", four), ("8K", eight))
    ),
    *(
        Figure("POPE", model, figures, "adversarial, popular, random, all", _PAGE)
        for model, figures in (
            ("DeepEyes-7B", "84.0, 87.5, 91.8, 87.7"),
            ("Qwen2.5-VL-7B", "85.9, 86.5, 87.2, 85.9"),
        )
    ),
]


def table(sources: set[str]) -> str:
    """The published figures on these sets as text; empty where there is none."""
    rows = [figure for figure in PUBLISHED if figure.source in sources]
    if not rows:
        return ""
    lines = ["Published by others. Their protocols are not ours: compare within a protocol only."]
    for f in rows:
        shown = f"{f.source:12} {f.model:18} {f.percent:>24}"
        lines.append(f"{shown}  {f.protocol}; {f.where} [{f.mark}]")
    lines.append("[P] read there, [S] from a summary of the paper.")
    return "\n".join(lines)
