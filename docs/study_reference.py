"""Writes docs/study-reference.md from the models that read a study file: `python docs/study_reference.py`."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gtvbench.bench.study import registry
from gtvbench.bench.study.file import MethodEntry, Study

Model = type[BaseModel]

PAGE = Path(__file__).with_name("study-reference.md")

INTRODUCTION = """# Study file: every key

<!-- Written by docs/study_reference.py from the models that read the file. Do not edit: change the models. -->

Every key of the study file, with its type, its default and its meaning. The page is made from the code that reads the
file. [study-file.md](study-file.md) explains how the keys work together. An unknown key is an error that names it.
Paths of input are relative to the study file. Any key can be set on the command line, with dots between levels:
`--set methods.litemedsam-fine-tuned.epochs=5`.
"""

#: Singular and plural of the plain types.
WORDS = {
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    Path: ("path", "paths"),
    Any: ("value", "values"),
}
#: Keys of a method's entry that are no keys of the file.
HIDDEN = {(MethodEntry, "options")}


def page() -> str:
    """The whole page as Markdown."""
    sources, methods = _options(registry.SOURCES), _options(registry.METHODS)
    top = {MethodEntry: "methods"} | _nested(Study)
    inner: dict[Model, str] = {}
    for model in sources.values():
        inner = _nested(model) | inner
    names = top | inner
    parts = [INTRODUCTION, "## The study\n", *_section(Study, names)]
    for model, name in top.items():
        parts += [f"### `{name}`\n", *_section(model, names)]
    parts += ["## Sources\n", "`dataset` holds `source` and the options of that source.\n"]
    for name, model in sources.items():
        parts += [f"### `{name}`\n", *_section(model, names)]
    parts += ["## Parts of sources\n", "Keys of sources that are mappings themselves.\n"]
    for model, name in inner.items():
        parts += [f"### `{name}`\n", *_section(model, names)]
    parts += ["## Options of methods\n", "They stand beside the keys of [`methods`](#methods).\n"]
    done: dict[Model, str] = {}
    for name, model in sorted(methods.items(), key=lambda item: len(item[1].model_fields)):
        parent = next((other for other in reversed(done) if issubclass(model, other) and other.model_fields), None)
        parts += [f"### `{name}`\n", *_section(model, names, (done[parent], parent) if parent else None)]
        done.setdefault(model, name)
    return "\n".join(parts)


def _options(group: str) -> dict[str, Model]:
    """Models of the options of what gtvbench registers, by name; a second name of the same source is left out."""
    found: dict[str, Model] = {}
    for name, point in registry.registered(group).items():
        options = registry.load(group, name).Options
        if point.value.startswith("gtvbench.") and (group == registry.METHODS or options not in found.values()):
            found[name] = options
    return found


def _nested(model: Model) -> dict[Model, str]:
    """Models inside a model, each after the one that holds it, with the first key that leads to it."""
    found: dict[Model, str] = {}
    for key, field in _fields(model):
        for part in _models(field):
            found.setdefault(part, key)
            found = found | {inner: name for inner, name in _nested(part).items() if inner not in found}
    return found


def _models(field: FieldInfo) -> list[Model]:
    return [part for part in _parts(field.annotation) if inspect.isclass(part) and issubclass(part, BaseModel)]


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def _fields(model: Model) -> list[tuple[str, FieldInfo]]:
    named = model.model_fields.items()
    return [(field.alias or name, field) for name, field in named if (model, name) not in HIDDEN]


def _section(model: Model, names: dict[Model, str], parent: tuple[str, Model] | None = None) -> list[str]:
    """What the model says of itself, and its table; keys that its parent's table has are not repeated."""
    if not model.model_fields:
        return ["No options.\n"]
    known = {key for key, _ in _fields(parent[1])} if parent else set()
    rows = [
        f"| `{key}` | {_type(one.annotation, one.metadata)} | {_default(one)} | {_meaning(model, key, one, names)} |"
        for key, one in _fields(model)
        if key not in known
    ]
    lines = [_linked(part) + "\n" for part in inspect.cleandoc(model.__doc__ or "").split("\n\n")]
    if parent:
        lines.append(f"All options of [`{parent[0]}`](#{parent[0]})" + (", and:\n" if rows else ".\n"))
    return (
        [*lines, "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""])] if rows else lines
    )


def _meaning(model: Model, key: str, field: FieldInfo, names: dict[Model, str]) -> str:
    if not field.description:
        raise ValueError(f"{model.__module__}.{model.__name__}: the field {key!r} has no docstring")
    see = [f"See [`{names[inner]}`](#{names[inner]})." for inner in _models(field)]
    return " ".join([_linked(field.description).replace("|", "\\|"), *see])


def _linked(text: str) -> str:
    return re.sub(r"\b([a-z-]+\.md)\b", r"[\1](\1)", " ".join(text.split()))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list | tuple | dict) and not value:
        return "empty"
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, list):
        return f"`[{', '.join(_plain(one) for one in plain)}]`"
    return f"`{_plain(plain)}`"


def _plain(value: Any) -> str:
    """A value as YAML has it; whole numbers without a point, large ones short."""
    if isinstance(value, float):
        return f"{value:g}".replace("e+0", "e").replace("e+", "e")
    return yaml.safe_dump(str(value) if isinstance(value, Path) else value, width=1000).removesuffix("...\n").strip()


def _type(annotation: Any, limits: Any = (), many: bool = False) -> str:
    """The type in words a reader of YAML knows, with its limits."""
    if get_origin(annotation) is Annotated:
        inner, *held = get_args(annotation)
        limits = [limit for one in held for limit in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _type(inner, limits, many)
    words = _words(annotation, many)
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    told = [
        f"{text} {_plain(float(getattr(one, sign)))}"
        for one in limits
        for sign, text in signs.items()
        if hasattr(one, sign)
    ]
    told += ["not empty" for one in limits if getattr(one, "min_length", 0)]
    return words + (f" ({', '.join(told)})" if told else "")


def _words(annotation: Any, many: bool) -> str:
    origin, arguments = get_origin(annotation), [a for a in get_args(annotation) if a is not type(None)]
    if annotation is bool:
        return "`true` or `false`"
    if origin is Literal:
        return _either([f"`{value}`" for value in arguments])
    if origin in (Union, types.UnionType):
        if (
            len(arguments) == 2
            and get_args(arguments[1])[:1] == (arguments[0],)
            and get_origin(arguments[0]) is Literal
        ):
            return _type(arguments[0]) + ", or a list of them"
        return _either([_type(part, many=many) for part in arguments])
    if origin in (list, tuple) and (origin is list or arguments[-1] is Ellipsis):
        return ("lists of " if many else "list of ") + _type(arguments[0], many=True)
    if origin is tuple:
        length = {2: "pairs of " if many else "pair of "}.get(len(arguments), f"{len(arguments)} ")
        return length + _type(arguments[0], many=True)
    if origin is dict:
        return f"mapping of {_type(arguments[0], many=True)} to {_type(arguments[1], many=True)}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "mappings" if many else "mapping"
    return WORDS[annotation][many]


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
