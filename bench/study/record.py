"""A row of arms.json: one arm as it ended, written by the run and read by the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Methods whose mask is the prompt itself: what the box alone gives away.
BOX_ONLY = ("box-fill", "box-ellipse")


class ArmRecord(BaseModel):
    """One arm: what it is, how it ended, and what was measured of all of it. What an older version did not record is
    None, or empty; what a later one adds is left out.

    Peak memory (bytes) is that of predicting and, with `fit_`, of training. `weights` has `name`, `sha256` and
    `published` (name of the published weights that the file is, or None), or nothing. `folds`: in how many it was
    trained apart; memory is then the most of them, seconds their sum, and there is no one `best_epoch`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: str = Field(alias="arm")
    method: str
    adapter: str = ""
    fusion: str = "none"
    seed: int | None = None
    status: str = "unknown"
    reason: str | None = None
    trains: bool = False
    prompts: tuple[str, ...] = ()
    cut_schedule: str | None = None
    weights: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    peak_host_bytes: int | float | None = None
    peak_device_bytes: int | float | None = None
    fit_peak_host_bytes: int | float | None = None
    fit_peak_device_bytes: int | float | None = None
    device: str | None = None
    preparation_seconds: float | None = None
    fit_seconds: float | None = None
    best_epoch: int | None = None
    folds: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, record: Any) -> Any:
        if not isinstance(record, Mapping):
            return record
        known = {key: value for key, value in record.items() if value is not None or key == "arm"}
        return {"method": known.get("arm", known.get("name")), **known}

    @property
    def box_prompted(self) -> bool:
        """Whether the method is told where the target is."""
        return "box" in self.prompts

    @property
    def published_weights(self) -> str | None:
        """Name of the published weights that the arm's file is, by its digest; None for any other file."""
        return self.weights.get("published")

    @property
    def kind(self) -> str:
        """Registered name of the method; `method` is the study's own name for it."""
        return self.adapter or self.method

    @property
    def weights_words(self) -> str:
        """The file of weights, and whether it is a published one."""
        name = str(self.weights.get("name") or "")
        return f"{name} (published weights, verified)" if self.published_weights else name

    @property
    def box_only(self) -> bool:
        """Whether the method is the prompt and nothing else."""
        return self.kind in BOX_ONLY
