"""The study file: what is compared, on which patients, with which prompts; one YAML file, every default stated."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.fusion import FUSIONS
from gtvbench.bench.core.prompts import policy_from

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )


class SplitOptions(_Model):
    """Exactly one of: `counts`, `fractions`, `lists` of patients, or `file` (nnU-Net's splits_final.json)."""

    counts: dict[Literal["train", "validation", "test"], int] | None = None
    fractions: dict[Literal["train", "validation", "test"], float] | None = None
    lists: dict[Literal["train", "validation", "test"], list[str]] | None = None
    file: Path | None = None
    fold: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> SplitOptions:
        given = [n for n in ("counts", "fractions", "lists", "file") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of counts, fractions, lists, file (given: {', '.join(given) or 'none'})"
            )
        return self


class PromptOptions(_Model):
    """How boxes are drawn: the policy and the smallest instance that gets one."""

    policy: str = "random-margin(0, 20)"
    minimum_area_mm2: float = Field(default=0.0, ge=0)

    @field_validator("policy")
    @classmethod
    def _readable(cls, text: str) -> str:
        try:
            policy_from(text)
        except StudyError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from error
        return text


class ScoringOptions(_Model):
    """Tolerance of the normalised surface distance in mm: one for all, or one a structure."""

    nsd_tolerance_mm: float | dict[str, float] = 2.0


#: Metric as it is named in the table of scores -> the option that holds its margin.
MARGINS = {"dsc": "dsc_margin", "hd95_mm": "hd95_margin_mm", "nsd": "nsd_margin", "assd_mm": "assd_margin_mm"}

Metric = Literal["dsc", "hd95_mm", "nsd", "assd_mm"]
Dimensionless = Annotated[float, Field(gt=0, lt=1)]
Millimetres = Annotated[float, Field(gt=0)]


class StatisticsOptions(_Model):
    """What the report compares: settled here before the test set is scored.

    A family, within which p values are adjusted, is the planned contrasts of one structure and one primary metric. The
    margins are the differences of no practical matter, for equivalence and non-inferiority, one for all structures or
    one a structure: set them from the variability between observers. `contrasts` are pairs of arms (one, other) that
    are planned; None for the study's (docs/report.md). `resamples` are of patients.
    """

    primary_metrics: list[Metric] = Field(default=["dsc", "hd95_mm"], min_length=1)
    dsc_margin: Dimensionless | dict[str, Dimensionless] = 0.05
    hd95_margin_mm: Millimetres | dict[str, Millimetres] = 3.0
    nsd_margin: Dimensionless | dict[str, Dimensionless] = 0.05
    assd_margin_mm: Millimetres | dict[str, Millimetres] = 1.0
    contrasts: list[tuple[str, str]] | None = None
    resamples: int = Field(default=10_000, ge=1000)

    @field_validator("primary_metrics")
    @classmethod
    def _once(cls, names: list[Metric]) -> list[Metric]:
        if len(set(names)) < len(names):
            raise ValueError("each metric once")
        return names

    @field_validator("contrasts")
    @classmethod
    def _pairs(cls, pairs: list[tuple[str, str]] | None) -> list[tuple[str, str]] | None:
        # A pair that is there twice would be adjusted for twice; turned round it is the same question.
        seen = [frozenset(pair) for pair in pairs or ()]
        if any(len(pair) < 2 for pair in seen):
            raise ValueError("a contrast names two different arms")
        if len(set(seen)) < len(seen):
            raise ValueError("each pair of arms once, in one order")
        return pairs

    def margin(self, metric: str, structure: str | None = None) -> float:
        """Margin of a metric as it is named in the table of scores; a structure that has none has the default."""
        found = getattr(self, MARGINS[metric])
        default = type(self).model_fields[MARGINS[metric]].default
        return float(found.get(structure or "", default) if isinstance(found, dict) else found)


class ReportOptions(_Model):
    """Whether the test cases' slices are kept as pictures for the report's case viewer, and faces shown in them."""

    pictures: bool = True
    faces: Literal["hide", "show"] = "hide"


class PreparationOptions(_Model):
    """How patients are prepared: how many at a time, in how much memory, and what a bad one means.

    `workers` is a number of processes (1: none but the run's own), or `auto`: as many as the cores, the memory and the
    patients left allow. `memory-gb` bounds what all of them may take together; `auto` is most of what is available.
    `bad-patients`: a patient that cannot be prepared is left out of the whole study, of every arm alike (`leave-out`),
    or nothing is trained or predicted (`stop`).
    """

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    memory_gb: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    bad_patients: Literal["leave-out", "stop"] = "leave-out"


class TimingOptions(_Model):
    """A case that takes longer than `case_timeout_s` to predict is stopped and counts as `timeout` (None: no limit)."""

    case_timeout_s: float | None = Field(default=None, gt=0)


class MethodEntry(_Model):
    """A method in the study: `method` is the registered name where the entry's own differs; the rest are options."""

    method: str | None = None
    fusions: list[str] | None = None
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        # In YAML a method's options stand beside method, fusions and weights; the method itself validates them later.
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise ValueError("a method's entry is a mapping of options")
        own = {key: value[key] for key in ("method", "fusions", "weights") if key in value}
        rest = {key: item for key, item in value.items() if key not in ("method", "fusions", "weights", "options")}
        return {**own, "options": {**value.get("options", {}), **rest}}

    @field_validator("fusions")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in FUSIONS:
                raise ValueError(f"unknown fusion {name!r}; known: {', '.join(FUSIONS)}")
        return names


class Study(_Model):
    """A resolved study."""

    study: str
    seed: int = 0
    dataset: dict[str, Any]
    structures: dict[str, int]
    split: SplitOptions
    prompts: PromptOptions = PromptOptions()
    methods: dict[str, MethodEntry] = Field(default_factory=dict)
    run: list[str] | Literal["all"] = "all"
    seeds: int = Field(default=1, ge=1)
    scoring: ScoringOptions = ScoringOptions()
    statistics: StatisticsOptions = StatisticsOptions()
    timing: TimingOptions = TimingOptions()
    preparation: PreparationOptions = PreparationOptions()
    report: ReportOptions = ReportOptions()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    output: Path = Path("runs")

    @field_validator("study")
    @classmethod
    def _safe(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("use letters, digits, '.', '_' and '-' only, at most 100")
        return name

    @field_validator("methods")
    @classmethod
    def _safe_methods(cls, methods: dict[str, MethodEntry]) -> dict[str, MethodEntry]:
        for name in methods:
            if not NAME.fullmatch(name) or "." in name:
                raise ValueError(f"method name {name!r}: use letters, digits, '_' and '-' only")
        return methods

    @field_validator("dataset")
    @classmethod
    def _has_source(cls, dataset: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(dataset.get("source"), str):
            raise ValueError("'source' names where the cases come from (see: bench list datasets)")
        return dataset

    @model_validator(mode="after")
    def _structures(self) -> Study:
        named = {"nsd-tolerance-mm": self.scoring.nsd_tolerance_mm}
        named |= {field.replace("_", "-"): getattr(self.statistics, field) for field in MARGINS.values()}
        for key, value in named.items():
            unknown = set(value) - set(self.structures) if isinstance(value, dict) else set()
            if unknown:
                raise ValueError(f"{key} names unknown structures: {', '.join(sorted(unknown))}")
        return self

    def tolerances(self) -> dict[str, float]:
        """Tolerance in mm of each structure."""
        given = self.scoring.nsd_tolerance_mm
        return {name: given.get(name, 2.0) if isinstance(given, dict) else given for name in self.structures}

    def as_yaml(self) -> str:
        """The resolved study as YAML."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for entry in data.get("methods", {}).values():
            entry.update(entry.pop("options", {}))
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def read_study(path: Path, overrides: list[str] | None = None) -> Study:
    """Read a study file and apply `key.sub=value` overrides (values are YAML); raises StudyError naming the key."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StudyError(f"the study file cannot be read: {error.strerror}", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"the study file is not valid YAML: {error}", file=path) from error
    if not isinstance(data, dict):
        raise StudyError("the study file is empty or not a mapping", file=path, remedy="start from 'bench init'")
    for override in overrides or ():
        _apply(data, override)
    return _validated(data, path)


def builtin_study(name: str = "phantom", overrides: list[str] | None = None) -> Study:
    """A study that comes with the package (`phantom`: the demo)."""
    data = yaml.safe_load((files("gtvbench.bench.study") / f"{name}.yaml").read_text())
    for override in overrides or ():
        _apply(data, override)
    return _validated(data, None)


def _validated(data: dict[str, Any], path: Path | None) -> Study:
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise StudyError(f"the study file has {problems(error)}", file=path, remedy="see docs/study-file.md") from error


def problems(error: ValidationError) -> str:
    """A validation error as one line a problem: the key and what is wrong with it."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(top)"
        text = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {text}")
    return f"{len(lines)} problem(s):\n    " + "\n    ".join(lines)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise StudyError(f"--set {override!r} is not KEY=VALUE", remedy="for example --set split.counts.train=8")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"--set {override!r}: the value is not valid YAML") from error
    target = data
    for part in parts[:-1]:
        nested = target.get(part)
        if nested is None:
            nested = target[part] = {}
        if not isinstance(nested, dict):
            raise StudyError(f"--set {override!r}: {part!r} is not a mapping")
        target = nested
    target[parts[-1]] = value
