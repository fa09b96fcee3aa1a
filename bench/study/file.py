"""The study file: what is compared, on which patients, with which prompts; one YAML file, every default stated."""

from __future__ import annotations

import difflib
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
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class SplitOptions(_Model):
    """How patients are divided into training, validation and test set: give exactly one of `counts`, `fractions`,
    `lists`, `folds` and `file`."""

    counts: dict[Literal["train", "validation", "test"], int] | None = None
    """Patients in each subset. They are drawn at random from `seed`; patients beyond these numbers are not used."""
    fractions: dict[Literal["train", "validation", "test"], float] | None = None
    """Share of the patients in each subset. The shares sum to 1; patients are drawn at random from `seed`."""
    lists: dict[Literal["train", "validation", "test"], list[str]] | None = None
    """Names of the patients in each subset. A patient in no list is not used."""
    folds: int | None = Field(default=None, ge=3)
    """Cross-validation with so many folds. Patients are divided at random from `seed` into equal parts; in each fold
    one part is tested, the next one validates and the rest trains, so that every patient is tested once, by methods
    that did not train on it."""
    file: Path | None = None
    """nnU-Net's `splits_final.json`. Patients that the fold does not name are the test set."""
    fold: int = 0
    """With `file`: which fold of it, counted from 0."""

    @model_validator(mode="after")
    def _one_way(self) -> SplitOptions:
        ways = ("counts", "fractions", "lists", "folds", "file")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ways)} (given: {', '.join(given) or 'none'})")
        return self


class PromptOptions(_Model):
    """How box prompts are drawn: once for each case, slice, structure and instance, for all methods alike."""

    policy: str = "random-margin(0, 20)"
    """`random-margin(LOW, HIGH)`, `fixed-margin(MM)` or `tight`: the box around an instance, and how far each side lies
    outside it, in mm."""
    minimum_area_mm2: float = Field(default=0.0, ge=0)
    """Instances with a smaller area get no box. They are still scored."""

    @field_validator("policy")
    @classmethod
    def _readable(cls, text: str) -> str:
        try:
            policy_from(text)
        except StudyError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from error
        return text


class ScoringOptions(_Model):
    """How masks are scored."""

    nsd_tolerance_mm: float | dict[str, float] = 2.0
    """Tolerance of the normalised surface distance (NSD): one number, or one for each structure. A structure without a
    number has 2 mm."""


#: Metric as it is named in the table of scores -> the option that holds its margin.
MARGINS = {"dsc": "dsc_margin", "hd95_mm": "hd95_margin_mm", "nsd": "nsd_margin", "assd_mm": "assd_margin_mm"}

Metric = Literal["dsc", "hd95_mm", "nsd", "assd_mm"]
Dimensionless = Annotated[float, Field(gt=0, lt=1)]
Millimetres = Annotated[float, Field(gt=0)]


class StatisticsOptions(_Model):
    """What the report compares. Settle it before the test set is scored."""

    primary_metrics: list[Metric] = Field(default=["dsc", "hd95_mm"], min_length=1)
    """Metrics that are tested. A family (Holm) is the planned contrasts of one structure and one of these metrics."""
    dsc_margin: Dimensionless | dict[str, Dimensionless] = 0.05
    """Difference of DSC that has no practical meaning, for tests of equivalence and non-inferiority and for the number
    of patients needed. One number, or one for each structure. Take it from the variability between observers."""
    hd95_margin_mm: Millimetres | dict[str, Millimetres] = 3.0
    """The same for HD95."""
    nsd_margin: Dimensionless | dict[str, Dimensionless] = 0.05
    """The same for NSD."""
    assd_margin_mm: Millimetres | dict[str, Millimetres] = 1.0
    """The same for the mean surface distance (ASSD)."""
    contrasts: list[tuple[str, str]] | None = None
    """Planned pairs of arms, for example `[[nnunet-box.multimodal, nnunet.multimodal]]`. All other pairs are
    exploratory. Without this key the planned pairs are the study's (report.md)."""
    resamples: int = Field(default=10_000, ge=1000)
    """How often patients are drawn anew for confidence intervals and rankings."""

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
    """What the report shows."""

    pictures: bool = True
    """Keep slices of the test cases as pictures in the run folder, for the report's case viewer."""
    faces: Literal["hide", "show"] = "hide"
    """`hide`: the surface of real patients' bodies is grey in the pictures (privacy.md). `show`: all is shown."""


class PreparationOptions(_Model):
    """How patients are read and brought onto their grids."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How many patients are read, and predictions scored, at a time. With 1 the run's own process does it (not on a
    cluster). `auto`: as many as cores, memory and patients allow; few small ones are done by the run's own process."""
    memory_gb: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Memory that all of them may use together. `auto`: 80 % of what is free, or of what the container or batch job has
    left."""
    bad_patients: Literal["leave-out", "stop"] = "leave-out"
    """What happens when a patient cannot be prepared. `leave-out`: the patient is left out of every arm alike. `stop`:
    nothing is trained or predicted."""


class TimingOptions(_Model):
    """Limits on time."""

    case_timeout_s: float | None = Field(default=None, gt=0)
    """A case that takes longer to predict is stopped and counts as `timeout`."""


#: Batch systems that workers can be submitted to.
BATCH_SYSTEMS = ("slurm", "pbs", "sge", "lsf")


class EngineOptions(_Model):
    """What computes the arms: this machine, or a Dask cluster that shares the run folder's file system (cluster.md)."""

    kind: Literal["local", "dask"] = "local"
    """`local`: this machine, one arm after another. `dask`: the workers of a Dask cluster, one arm each."""
    gpus: list[int] = Field(default_factory=list)
    """`local`: numbers of the GPUs to use. With several, arms run side by side, each on `gpus-per-fit` of them."""
    gpus_per_fit: int = Field(default=1, ge=1)
    """GPUs that train one arm together, where its method can (`litemedsam-fine-tuned`, `nnunet`, `nnunet-box`); other
    methods, and prediction, use the first of them. On a CPU: processes."""
    address: str | None = None
    """`dask`: where a scheduler listens, for example `tcp://node1:8786`."""
    cluster: Literal["slurm", "pbs", "sge", "lsf"] | None = None
    """`dask`, without an address: the batch system to which workers are submitted."""
    queue: str | None = None
    """Queue or partition of the batch system."""
    jobs: int = Field(default=1, ge=1)
    """How many batch jobs may run at a time. Each is one worker and computes one arm at a time."""
    cores: int = Field(default=4, ge=1)
    """Cores of a batch job."""
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)?[MGT]i?B$")] | None = None
    """Memory that a method's process may take, for example `16GB`. One that takes more is ended: that costs the case
    that it predicted, or the arm (or fold) that it trained. Of a batch job it is asked for (16GB without this key), and
    a tenth of it left to Dask."""
    gpus_per_job: int = Field(default=0, ge=0)
    """GPUs of a batch job; arms then wait for a worker that has them. On other systems than SLURM, `directives` must
    ask for them."""
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")] | None = None
    """Time limit of a batch job, `[DAYS-]HOURS:MINUTES:SECONDS`, needed with `cluster`. One that ends goes on in the
    next job, from its last checkpoint."""
    directives: list[str] = Field(default_factory=list)
    """More directives of the batch system, for example `["--account=radonc"]`."""

    @model_validator(mode="after")
    def _reachable(self) -> EngineOptions:
        if self.kind == "dask" and (self.address is None) == (self.cluster is None):
            raise ValueError("dask needs either 'address' or 'cluster'")
        if self.kind == "local" and (self.address or self.cluster):
            raise ValueError("'address' and 'cluster' belong to kind: dask")
        if self.cluster is not None and self.walltime is None:
            raise ValueError("a cluster needs the 'walltime' of its jobs")
        if len(set(self.gpus)) < len(self.gpus):
            raise ValueError("a number in 'gpus' comes twice")
        if len(self.gpus) % self.gpus_per_fit:
            raise ValueError(
                f"{len(self.gpus)} 'gpus' cannot be dealt out in groups of {self.gpus_per_fit} (gpus-per-fit)"
            )
        if 0 < self.gpus_per_job < self.gpus_per_fit:
            raise ValueError(
                f"a job of {self.gpus_per_job} GPUs (gpus-per-job) has not the {self.gpus_per_fit} of a fit"
            )
        if self.gpus_per_job and self.cluster not in (None, "slurm") and not self.directives:
            raise ValueError(f"say in 'directives' how {self.cluster} gives a job its GPUs")
        return self

    @property
    def side_by_side(self) -> bool:
        """Whether arms may be computed beside each other: then their times are of a shared machine."""
        return self.kind == "dask" or len(self.gpus) > self.gpus_per_fit

    @property
    def job_memory(self) -> str:
        """Memory that a batch job asks for."""
        return self.memory or "16GB"

    @property
    def process_bytes(self) -> float | None:
        """Memory that a process of an arm and its children may have resident; None: no limit."""
        text = self.memory or ("16GB" if self.cluster is not None else None)
        if text is None:
            return None
        unit = "MGT".index(text.rstrip("iB")[-1])
        size = float(text.rstrip("MGTiB")) * float((1024 if "i" in text else 1000) ** (unit + 2))
        return size * (0.9 if self.cluster is not None else 1.0)


class MethodEntry(_Model):
    """A method in the study. The method's own options stand beside these keys."""

    method: str | None = None
    """Name of a registered method, where the entry's own name is another one: so a method can run twice, with different
    options."""
    fusions: list[str] | None = None
    """Fusions to run the method with, one arm each (`bench list fusions`). Without this key: the method's own choice.
    """
    weights: str | None = None
    """File of weights, or a name that `bench weights` lists."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own options. In the study file they stand directly in the entry."""

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
    """A study. `study`, `dataset`, `structures` and `split` must be given; everything else has a default."""

    study: str
    """Name of the study and of its run folder."""
    seed: int = 0
    """All randomness follows from this number and from names."""
    dataset: dict[str, Any]
    """Where the patients come from. `source` names the kind of source; the keys beside it are its options."""
    structures: dict[str, int]
    """Structures to segment, with their values in the label map: `{GTV-T: 1, GTV-N: 2}`."""
    split: SplitOptions
    """Which patients train, validate and test."""
    prompts: PromptOptions = PromptOptions()
    """How box prompts are drawn."""
    methods: dict[str, MethodEntry] = Field(default_factory=dict)
    """Options of methods by name. A method that is not named here runs with its defaults."""
    run: list[str] | Literal["all"] = "all"
    """Names of the methods to run, or `all`. `--methods` on the command line wins."""
    seeds: int = Field(default=1, ge=1)
    """How often each arm that trains is repeated, with another seed each time."""
    scoring: ScoringOptions = ScoringOptions()
    """How masks are scored."""
    statistics: StatisticsOptions = StatisticsOptions()
    """What the report compares."""
    timing: TimingOptions = TimingOptions()
    """Limits on time."""
    preparation: PreparationOptions = PreparationOptions()
    """How patients are read."""
    report: ReportOptions = ReportOptions()
    """What the report shows."""
    engine: EngineOptions = EngineOptions()
    """What computes the arms."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What methods compute on. `auto`: CUDA where there is one, else MPS, else the CPU."""
    output: Path = Path("runs")
    """Folder in which run folders are made, relative to where the command is started."""

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
        raise StudyError(
            f"the study file has {problems(error)}", file=path, remedy="see docs/study-reference.md"
        ) from error


def problems(error: ValidationError, options: type[BaseModel] | None = None) -> str:
    """A validation error as one line a problem: the key and what is wrong with it.

    `options` is the model of a method or a source: its keys are offered where one is unknown.
    """
    lines = []
    known = [field.alias or name for name, field in options.model_fields.items()] if options else []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(top)"
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = "unknown key"
            if options is not None and len(item["loc"]) == 1:
                near = difflib.get_close_matches(key, known)
                text += f"; did you mean {' or '.join(near)}?" if near else f"; it takes {', '.join(known) or 'none'}"
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
