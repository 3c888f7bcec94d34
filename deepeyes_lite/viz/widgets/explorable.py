"""What scrubber, reward lab and viewer share: a page's part that carries its data and needs no kernel.

Each is a front-end module in anywidget's form, ``render({ model, el })``, in a file of its name beside it. It
is shown as HTML that holds module, style and data: a notebook keeps that HTML, so the very same thing is
alive with a kernel and without, in an export, in a report and on a phone. An ipywidget would store its state
beside the notebook instead, and ask the network for the code that reads it.
"""

import base64
import gzip
import hashlib
import json
import re
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from deepeyes_lite.files import atomic_write
from deepeyes_lite.viz import html

HERE = Path(__file__).parent


class Explorable:
    """A view of data that is carried along.

    A subclass has ``data``, what its module draws, as JSON takes it; ``still``, what stands in its place
    where no script runs; ``title``; and a module, ``<name of its file>.js``.
    """

    title = ""

    @cached_property
    def packed(self) -> tuple[str, str]:
        """The data as texts for a page, without a character that is markup.

        Structure and words are gzip in base64, a tenth of their size. Pictures would not get smaller.
        """
        short, pool = pooled(self.data)
        data = gzip.compress(json.dumps(short, allow_nan=False).encode(), 6, mtime=0)
        return base64.b64encode(data).decode(), json.dumps(pool).replace("<", "\\u003c")

    @property
    def module(self) -> str:
        """The module with what it shares with the others, as one text that imports nothing."""
        own = HERE / f"{type(self).__module__.rpartition('.')[2]}.js"
        texts = [(HERE / "shared.js").read_text("utf-8"), own.read_text("utf-8")]
        return "\n".join(texts).replace(
            "CSS_TEXT", json.dumps((HERE / "shared.css").read_text("utf-8"))
        )

    def _repr_html_(self) -> Markup:
        part = Markup(
            '<div id="{0}"><div>{1}</div><script type="text/plain">{2}</script>'
            '<script type="text/plain">{3}</script></div>\n'
            '<script type="module">\n{4}\nmount("{0}", render);\n</script>'
        )
        texts = map(Markup, (*self.packed, self.module))
        digest = hashlib.sha256("".join(self.packed).encode()).hexdigest()  # the same on every run
        return part.format(f"eyes-{digest[:12]}", self.still, *texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.title}"

    def save(self, path: str | Path) -> Path:
        """Write a page that needs nothing beside it.

        Args:
            path: the file.
        """
        page = html.TEMPLATES.get_template("explorable.jinja")
        with atomic_write(Path(path)) as tmp:
            tmp.write_text(page.render(title=self.title, body=self._repr_html_()), encoding="utf-8")
        return Path(path)


def pooled(data: dict) -> tuple[dict, list[str]]:
    """The data with each long value of an attribute in its HTML kept once, and these values.

    An attribute's value has no quotation mark in it, whoever wrote it: the templates escape them.

    >>> pooled({"html": Markup('<img src="data:image/png;base64,iVBORw0KGgo">')})
    ({'html': '<img src="#0">'}, ['data:image/png;base64,iVBORw0KGgo'])
    """
    places: dict[str, int] = {}

    def place(match: re.Match) -> str:
        return f'="#{places.setdefault(match[1], len(places))}"'

    def short(value):
        if isinstance(value, dict):
            return {name: short(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [short(part) for part in value]
        if isinstance(value, Markup):
            return re.sub(r'="([^"]{30,})"', place, value)
        return value

    return short(data), [*places]
