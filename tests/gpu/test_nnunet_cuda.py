"""nnU-Net on CUDA: it learns, and its predictions are the CPU's but for rounding.

pytest tests/gpu                                            needs a GPU; skipped elsewhere
python tests/speed/nnunet_parity.py train --device cuda --patients 24 --shape 96 160 160 --iterations 50
python tests/speed/nnunet_parity.py predict --device cuda --patients 24 --shape 96 160 160
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.run.run import Run
from gtvbench.bench.study.file import Study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ARM = "nnunet-box.multimodal"
SCHEDULE = {"epochs": 3, "iterations": 20, "validation-iterations": 2, "foreground-voxels": 100_000}
STUDY: dict[str, Any] = {
    "study": "cuda",
    "seed": 2,
    "dataset": {"source": "phantom", "patients": 8},
    "structures": {"GTV-T": 1, "GTV-N": 2},
    "split": {"counts": {"train": 3, "validation": 1, "test": 4}},
    "methods": {
        "nnunet-box": {"epochs": 3, "iterations": 20, "validation-iterations": 2, "foreground-voxels": 100_000}
    },
}


def test_training_on_cuda_learns_and_its_predictions_are_the_cpus(tmp_path: Path) -> None:
    predicted = {}
    for device in ("cuda", "cpu"):
        study = Study.model_validate(STUDY | {"device": device})
        run = Run(study, tmp_path, tmp_path / "run", ["nnunet-box"], Display("quiet"))
        if device == "cpu":  # the fit is not repeated: its key knows nothing of the device
            for record in (tmp_path / "run" / "steps" / "predict" / ARM).iterdir():
                record.unlink()
        assert run.execute().exit_code == 0
        folder = tmp_path / "run" / "arms" / ARM
        predicted[device] = {p.name: read_volume(p).array for p in (folder / "predictions").iterdir()}
        stages = set(pd.read_parquet(folder / "timing.parquet")["stage"])
        assert {"preprocess", "segment", "export", "case"} <= stages
    losses = pd.read_csv(tmp_path / "run" / "arms" / ARM / "fit" / "epochs.csv")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    for name, cuda in predicted["cuda"].items():
        assert np.mean(cuda != predicted["cpu"][name]) < 1e-3
