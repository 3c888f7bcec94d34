"""Read what policies did: filter, sort, step turn by turn, compare several on the same sample."""

from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.trajectories import Trajectory, crops_of, read_jsonl
from deepeyes_lite.viz import html, plots
from deepeyes_lite.viz.widgets.explorable import Explorable

PICTURES = 4_000_000  # bytes of pictures that one page carries
Key = tuple[str, int]  # sample id, and which of the episodes of this sample


class TrajectoryViewer(Explorable):
    """Episodes of one policy or of several, side by side on the same sample.

    A sample may have several episodes of one policy; the first of one policy stands beside the first of
    the other, and so on.
    """

    title = "Episodes"

    def __init__(self, episodes, images=None, tokenizer=None, answer: str = "any"):
        """Open episodes.

        Args:
            episodes: trajectories, or a JSONL file; or a dict of them by the policy's name.
            images: a dataset in our schema, or a dict of images by sample id, for episodes from a file.
            tokenizer: of the model, to show tokens as text.
            answer: the filter at first: "any", "right", "wrong", or the name of the one of two policies that
                alone is to be right.

        Raises:
            ValueError: if there are no episodes.
        """
        sources = episodes if isinstance(episodes, dict) else {"policy": episodes}
        self.tokenizer, self._images, self._answer = tokenizer, images, answer
        if images is not None and not isinstance(images, dict):
            # A dataset decodes an image when it is asked for.
            self._places = {name: i for i, name in enumerate(images["id"])}
        self.policies: dict[str, dict[Key, Trajectory]] = {}
        self._rates: dict[str, dict[str, float]] = {}  # group call rate by sample id
        for name, source in sources.items():
            source = read_jsonl(source) if isinstance(source, str | Path) else source
            keyed, calls = {}, defaultdict(list)
            for trajectory in map(html.checked, source):
                id_ = str(trajectory.sample.get("id"))
                keyed[id_, len(calls[id_])] = trajectory
                calls[id_].append(trajectory.called)
            self.policies[str(name)] = keyed
            self._rates[str(name)] = {id_: sum(c) / len(c) for id_, c in calls.items()}
        self._keys = list(dict.fromkeys(key for keyed in self.policies.values() for key in keyed))
        if not self._keys:
            raise ValueError("there are no episodes to show")

    @cached_property
    def data(self) -> dict:
        """A row and the HTML of every episode, and the pictures of as many as a page carries."""
        tables: dict[str, int] = {}
        spent, keys = 0, []
        for key in self._keys:
            episodes = self._at(key, spent < PICTURES)
            rows = [
                self._row(name, key, episodes[name], tables) if name in episodes else None
                for name in self.policies
            ]
            spent += sum(len(row["html"]) for row in rows if row)
            keys.append(
                {
                    "name": f"{html.line(key[0], 24)}{f' #{key[1] + 1}' if key[1] else ''}",
                    "of": rows,
                }
            )
        names = list(self.policies)
        answer = f"only-{names.index(self._answer)}" if self._answer in names else self._answer
        return {
            "policies": [html.line(name, 40) for name in names],
            "kinds": sorted({row["kind"] for each in keys for row in each["of"] if row}),
            "variants": [*VARIANTS],
            "tables": [*tables],
            "answer": answer,
            "keys": keys,
        }

    def _at(self, key: Key, pictures: bool) -> dict[str, Trajectory]:
        """The episodes of one sample by the policy's name, with their images or without."""
        chosen = {name: keyed[key] for name, keyed in self.policies.items() if key in keyed}
        if not pictures:
            return {name: replace(t, images=[]) for name, t in chosen.items()}
        if (image := self._image(key[0])) is None:
            return chosen
        # Cut when they are packed, and not kept: a thousand scenes fill the memory.
        return {
            name: t if t.images else replace(t, images=[image, *crops_of(t, image)])
            for name, t in chosen.items()
        }

    def _image(self, name: str):
        if self._images is None or isinstance(self._images, dict):
            return (self._images or {}).get(name)
        return self._images[self._places[name]]["image"] if name in self._places else None

    def _row(self, name: str, key: Key, t: Trajectory, tables: dict[str, int]) -> dict:
        rate, truth = self._rates[name][key[0]], t.sample.get("answer")
        rewards = [html.reward_table(html.parts(weights, t, rate)) for weights in VARIANTS.values()]
        return {
            "question": html.line(t.sample.get("question", "")),
            "answer": None if t.answer is None else html.line(t.answer, 30),
            "truth": html.line(truth, 30) if truth else "",
            "correct": t.correct,
            "kind": html.line(t.sample.get("kind", "?"), 40),
            "zooms": len(t.boxes_px),
            "iou": t.best_iou,
            "turns": len(t.turns),
            "text": html.excerpt("\n".join(turn.text for turn in t.turns)),
            "rewards": [tables.setdefault(str(table), len(tables)) for table in rewards],
            "html": html.episode(name, t, self.tokenizer),
        }

    @property
    def still(self) -> Markup:
        """The first episode as strips, one for each policy."""
        episodes = {name: t for name, t in self._at(self._keys[0], True).items() if t.images}
        words = " ".join(
            f"{html.line(name, 30)}: {html.line(html.verdict(t))}." for name, t in episodes.items()
        )
        if not episodes:
            return Markup("<p>{}</p>").format(f"{len(self._keys)} episodes, without images.")
        question = html.line(next(iter(episodes.values())).sample.get("question", ""))
        return plots.image_tag(plots.episode_strips(episodes), f"{question} {words}", dpi=80)
