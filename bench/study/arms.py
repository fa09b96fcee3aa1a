"""Arms: method x fusion x seed, the unit of comparison; a mismatch with the data is a stated skip, before any work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gtvbench.bench.core.cases import CohortFacts
from gtvbench.bench.core.digest import seed_from
from gtvbench.bench.core.errors import StudyError, WeightsError
from gtvbench.bench.core.fusion import FUSIONS, NO_FUSION
from gtvbench.bench.core.prompts import PROMPT_KINDS
from gtvbench.bench.core.split import SUBSETS, Split
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.study import registry, weights
from gtvbench.bench.study.file import MethodEntry, Study, problems


@dataclass(frozen=True)
class Arm:
    """One arm as planned. `skip` is the reason why it does not run, or None.

    `weights_published` is the name in the catalogue of the weights' content; None for any other file. `epochs`:
    of its whole training, 0 where that is unknown.
    """

    name: str
    method: str
    adapter: str
    fusion: str
    seed_index: int
    options: dict[str, Any]
    trains: bool = False
    prompts: tuple[str, ...] = ()
    version: int = 0
    weights_name: str | None = None
    weights_file: str | None = None
    weights_sha256: str | None = None
    weights_published: str | None = None
    cut: str | None = None
    epochs: int = 0
    skip: str | None = None

    def seed(self, study_seed: int) -> int:
        """Seed derived from names; not from the entry's name, so that one method under two names gives one result."""
        return seed_from(study_seed, self.adapter, self.fusion, self.seed_index)


#: Why an arm that trains does not run on a split without training patients.
UNTRAINABLE = "the split has no training patients"


def plan_arms(
    study: Study,
    base: Path,
    modalities: Sequence[str],
    chosen: Sequence[str] | None = None,
    split: Split | None = None,
) -> list[Arm]:
    """Expand a study into arms.

    `split`: where it has no training patients, methods that train do not run (validation patients are not needed).

    `chosen` are names of entries or registered methods; None takes the study's own choice. Under `all`, every
    registered method runs that needs no setting, and every entry of the study; what cannot run is skipped with its
    reason. A method that was *named* and cannot run (no weights, a setting missing, nobody to train on) raises
    StudyError or WeightsError.
    """
    wanted = list(chosen) if chosen is not None else study.run
    everything = wanted == "all" or list(wanted) == ["all"]
    names = _all_names(study) if everything else list(dict.fromkeys(wanted))
    arms: list[Arm] = []
    for name in names:
        arms += _arms_of(name, study, base, modalities, split, named=not everything)
    if not any(arm.skip is None for arm in arms):
        reasons = "; ".join(f"{arm.name}: {arm.skip}" for arm in arms) or "no method is registered"
        raise StudyError(f"no method can run on these data ({reasons})")
    return arms


def _all_names(study: Study) -> list[str]:
    """Every registered method, then the study's entries under other names."""
    points = registry.registered(registry.METHODS)
    aliased = [name for name, entry in study.methods.items() if name not in points]
    return [*points, *aliased]


def _arms_of(
    name: str, study: Study, base: Path, modalities: Sequence[str], split: Split | None, named: bool
) -> list[Arm]:
    trainable = split is None or split.trainable
    entry = study.methods.get(name, MethodEntry())
    adapter = entry.method or name
    try:
        cls = registry.load(registry.METHODS, adapter)
    except StudyError as error:
        if named or name in study.methods:
            raise
        return [Arm(name, name, adapter, NO_FUSION, 1, {}, skip=error.message)]
    needs = cls.needs
    missing = [setting for setting in needs.settings if setting not in entry.options]
    if missing:
        if named or name in study.methods:
            raise StudyError(
                f"method {name!r} needs the setting {', '.join(missing)}",
                remedy=f"write it under 'methods: {name}:' in the study file",
            )
        return []  # nobody asked for it: `all` takes what can run as it is
    try:
        options = cls.Options.model_validate(entry.options)
    except ValidationError as error:
        raise StudyError(
            f"method {name!r} has {problems(error, cls.Options)}", remedy="see docs/study-reference.md"
        ) from error
    facts: dict[str, Any] = {
        "options": json.loads(options.model_dump_json(by_alias=True)),
        "trains": needs.trains,
        "prompts": needs.prompts,
        "version": needs.version,
        "cut": options.cut(),
        "epochs": options.planned_epochs() or 0,
    }
    fusions = (entry.fusions or _default_fusions(needs.fusions, modalities)) if needs.fusions else (NO_FUSION,)
    if needs.trains and not trainable and named:
        raise StudyError(
            f"method {name!r} trains, but {UNTRAINABLE}",
            remedy="give 'split' training patients, or leave the method out of 'run'",
        )
    skip = _unserved(needs, modalities) or cls.skip(options, _facts(study, modalities, split))
    if skip is not None and named:
        raise StudyError(f"method {name!r} cannot run here: {skip}")
    if needs.weights is not None or entry.weights is not None:
        try:
            facts |= _weights(entry.weights or needs.weights or "", base)
        except WeightsError as error:
            if named:
                raise
            skip = f"{error.message} ({error.remedy})"
    untrained = UNTRAINABLE if needs.trains and not trainable else None
    arms = []
    for fusion in fusions:
        unavailable = FUSIONS[fusion].unavailable(modalities) if fusion != NO_FUSION else None
        for index in range(1, (study.seeds if needs.trains else 1) + 1):
            parts = [name, *([fusion] if len(fusions) > 1 or fusion != NO_FUSION else [])]
            parts += [f"seed{index}"] if study.seeds > 1 and needs.trains else []
            arms.append(
                Arm(".".join(parts), name, adapter, fusion, index, skip=untrained or skip or unavailable, **facts)
            )
    return arms


def _unserved(needs: Any, modalities: Sequence[str]) -> str | None:
    """What a method declares to need and these data, or this version, do not give."""
    kinds = [kind for kind in needs.prompts if kind not in PROMPT_KINDS]
    if kinds:
        return f"it takes prompts of the kind {' and '.join(kinds)}; gtvbench draws {' and '.join(PROMPT_KINDS)}"
    missing = [modality for modality in needs.modalities if modality not in modalities]
    return f"it needs {' and '.join(missing)}, which the data do not have" if missing else None


def _facts(study: Study, modalities: Sequence[str], split: Split | None) -> CohortFacts:
    folds = () if split is None else split.folds or (split,)
    # The fewest of any fold: what a method can do with them, it can do in every fold.
    patients = {subset: min(len(getattr(fold, subset)) for fold in folds) for subset in SUBSETS} if folds else {}
    return CohortFacts(tuple(modalities), structures_from(study.structures), patients)


def _default_fusions(fusions: tuple[str, ...], modalities: Sequence[str]) -> tuple[str, ...]:
    """A method's own fusions; where the data can serve none of them, those that they can."""
    if any(FUSIONS[name].unavailable(modalities) is None for name in fusions):
        return fusions
    return tuple(name for name, fusion in FUSIONS.items() if fusion.unavailable(modalities) is None) or fusions


def _weights(name: str, base: Path) -> dict[str, Any]:
    found = weights.locate(name, beside=base)
    return {
        "weights_name": Path(name).name,
        "weights_file": str(found.path.resolve()),
        "weights_sha256": found.sha256,
        "weights_published": found.known.name if found.known else None,
    }
