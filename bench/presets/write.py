"""Study presets for public data sets: is the layout there, and the study file that fits it.

A preset is a file in `bench/studies/presets`: a description (layouts as patterns, citation, licence), then the text of
the study file with `${...}` for what was found. Layouts that patterns do not tell are looked at by `preset_looks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template

import yaml

from gtvbench.bench.core.digest import generator_from
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.presets.description import Preset, path_text, yaml_list, yaml_text
from gtvbench.bench.presets.looks import LOOKS

#: Fewer patients than this get a split by numbers: fractions would leave a subset empty.
PATIENTS_FOR_FRACTIONS = 10
FRACTIONS = "{train: 0.7, validation: 0.1, test: 0.2}"
#: Where only training and validation patients are public, the share of the former that validates.
HELD_BACK = 0.1


def names() -> list[str]:
    """Names of the presets, sorted."""
    folder = files("gtvbench.bench.presets")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[0] != "_" and ".yaml" in p.name)


@cache
def preset(name: str) -> Preset:
    """Read a preset; an unknown name is a StudyError that offers the known ones."""
    if name not in names():
        raise StudyError(f"unknown preset {name!r}", remedy=f"known: {', '.join(names())}")
    head, _, text = _read(f"{name}.yaml").partition("\n---\n")
    return Preset(name=name, text=text, **yaml.safe_load(head))


def listing() -> list[dict[str, str]]:
    """A row for each preset: name, what it is, its targets, variants and licence."""
    rows = []
    for name in names():
        known = preset(name)
        rows.append({
            "name": name, "data set": known.title, "targets": known.targets, "variants": ", ".join(known.variants),
            "licence": known.licence,
        })  # fmt: skip
    return rows


def write_study(name: str, path: Path, out: Path, variant: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The study file for a data set below `path`, to be written at `out`, and lines on what was found.

    Raises StudyError for a name that is unknown, and DataError, with the expected layout, where it is not there.
    """
    known = preset(name)
    chosen = known.chosen(variant)
    if not path.is_dir():
        raise DataError("the folder of the data set does not exist", file=path, remedy=known.expected())
    found = LOOKS[known.look](known, path, chosen)
    split, told = split_text(found.patients)
    dataset = Template(found.dataset).safe_substitute(
        path=yaml_text(path_text(found.root, out.parent)), exclude=found.exclude, images=found.images
    )
    text = Template(known.text).safe_substitute(
        study=name if chosen == next(iter(known.variants), None) else f"{name}-{chosen}",
        variant=known.variants.get(chosen or "", ""),
        source=f"# Layout: {known.described}.\n# Cite: {known.cite}.\n# Licence: {known.licence}.",
        dataset=_indented(dataset),
        structures=found.structures.strip(),
        split=split,
        common=_read("_common.yaml").rstrip(),
    )
    return text, (*found.lines, *told)


def split_text(patients: Mapping[str, Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """The `split` of a study file, and lines on it: the official one where parts are known, else at random."""
    parts = {part: list(members) for part, members in patients.items() if members}
    if set(parts) - {""}:
        return _official(parts)
    count = len(set(parts.get("", ())))
    if count >= PATIENTS_FOR_FRACTIONS:
        return f"split:                     # always by patient, at random from the seed\n  fractions: {FRACTIONS}", ()
    counts = {"train": max(0, count - 2), "validation": int(count > 2), "test": 1 if count > 2 else count}
    wanted = ", ".join(f"{subset}: {number}" for subset, number in counts.items() if number)
    told = (f"{count} patients are few: the split is by numbers, and one or two test patients prove nothing",)
    return f"split:                     # always by patient, at random from the seed\n  counts: {{{wanted}}}", told


def _official(parts: dict[str, list[str]]) -> tuple[str, tuple[str, ...]]:
    told: list[str] = []
    comment = "The official split"
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
        comment = "No official test patients are here: the official validation patients are the test set"
        told.append(comment)
    if "validation" not in parts and len(parts.get("train", ())) > 2:
        train = sorted(parts["train"])
        number = max(1, round(HELD_BACK * len(train)))
        drawn = {train[i] for i in generator_from(1, "preset-split").permutation(len(train))[:number]}
        parts["validation"] = sorted(drawn)
        parts["train"] = [patient for patient in train if patient not in drawn]
        comment += f";\n# {number} training patients, drawn once, validate"
    if "test" not in parts:
        return split_text({"": [patient for members in parts.values() for patient in members]})
    lines = [f"# {comment}", "split:", "  lists:"]
    for subset in ("train", "validation", "test"):
        if subset in parts:
            lines.append(f"    {subset}:")
            lines += ["      " + line for line in yaml_list(parts[subset]).splitlines()]
    return "\n".join(lines), tuple(told)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else line for line in text.strip().splitlines())


def _read(name: str) -> str:
    return (files("gtvbench.bench.presets") / name).read_text(encoding="utf-8")
