"""The template environment: everything that comes from data or names is escaped and made visible."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from gtvbench.reports.text.addresses import case_link
from gtvbench.reports.text.numbers import visible

_HERE = Path(__file__).parents[1] / "page"
_BREAK = re.compile(r"([._-])(?=[^\W\d_])")


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, and no NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def asset(name: str) -> Markup:
    """A style sheet or script of this package, as it is."""
    return Markup((_HERE / "assets" / name).read_text(encoding="utf-8"))


def styles() -> Markup:
    """Every style sheet, the page's own first."""
    names = sorted(path.name for path in (_HERE / "assets").glob("*.css"))
    return Markup("\n").join(asset(name) for name in sorted(names, key=lambda n: (n != "report.css", n)))


def _name(text: object) -> Markup:
    """A name as HTML: isolated from the direction of the text around it, with places where a line may break."""
    # Not inside a number: 1.00 and -0.5 stay whole.
    broken = _BREAK.sub(r"\1<wbr>", str(escape(visible(str(text)))))
    return Markup("<bdi>{}</bdi>").format(Markup(broken))


def _lines(text: object) -> Markup:
    """Several lines as HTML, each made harmless; line breaks stay."""
    return escape("\n".join(visible(line) for line in str(text).splitlines()))


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value


@cache
def environment() -> jinja2.Environment:
    """The environment of every template of this package."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # records of other versions may lack a field
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    found.filters.update(name=_name, lines=_lines, case_link=case_link)
    found.globals.update(css=styles(), script=asset("report.js"))
    return found
