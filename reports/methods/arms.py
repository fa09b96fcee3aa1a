"""Sentences of the methods text on the methods that ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gtvbench.bench.study.record import BOX_ONLY, ArmRecord
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import (
    DIGEST_DIGITS,
    LITEMEDSAM,
    NNUNET,
    active,
    cite,
    file_name,
    mapping,
    named,
    names,
    numeral,
    of_kinds,
)
from gtvbench.reports.text.numbers import counted, listed

_TUNED = "litemedsam-fine-tuned"


def arms(run: FinishedRun) -> list[str]:
    """Every method that was started, family after family."""
    said = _box_only(run) + _litemedsam(run) + _nnunet(run) + _others(run)
    repeated = {arm.seed for arm in active(run) if arm.trains}
    if len(repeated) > 1:
        said.append(f"Arms that train ran {len(repeated)} times with different seeds; each run is an arm of its own.")
    return said


def _by_method(chosen: Iterable[ArmRecord]) -> list[list[ArmRecord]]:
    """Arms of one entry of a study, which share their options and weights."""
    found: dict[tuple[str, str, str], list[ArmRecord]] = {}
    for arm in chosen:
        found.setdefault((arm.method, repr(arm.options), repr(arm.weights)), []).append(arm)
    return list(found.values())


def _box_only(run: FinishedRun) -> list[str]:
    kinds = {arm.kind for arm in of_kinds(run, BOX_ONLY)}
    parts = []
    if "box-fill" in kinds:
        parts.append("the box itself (box-fill)")
    if "box-ellipse" in kinds:
        parts.append("the ellipse inscribed in the box (box-ellipse)")
    return [f"To show what the prompt alone is worth, {listed(parts)} also served as mask."] if parts else []


def _litemedsam(run: FinishedRun) -> list[str]:
    chosen = of_kinds(run, LITEMEDSAM)
    if not chosen:
        return []
    said = [
        f"LiteMedSAM is the light version of MedSAM{cite('ma2024medsam', 'ma2024laptop')}: a TinyViT image encoder"
        f"{cite('wu2022')} with the prompt encoder and the mask decoder of the Segment Anything Model"
        f"{cite('kirillov2023')}. It segments slice by slice, each box by itself; where masks overlap, the higher "
        "probability wins."
    ]
    for group in _by_method(chosen):
        said += [_tuned(run, group) if group[0].kind == _TUNED else _zero_shot(group), *_frame(group)]
    return said


def _zero_shot(group: list[ArmRecord]) -> str:
    return f"{names(group)} used the weights{_weights(group[0])} without training."


def _frame(group: list[ArmRecord]) -> list[str]:
    options = group[0].options
    size = numeral(options, "image-size")
    scaled = {"min-max": "each by its own extremes, jointly over channels", "fixed": "by 255"}.get(
        str(options.get("normalisation"))
    )
    if size is None or scaled is None:
        return []
    precision = f", the encoder in {named(options['precision'])}" if options.get("precision") else ""
    return [f"Slices were resized to {size} pixels on the longer side and scaled to 0 to 1 {scaled}{precision}."]


def _weights(arm: ArmRecord) -> str:
    weights = mapping(arm.weights)
    if not weights.get("name"):
        return ""
    details = ["published weights, verified"] if arm.published_weights else []
    details += [f"SHA-256 {named(weights['sha256'])[:DIGEST_DIGITS]}…"] if weights.get("sha256") else []
    return f" {file_name(weights['name'])}" + (f" ({'; '.join(details)})" if details else "")


def _tuned(run: FinishedRun, group: list[ArmRecord]) -> str:
    options = group[0].options
    frozen = options.get("train") == "decoder"
    parts = [f"{names(group)} started from the weights{_weights(group[0])} and {_was(group)} {_epochs(run, group)}"]
    batch = numeral(options, "batch")
    parts.append(f" in batches of {batch} pairs of slice and instance" if batch else "")
    rate, decay = numeral(options, "learning-rate"), numeral(options, "weight-decay")
    if rate:
        parts.append(f", with AdamW (learning rate {rate}{f', weight decay {decay}' if decay else ''})")
    factor, patience = numeral(options, "plateau-factor"), numeral(options, "plateau-patience")
    watched = "validation Dice loss" if run.validated else "training loss"
    if factor and patience:
        parts.append(f", the rate times {factor} after {patience} epochs without a lower {watched}")
    parts.append("; the loss is the sum of Dice, cross-entropy and squared error of the predicted IoU")
    if options.get("margins"):
        flips = " and slices flipped at random" if options.get("flips") is not False and not frozen else ""
        parts.append(f", training boxes are drawn anew every epoch by {named(options['margins'])} mm{flips}")
    if frozen:
        parts.append(
            "; only the mask decoder was trained: the image encoder was frozen and each slice embedded once, without "
            "flips"
        )
    best = [f"{arm.best_epoch} ({named(arm.name)})" for arm in group if arm.best_epoch is not None]
    kept = f": epoch {listed(best)}, counted from 0" if best else ""
    protocol = f" The protocol is that of Ren et al.{cite('ren2024')}" if _is_study(options) else ""
    cut = " but for its length." if protocol and group[0].cut_schedule else "." if protocol else ""
    return "".join(parts) + f". The epoch of the lowest {watched} was kept{kept}.{protocol}{cut}"


#: The study's fine-tuning (arXiv 2402.17454), its number of epochs apart.
_STUDY = {"batch": 8, "learning-rate": 3e-4, "plateau-factor": 0.9, "plateau-patience": 5,
          "margins": "random-margin(0, 20)"}  # fmt: skip


def _is_study(options: Mapping[str, Any]) -> bool:
    return options.get("train", "all") == "all" and all(options.get(key) == value for key, value in _STUDY.items())


def _was(group: list[ArmRecord]) -> str:
    return "was" if len(group) == 1 else "were"


def _epochs(run: FinishedRun, group: list[ArmRecord]) -> str:
    """How long arms were trained, as recorded; what was planned where nothing is."""
    lengths = {arm.name: run.epochs[arm.name]["epoch"].nunique() for arm in group if arm.name in run.epochs}
    if len(lengths) == len(group) and len(set(lengths.values())) == 1:
        each = " in each fold" if any(arm.folds for arm in group) else ""
        return f"trained for {counted(next(iter(lengths.values())), 'epoch')}{each}"
    if lengths:
        return "trained for " + listed(
            [f"{counted(count, 'epoch')} ({named(name)})" for name, count in lengths.items()]
        )
    planned = numeral(group[0].options, "epochs")
    return f"to be trained for {planned} epochs, of which none is recorded" if planned else "trained"


def _nnunet(run: FinishedRun) -> list[str]:
    chosen = of_kinds(run, NNUNET)
    if not chosen:
        return []
    version = mapping(run.provenance.get("packages")).get("nnunetv2")
    package = f" (nnunetv2 {named(version)})" if version else ""
    plain = not any(_folds(arm) or arm.folds for arm in chosen)
    once = "; it was trained once on the training set, without an ensemble of folds" if plain else ""
    said = [
        f"nnU-Net{cite('isensee2021')}{package} planned, preprocessed, trained and predicted by itself, from raw "
        f"intensities with a channel for each modality{once}."
    ]
    for group in _by_method(chosen):
        said.append(_schedule(run, group))
        if group[0].kind == "nnunet-box":
            said.append(_box_channel(group))
        else:
            said.append(f"{names(group)} got no prompt.")
    return said


def _folds(arm: ArmRecord) -> str | None:
    """How many networks an arm averages, in words; None for one, or where it is not recorded."""
    folds = numeral(arm.options, "folds")
    return None if folds == "1" else folds


def _schedule(run: FinishedRun, group: list[ArmRecord]) -> str:
    options = group[0].options
    setup = [named(options[key]) for key in ("configuration", "planner", "trainer") if options.get(key)]
    parts = [f"{names(group)} {_was(group)} {_epochs(run, group)}"]
    iterations, rate = numeral(options, "iterations"), numeral(options, "learning-rate")
    parts.append(f" of {iterations} iterations" if iterations else "")
    if (folds := _folds(group[0])) is not None:
        parts.append(
            f" in all, for {folds} networks that predict by the mean of their logits, each validated on another of "
            f"{folds} parts of the training and validation sets and trained on the others"
        )
    parts.append(f", from a learning rate of {rate}" if rate else "")
    parts.append(f" ({', '.join(setup)})" if setup else "")
    checkpoint = {
        "final": "the last epoch's weights",
        "best": "the weights of the best moving average of the pseudo-Dice",
    }.get(str(options.get("checkpoint")))
    if checkpoint:
        mirrored = "with" if options.get("mirroring") else "without"
        step = numeral(options, "step-size")
        sliding = f", by a sliding window in steps of {step} of the patch" if step else ""
        parts.append(f"; {checkpoint} predict, {mirrored} test-time mirroring{sliding}")
    return "".join(parts) + "."


def _box_channel(group: list[ArmRecord]) -> str:
    options = group[0].options
    each = "one more channel for each structure" if options.get("boxes") == "per-structure" else "one more channel"
    drawn = "drawn once a case"
    if options.get("fresh-boxes"):
        drawn = f"drawn anew in every patch by {named(options.get('margins', 'the same policy'))} mm"
    infer = "" if options.get("boxes") == "per-structure" else " and which structure a box belongs to is not told"
    return (
        f"{names(group)} got {each} that is 1 inside a box of the slice and 0 elsewhere, not normalised; boxes of the "
        f"training set are {drawn}{infer}."
    )


def _others(run: FinishedRun) -> list[str]:
    known = {*BOX_ONLY, *LITEMEDSAM, *NNUNET}
    said = []
    for group in _by_method(arm for arm in active(run) if arm.kind not in known):
        first = group[0]
        if first.kind == "predictions":
            said.append(f"{names(group)}: masks made elsewhere, scored as they are.")
            continue
        adapter = f" (adapter {named(first.kind)})" if first.kind != first.method else ""
        trained = f"was {_epochs(run, group)} on the training set" if first.trains else "was not trained here"
        told = "with the boxes as prompt" if first.box_prompted else "without a prompt"
        what = "is a third-party method that" if len(group) == 1 else "are arms of a third-party method that"
        said.append(f"{names(group)}{adapter} {what} {trained} and segmented {told}.")
    return said
