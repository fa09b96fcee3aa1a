"""Scores of patients who never were, with effects that are known, and a whole run folder of them.

    python tests/support/simulated.py FOLDER [--patients 100] [--seed 1]

makes a folder that `bench report FOLDER` renders. The model, for patient i, structure s and arm a:

    logit(DSC) = 1.2 + effect[a] + .5 patient[i] + .3 place[i, s] + .25 (log V - 2.4) + .35 noise[i, s, a]
    log(HD95)  = 2.0 - effect[a] - .5 patient[i] + .3 place[i, s] + .35 noise[i, s, a]

patient, place and noise are standard normal; the two scores have the same patient, and noises that correlate at -.6.
A larger effect is better in both; arms of equal effect differ by nothing but noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from run_writer import WEIGHTS

#: The six arms of the study and the two that are the prompt alone: name -> effect.
EFFECTS = {
    "box-fill": -1.2,
    "box-ellipse": -0.8,
    "litemedsam-zero-shot.ct-only": -0.4,
    "litemedsam-zero-shot.multimodal": -0.2,
    "litemedsam-fine-tuned.ct-only": 0.2,
    "litemedsam-fine-tuned.multimodal": 0.5,
    "nnunet.multimodal": 0.0,
    "nnunet-box.multimodal": 0.8,
}
NO_EFFECTS = dict.fromkeys(EFFECTS, 0.0)
STRUCTURES = ("GTV-T", "GTV-N")
DIAGONAL_MM, SHAPE, SPACING = 292.0, (24, 64, 64), (4.0, 3.0, 3.0)
_TRAINED = ("litemedsam-fine-tuned", "nnunet", "nnunet-box")


def simulated_scores(
    patients: int = 100,
    effects: Mapping[str, float] = EFFECTS,
    structures: Sequence[str] = STRUCTURES,
    seed: int = 0,
    *,
    failed: float = 0.0,
    lack_last: float = 0.0,
    seeds: Sequence[int] = (1,),
    scopes: Sequence[str] = ("volume", "prompted-slices"),
) -> pd.DataFrame:
    """Long table of scores as the runner writes it.

    `failed` is the share of cases that crash, with their penalty; `lack_last` that of patients who lack the last
    structure. With several `seeds` every trained arm is there once a seed, as `<arm>.seed<k>`.
    """
    rng = np.random.default_rng(seed)
    names, arms = [f"SIM-{k:03d}" for k in range(1, patients + 1)], arms_of(effects, seeds)
    shape = (patients, len(structures), len(arms))
    patient, place = rng.normal(size=(patients, 1, 1)), rng.normal(size=shape[:2])[..., None]
    log_volume = rng.normal(2.4, 0.6, size=shape[:2])
    one, other = rng.normal(size=shape), rng.normal(size=shape)
    gain = np.array([arm["effect"] for arm in arms]) + 0.5 * patient
    logit = 1.2 + gain + 0.3 * place + 0.25 * (log_volume[..., None] - 2.4) + 0.35 * one
    values = {
        "dsc": 1 / (1 + np.exp(-logit)),
        "hd95_mm": np.exp(2.0 - gain + 0.3 * place + 0.35 * (0.8 * other - 0.6 * one)),
    }
    values["nsd"], values["assd_mm"] = values["dsc"] ** 1.2, values["hd95_mm"] / 4
    reference = np.broadcast_to(np.exp(log_volume)[..., None], shape)
    values["volume_ml"] = reference * np.exp(rng.normal(0, 0.15, size=shape))
    values["reference_volume_ml"] = reference.copy()
    crashed = rng.random(shape) < failed
    penalties = {"dsc": 0.0, "nsd": 0.0, "hd95_mm": DIAGONAL_MM, "assd_mm": DIAGONAL_MM, "volume_ml": 0.0}
    for metric, penalty in penalties.items():
        values[metric][crashed] = penalty
    absent = np.zeros(shape, bool)
    absent[:, -1] = (rng.random(patients) < lack_last)[:, None]
    for metric in ("dsc", "nsd", "hd95_mm", "assd_mm"):
        values[metric][absent] = np.nan
    values["volume_ml"][absent] = values["reference_volume_ml"][absent] = 0.0
    values["volume_difference_ml"] = values["volume_ml"] - values["reference_volume_ml"]
    total = values["volume_ml"] + values["reference_volume_ml"]
    values["tp_mm3"] = 500.0 * np.nan_to_num(values["dsc"]) * total
    status = np.where(absent, "both_empty", np.where(crashed, "crashed", "ok"))
    i, s, a = (index.ravel() for index in np.indices(shape))
    keys = {
        **{key: np.array([arm[key] for arm in arms])[a] for key in ("arm", "method", "fusion", "seed")},
        "case": np.array(names)[i],
        "patient": np.array(names)[i],
        "structure": np.array(structures)[s],
    }
    parts = [
        pd.DataFrame({**keys, "scope": scope, "metric": metric, "value": value.ravel(),
                      "raw": np.where(crashed, np.nan, value).ravel(), "status": status.ravel()})
        for scope in scopes for metric, value in values.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def arms_of(effects: Mapping[str, float] = EFFECTS, seeds: Sequence[int] = (1,)) -> list[dict[str, Any]]:
    """Name, method, fusion, seed, effect and whether it trains, of every arm."""
    found = []
    for name, effect in effects.items():
        method, _, fusion = name.partition(".")
        trains = method in _TRAINED
        for seed in seeds if trains else seeds[:1]:
            own = f"{name}.seed{seed}" if trains and len(seeds) > 1 else name
            found.append(
                {"arm": own, "method": method, "fusion": fusion or "none", "seed": seed, "effect": effect,
                 "trains": trains}
            )  # fmt: skip
    return found


def write_simulated_run(
    folder: Path,
    patients: int = 100,
    effects: Mapping[str, float] = EFFECTS,
    structures: Sequence[str] = STRUCTURES,
    seed: int = 0,
    *,
    statistics: Mapping[str, Any] | None = None,
    scores: pd.DataFrame | None = None,
    seeds: Sequence[int] = (1,),
    **shares: float,
) -> Path:
    """Write a whole run folder; `statistics` is that block of its study file, `scores` a table to be used instead."""
    table = simulated_scores(patients, effects, structures, seed, seeds=seeds, **shares) if scores is None else scores
    rng = np.random.default_rng(seed)
    cases = sorted(set(table["case"]))
    values = {name: value for value, name in enumerate(structures, start=1)}
    arms = arms_of(effects, seeds)
    study = {
        "study": "simulated", "seed": 1, "dataset": {"source": "phantom"}, "structures": values,
        "prompts": {"policy": "random-margin(0, 20)", "minimum-area-mm2": 0.0}, "run": "all",
        "scoring": {"nsd-tolerance-mm": 2.0}, "device": "auto", "statistics": dict(statistics or {}),
    }  # fmt: skip
    provenance = {
        "gtvbench": "0.1.0", "python": "3.11.9", "platform": "Linux x86_64", "packages": {"numpy": "2.4.0"},
        "git": None, "hardware": {"cpu": "none: simulated", "cores": 2, "memory_gb": 8.0, "gpu": None}, "seed": 1,
        "digests": {"data": "0d" * 32, "split": "1e" * 32, "prompts": "2f" * 32}, "synthetic": True,
        "structures": values, "modalities": ["CT", "PET"],
        "subsets": {"train": [f"TRN-{k:03d}" for k in range(1, 41)], "validation": ["VAL-001"], "test": cases},
        "coverage": {case: {"CT": 1.0, "PET": 1.0} for case in cases},
        "grid": {case: {"shape": list(SHAPE), "spacing": list(SPACING)} for case in cases},
        "scoring": {"tool": "surface-distance", "version": "0.1", "percentile": 95.0, "tolerance_mm": {}}, "notes": [],
    }  # fmt: skip
    records = [
        {
            "arm": arm["arm"], "method": arm["method"], "adapter": arm["method"], "fusion": arm["fusion"],
            "seed": arm["seed"], "status": "complete", "reason": None, "trains": arm["trains"],
            "prompts": [] if arm["method"] == "nnunet" else ["box"], "cut_schedule": None,
            "weights": dict(WEIGHTS) if arm["method"].startswith("litemedsam") else None, "options": {},
            "peak_host_bytes": 900_000_000, "peak_device_bytes": None, "device": "cpu",
            "fit_seconds": 95.0 if arm["trains"] else None, "best_epoch": 6 if arm["trains"] else None,
        }
        for arm in arms
    ]  # fmt: skip
    failed = table[(table["status"] == "crashed") & (table["metric"] == "dsc")]
    failures = [
        {"step": "predict", "arm": arm, "case": case, "status": "crashed", "message": "RuntimeError: out of memory",
         "traceback": "RuntimeError: out of memory"}
        for arm, case in failed[["arm", "case"]].drop_duplicates().to_numpy().tolist()
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True))
    documents = {"provenance": provenance, "arms": records, "failures": failures, "split": provenance["subsets"]}
    for name, value in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
    table.to_parquet(folder / "scores.parquet", index=False)
    table.to_csv(folder / "scores.csv", index=False)
    _prompts(cases, values).to_parquet(folder / "prompts.parquet", index=False)
    for arm in arms:
        own = folder / "arms" / arm["arm"]
        (own / "fit").mkdir(parents=True, exist_ok=True)
        _timing(cases, rng).to_parquet(own / "timing.parquet", index=False)
        if arm["trains"]:
            _epochs(rng).to_csv(own / "fit" / "epochs.csv", index=False)
    return folder


def _prompts(cases: Sequence[str], structures: Mapping[str, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"case": case, "slice": z, "structure": value, "instance": 1, "y0": 20, "x0": 20, "y1": 40, "x1": 40,
             "area": 200}
            for case in cases for value in structures.values() for z in range(6, 12)
        ]
    )  # fmt: skip


def _timing(cases: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    rows: list[tuple[str, int, str, int, float]] = [("", -1, "load", 0, 0.8), ("", 3, "warmup", 1, 0.21)]
    rows.append(("", 8, "throughput", 11, 0.12))
    for case in cases:
        for z in range(6, 12):
            rows.append((case, z, "encode", 0, float(rng.gamma(40, 0.0004))))
            rows.append((case, z, "decode", 1 + z % 2, float(rng.gamma(40, 0.0002))))
        rows.append((case, -1, "case", 0, float(rng.gamma(40, 0.005))))
    return pd.DataFrame(rows, columns=["case", "slice", "stage", "boxes", "seconds"])


def _epochs(rng: np.random.Generator) -> pd.DataFrame:
    epochs = np.arange(8)
    loss = 0.9 * np.exp(-epochs / 3) + 0.2
    return pd.DataFrame(
        {"epoch": epochs, "train_loss": loss, "validation_loss": loss * 0.8 + rng.normal(0, 0.02, 8),
         "seconds": rng.normal(11, 0.3, 8), "learning_rate": 3e-4}
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a run folder of simulated scores.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    write_simulated_run(chosen.folder, chosen.patients, seed=chosen.seed, failed=0.01, lack_last=0.2)
