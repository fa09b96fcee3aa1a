"""A run folder with every table and column that the runner writes, filled with seeded random numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

METRICS = ("dsc", "hd95_mm", "nsd", "assd_mm", "volume_ml", "reference_volume_ml", "volume_difference_ml", "tp_mm3")
DIAGONAL_MM = 292.0
SHAPE = (24, 64, 64)
WEIGHTS = {
    "name": "lite_medsam.pth",
    "sha256": "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    "published": "lite_medsam.pth",
}


@dataclass(frozen=True)
class Plan:
    """How good an arm is: mean DSC, and whether it is prompted and trained."""

    method: str
    fusion: str
    level: float
    prompted: bool = True
    trains: bool = False

    @property
    def name(self) -> str:
        return self.method if self.fusion == "none" else f"{self.method}.{self.fusion}"


PLANS = (
    Plan("box-ellipse", "none", 0.70),
    Plan("box-fill", "none", 0.59),
    Plan("litemedsam-zero-shot", "ct-only", 0.74),
    Plan("litemedsam-zero-shot", "multimodal", 0.77),
    Plan("litemedsam-fine-tuned", "ct-only", 0.83, trains=True),
    Plan("litemedsam-fine-tuned", "multimodal", 0.87, trains=True),
)


class RunWriter:
    """Writes a run folder; a test changes `arms`, `provenance`, `scores` ... before `write`."""

    def __init__(
        self, patients: int = 8, structures: tuple[str, ...] = ("GTV-T", "GTV-N"), plans: tuple[Plan, ...] = PLANS
    ) -> None:
        self.rng = np.random.default_rng(7)
        self.plans = plans
        self.structures = {name: value for value, name in enumerate(structures, start=1)}
        self.cases = [f"PHA-{k:03d}" for k in range(25, 25 + patients)]
        self.absent = {(case, structures[-1]) for case in self.cases[2::5]} if len(structures) > 1 else set()
        self.volumes = {(c, s): float(self.rng.lognormal(2.4, 0.6)) for c in self.cases for s in structures}
        self.arms = [self._arm(plan) for plan in plans]
        self.provenance = self._provenance()
        self.study = self._study()
        self.failures: list[dict[str, Any]] = []
        self.scores = pd.DataFrame([row for plan in plans for row in self._scores(plan)])
        self.timing = {plan.name: self._timing(plan) for plan in plans}
        self.epochs = {plan.name: self._epochs() for plan in plans if plan.trains}

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.yaml").write_text(yaml.safe_dump(self.study, sort_keys=False, allow_unicode=True))
        for name, value in (("provenance", self.provenance), ("arms", self.arms), ("failures", self.failures)):
            (folder / f"{name}.json").write_text(json.dumps(value, indent=1))
        (folder / "split.json").write_text(json.dumps(self.provenance["subsets"]))
        self.scores.to_parquet(folder / "scores.parquet", index=False)
        self.scores.to_csv(folder / "scores.csv", index=False)
        self._prompts().to_parquet(folder / "prompts.parquet", index=False)
        for name, table in self.timing.items():
            (folder / "arms" / name).mkdir(parents=True, exist_ok=True)
            table.to_parquet(folder / "arms" / name / "timing.parquet", index=False)
        for name, table in self.epochs.items():
            (folder / "arms" / name / "fit").mkdir(parents=True, exist_ok=True)
            table.to_csv(folder / "arms" / name / "fit" / "epochs.csv", index=False)
        return folder

    def fail(self, arm: str, cases: list[str], status: str) -> None:
        """Give cases of an arm a failed status, and the penalties that scoring gives them."""
        rows = (self.scores["arm"] == arm) & self.scores["case"].isin(cases)
        present = rows & ~self.scores[["case", "structure"]].apply(tuple, axis=1).isin(self.absent)
        self.scores.loc[rows, "status"] = status
        penalties = {
            "dsc": 0.0,
            "nsd": 0.0,
            "hd95_mm": DIAGONAL_MM,
            "assd_mm": DIAGONAL_MM,
            "volume_ml": 0.0,
            "tp_mm3": 0.0,
        }
        for metric, penalty in penalties.items():
            self.scores.loc[present & (self.scores["metric"] == metric), ["value", "raw"]] = [penalty, np.nan]
        self.failures += [
            {
                "step": "predict",
                "arm": arm,
                "case": case,
                "status": status,
                "message": "RuntimeError: out of memory while reading '/home/dr.who/My Data/PHA.nii.gz'",
                "traceback": 'Traceback (most recent call last):\n  File "/home/dr.who/src/x.py", line 3, in <module>\n'
                "    raise RuntimeError\nRuntimeError: out of memory",
            }
            for case in cases
        ]

    def _arm(self, plan: Plan) -> dict[str, Any]:
        return {
            "arm": plan.name, "method": plan.method, "adapter": plan.method, "fusion": plan.fusion, "seed": 1,
            "status": "complete", "reason": None, "trains": plan.trains,
            "prompts": ["box"] if plan.prompted else [],
            "cut_schedule": "8 of 20 epochs" if plan.trains else None,
            "weights": dict(WEIGHTS) if plan.method.startswith("litemedsam") else None,
            "options": {"image-size": 64, "epochs": 8} if plan.trains else {},
            "peak_host_bytes": int(self.rng.uniform(4e8, 1.4e9)), "peak_device_bytes": None, "device": "cpu",
            "fit_seconds": 95.0 if plan.trains else None, "best_epoch": 6 if plan.trains else None,
        }  # fmt: skip

    def _provenance(self) -> dict[str, Any]:
        train = [f"PHA-{k:03d}" for k in range(1, 17)]
        return {
            "gtvbench": "0.1.0", "python": "3.11.9", "platform": "Linux x86_64",
            "packages": {"numpy": "2.4.0", "torch": "2.9.0", "surface-distance": "0.1"}, "git": None,
            "hardware": {"cpu": "Some Processor", "cores": 2, "memory_gb": 8.0, "gpu": None},
            "seed": 1, "digests": {"data": "0d" * 32, "split": "1e" * 32, "prompts": "2f" * 32}, "synthetic": True,
            "structures": self.structures, "modalities": ["CT", "PET", "T1w", "T2w"],
            "subsets": {"train": train, "validation": ["PHA-017", "PHA-018"], "test": list(self.cases)},
            "coverage": {case: {"CT": 1.0, "PET": 0.93 if k == 0 else 1.0} for k, case in enumerate(self.cases)},
            "grid": {case: {"shape": list(SHAPE), "spacing": [4.0, 3.0, 3.0]} for case in self.cases},
            "scoring": {"tool": "surface-distance", "version": "0.1", "percentile": 95.0, "tolerance_mm": {}},
            "notes": ["PHA-026: read from /srv/patients/PHA-026/ct.nii.gz, spacing rounded"],
        }  # fmt: skip

    def _study(self) -> dict[str, Any]:
        return {
            "study": "phantom", "seed": 1, "dataset": {"source": "phantom", "root": "/srv/patients/study"},
            "structures": self.structures, "prompts": {"policy": "random-margin(0, 20)", "minimum-area-mm2": 0.0},
            "run": "all", "scoring": {"nsd-tolerance-mm": 2.0}, "device": "auto", "statistics": {"resamples": 1000},
        }  # fmt: skip

    def _scores(self, plan: Plan) -> list[dict[str, Any]]:
        rows = []
        for case in self.cases:
            for structure in self.structures:
                bonus = 0.0
                for scope in ("volume", "prompted-slices"):
                    values, status = self._values(plan, case, structure, bonus)
                    rows += [
                        {
                            "arm": plan.name, "method": plan.method, "fusion": plan.fusion, "seed": 1, "case": case,
                            "patient": case, "structure": structure, "scope": scope, "metric": metric,
                            "value": values[metric], "raw": values[metric], "status": status,
                        }
                        for metric in METRICS
                    ]  # fmt: skip
                    bonus = 0.02
        return rows

    def _values(self, plan: Plan, case: str, structure: str, bonus: float) -> tuple[dict[str, float], str]:
        reference = 0.0 if (case, structure) in self.absent else self.volumes[case, structure]
        if reference == 0.0:
            volume = 0.0 if plan.prompted else 1.7
            nothing = dict.fromkeys(METRICS, float("nan"))
            found = {"volume_ml": volume, "reference_volume_ml": 0.0, "volume_difference_ml": volume, "tp_mm3": 0.0}
            return nothing | found, "ref_empty_fp" if volume else "both_empty"
        dsc = float(np.clip(self.rng.normal(plan.level + bonus, 0.06), 0.05, 0.99))
        volume = reference * float(self.rng.normal(1.0, 0.12))
        return {
            "dsc": dsc, "hd95_mm": float(self.rng.gamma(4.0, 7.0 * (1.02 - dsc))), "nsd": dsc**1.2,
            "assd_mm": 6 * (1 - dsc), "volume_ml": volume, "reference_volume_ml": reference,
            "volume_difference_ml": volume - reference, "tp_mm3": 500.0 * dsc * (volume + reference),
        }, "ok"  # fmt: skip

    def _timing(self, plan: Plan) -> pd.DataFrame:
        rows: list[tuple[str, int, str, int, float]] = [("", -1, "load", 0, 0.8), ("", 3, "warmup", 1, 0.21)]
        rows += [("", 4, "warmup", 2, 0.03), ("", 8, "warmup", 11, 0.2), ("", 8, "throughput", 11, 0.12)]
        for case in self.cases:
            for z in range(6, 12):
                rows.append((case, z, "encode", 0, float(self.rng.gamma(40, 0.0004))))
                rows.append((case, z, "decode", 1 + z % 2, float(self.rng.gamma(40, 0.0002))))
            rows.append((case, -1, "case", 0, float(self.rng.gamma(40, 0.005))))
        return pd.DataFrame(rows, columns=["case", "slice", "stage", "boxes", "seconds"])

    def _epochs(self) -> pd.DataFrame:
        epochs = np.arange(8)
        loss = 0.9 * np.exp(-epochs / 3) + 0.2
        return pd.DataFrame(
            {
                "epoch": epochs,
                "train_loss": loss,
                "validation_loss": loss * 0.8 + self.rng.normal(0, 0.02, 8),
                "seconds": self.rng.normal(11, 0.3, 8),
                "learning_rate": 3e-4,
            }
        )

    def _prompts(self) -> pd.DataFrame:
        rows = [
            {"case": c, "slice": z, "structure": v, "instance": 1, "y0": 20, "x0": 20, "y1": 40, "x1": 40, "area": 200}
            for c in self.cases
            for s, v in self.structures.items()
            if (c, s) not in self.absent
            for z in range(6, 12)
        ]
        return pd.DataFrame(rows)
