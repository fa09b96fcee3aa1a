"""gtvbench's nnU-Net arms against nnU-Net's own commands: the same data, checkpoint, trainer and iterations.

    python tests/speed/nnunet_parity.py predict [--pairs 5]   bench run (scores and report included) / nnUNetv2_predict
    python tests/speed/nnunet_parity.py train [--pairs 3]     epoch loops, validation of nnUNetv2_train left out

Run it with nothing else on the machine. The two run in turn; the ratio is taken pair by pair, and its median printed.
Predicted label maps must be identical. `--patients`, `--shape` and `--device` make it a full-size measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from gtvbench.bench.export.nnunet import export_nnunet
from gtvbench.bench.files.nifti import read_volume

ARM = "nnunet.multimodal"
TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class ShortTrainer(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = {epochs}, {iterations}, 2
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["predict", "train"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--shape", type=int, nargs=3, default=[24, 64, 64])
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = place / "run"
        (place / "study.yaml").write_text(yaml.safe_dump(study(options)))
        ratios = (predict if options.what == "predict" else train)(options, place, run)
    print(
        f"ratio, median of {len(ratios)} pairs: {statistics.median(ratios):.3f}  "
        f"(from {min(ratios):.3f} to {max(ratios):.3f})"
    )


def study(options: argparse.Namespace) -> dict[str, Any]:
    """A phantom study: half of the patients are test patients."""
    half = options.patients // 2
    method = {"epochs": 2, "iterations": options.iterations, "validation-iterations": 2, "mirroring": False,
              "foreground-voxels": 1_000_000}  # fmt: skip
    return {
        "study": "parity",
        "seed": 1,
        "device": options.device,
        "structures": {"GTV-T": 1, "GTV-N": 2},
        "dataset": {"source": "phantom", "patients": options.patients, "shape": options.shape, "spacing": [4, 3, 3]},
        "split": {"counts": {"train": half - 2, "validation": 2, "test": options.patients - half}},
        "methods": {"nnunet": method},
    }


def bench(place: Path, run: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from gtvbench.bench.cli.main import main; main()",
        "run",
        str(place / "study.yaml"),
    ]
    subprocess.run(
        [*command, "--methods", "nnunet", "--out", str(run), "--log", "quiet"], check=True, stdout=subprocess.DEVNULL
    )


def predict(options: argparse.Namespace, place: Path, run: Path) -> list[float]:
    """Whole commands, start-up included."""
    bench(place, run)
    raw = export_nnunet(run, place / "raw", 1)
    results = checkpoint_for_nnunet(run, place / "results" / raw.name)
    variables = os.environ | {f"nnUNet_{name}": str(place / name) for name in ("raw", "preprocessed", "results")}
    tool = Path(sys.executable).with_name("nnUNetv2_predict")
    command = [str(tool), "-i", str(raw / "imagesTs"), "-o", str(place / "theirs"), "-d", "1", "-c", "3d_fullres",
               "-f", "0", "--disable_tta", "-device", options.device]  # fmt: skip
    assert results.exists()
    ratios = []
    for number in range(options.pairs):
        for name in ("predictions", "scores"):
            shutil.rmtree(run / "arms" / ARM / name)
        shutil.rmtree(place / "theirs", ignore_errors=True)
        ours = timed(lambda: bench(place, run))
        theirs = timed(
            lambda: subprocess.run(
                command, check=True, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        print(f"pair {number + 1}: bench run {ours:.1f} s, nnUNetv2_predict {theirs:.1f} s")
        ratios.append(ours / theirs)
    for path in sorted((place / "theirs").glob("*.nii")):
        mine = read_volume(run / "arms" / ARM / "predictions" / f"{path.stem}.nii.gz").array
        same = np.array_equal(mine, read_volume(path).array)
        print(f"{path.stem}: {'identical' if same else 'DIFFERENT'}, {int((mine > 0).sum())} voxels")
        assert same
    return ratios


def checkpoint_for_nnunet(run: Path, folder: Path) -> Path:
    """The arm's network as a checkpoint that nnUNetv2_predict reads."""
    fit = run / "arms" / ARM / "fit"
    model = json.loads((fit / "model.json").read_text())
    place = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (place / "fold_0").mkdir(parents=True)
    (place / "plans.json").write_text(json.dumps(model["plans"]))
    (place / "dataset.json").write_text(json.dumps(model["dataset"]))
    axes = model["mirroring_axes"]
    state = {
        "network_weights": load_file(fit / "network.safetensors"),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": model["configuration"]},
        "inference_allowed_mirroring_axes": tuple(axes),
    }
    torch.save(state, place / "fold_0" / "checkpoint_final.pth")
    return place


def train(options: argparse.Namespace, place: Path, run: Path) -> list[float]:
    """From the first epoch's line in nnU-Net's own log to 'Training done.', which comes before its validation."""
    extra = place / "trainers"
    extra.mkdir()
    (extra / "short.py").write_text(TRAINER.format(epochs=2, iterations=options.iterations))
    root = place / "root"
    prepare(options, place, root)
    workers = "0" if options.device == "cpu" else str(min(12, os.cpu_count() or 1))
    variables = os.environ | {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    variables |= {"nnUNet_n_proc_DA": workers, "nnUNet_extTrainer": str(extra)}
    tool = str(Path(sys.executable).with_name("nnUNetv2_train"))
    theirs = [tool, "1", "3d_fullres", "0", "-tr", "ShortTrainer", "-p", "gtvbenchPlans", "-device", options.device]
    ours = [sys.executable, __file__, "train-ours", str(root), str(options.iterations), options.device]
    ratios = []
    for number in range(options.pairs):
        seconds = []
        for command in (ours, theirs):
            shutil.rmtree(root / "results", ignore_errors=True)
            (root / "results").mkdir()
            # nnUNetv2_train's own validation may fail on so short a training; it is left out anyway.
            subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            seconds.append(epoch_loop(root / "results"))
        print(f"pair {number + 1}: gtvbench {seconds[0]:.1f} s, nnUNetv2_train {seconds[1]:.1f} s")
        ratios.append(seconds[0] / seconds[1])
    return ratios


def prepare(options: argparse.Namespace, place: Path, root: Path) -> None:
    """Prepared patients in `root` as nnU-Net's raw, planned and preprocessed data."""
    from gtvbench.adapters.nnunet.options import NnunetOptions
    from gtvbench.adapters.nnunet.planning import plan, preprocess, set_environment

    record = study(options) | {"methods": {}}
    (place / "study.yaml").write_text(yaml.safe_dump(record))
    command = [
        sys.executable,
        "-c",
        "from gtvbench.bench.cli.main import main; main()",
        "run",
        str(place / "study.yaml"),
    ]
    subprocess.run(
        [*command, "--methods", "box-fill", "--out", str(place / "run"), "--log", "quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    exported = export_nnunet(place / "run", place / "exported", 1)
    set_environment(root, cores=os.cpu_count() or 1, workers=0, compile_network=None)
    exported.rename(root / "raw" / "Dataset001_gtvbench")
    chosen = NnunetOptions(foreground_voxels=1_000_000)
    plan(root, chosen, 1, 0)
    preprocess(root, "3d_fullres", 1, 0)


def train_ours(root: Path, iterations: int, device: str) -> None:
    """Our trainer on the preprocessed data of `root`; runs in a process of its own."""
    from gtvbench.adapters.nnunet import fitting
    from gtvbench.adapters.nnunet.dataset import Layout
    from gtvbench.adapters.nnunet.options import NnunetOptions
    from gtvbench.adapters.nnunet.trainer import train as to_the_end
    from gtvbench.bench.core.structures import structures_from

    class Recorder:
        def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
            (root / "epoch.json").write_text(json.dumps([epoch, train_loss, validation_loss, extra]))

    layout = Layout(("CT", "PET", "T1w", "T2w"), structures_from({"GTV-T": 1, "GTV-N": 2}))
    chosen = NnunetOptions(epochs=2, iterations=iterations, validation_iterations=2)
    trainer = fitting._trainer(root, layout, chosen, Recorder(), 1, torch.device(device), 0)
    to_the_end(trainer, Path(trainer.output_folder))


def epoch_loop(results: Path) -> float:
    """Seconds between the first epoch's line and 'Training done.' in the one log below `results`."""
    (log,) = results.rglob("training_log_*.txt")
    times = {}
    for line in log.read_text().splitlines():
        found = re.match(r"(\d{4}-\d\d-\d\d [\d:.]+): +(Epoch 0|Training done\.)", line)
        if found:
            times[found.group(2)] = datetime.fromisoformat(found.group(1))
    return (times["Training done."] - times["Epoch 0"]).total_seconds()


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1] == "train-ours":
        train_ours(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
