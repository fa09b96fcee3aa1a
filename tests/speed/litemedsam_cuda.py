"""LiteMedSAM on a GPU: how fast, in how much memory and how exactly it predicts, and an epoch of fine-tuning.

    python tests/speed/litemedsam_cuda.py OFFICIAL predict RUN [--batches 1 8 32 64] [--rounds 9]
    python tests/speed/litemedsam_cuda.py OFFICIAL precision RUN [--patients 8]
    python tests/speed/litemedsam_cuda.py OFFICIAL epoch RUN [--epochs 3] [--batch 8]

OFFICIAL is a checkout of github bowang-lab/MedSAM, branch LiteMedSAM; its code runs in a process of its own. RUN is a
run folder: its prepared slices, references, stored boxes and split are used. Every way of computing gets a fresh
process; nothing else may run on the GPU.

`predict`: slices a second from the 8-bit slice to masks on the host ("whole"), from tensor to logits on the device
("network"), and of the encoder alone; medians after three warm-up calls, the device synchronised around each. The
official code takes one slice and one box at a time. `precision`: the same with every precision, and DSC of the masks
against exact float32. `epoch`: the official training script, but for batch and learning rate as its authors run it, and
ours by the study's protocol, on the same (slice, instance) pairs of the training patients, without validation; the
first epoch is warm-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gtvbench.adapters.base import Context
from gtvbench.adapters.litemedsam.checkpoints import load_model
from gtvbench.adapters.litemedsam.inference import Predictor
from gtvbench.adapters.litemedsam.options import ImageOptions, Protocol
from gtvbench.adapters.litemedsam.preprocess import boxes_to_frame, slice_to_frame
from gtvbench.adapters.litemedsam.samples import Samples
from gtvbench.adapters.litemedsam.training import FineTuning
from gtvbench.adapters.litemedsam.zero_shot import ZeroShot
from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.prompts import Prompts, instances_in, policy_from
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.study import weights

Slices = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.int64]

WARM_UP = 3

#: TF32 in matrix products, TF32 in convolutions, precision of our encoder. "default" is what torch starts with.
PRECISIONS = {
    "float32": (False, False, "float32"),
    "default": (False, True, "float32"),
    "tf32": (True, True, "float32"),
    "bfloat16": (False, True, "bfloat16"),
}


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `call` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def synchronise(device: str) -> None:
    """Wait for what was queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: str) -> float:
    """Most memory that tensors took since the last reset, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0


def timed(call: Callable[[], object], rounds: int, device: str) -> tuple[float, float]:
    """Median seconds of a call after warm-up, and peak memory in GB."""
    for _ in range(WARM_UP):
        call()
    synchronise(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), peak_gb(device)


def prompted(run: Path, case: str, fusion: str) -> Iterator[tuple[Slices, Boxes]]:
    """Fused slices of a case with its stored boxes (k, 4), half-open voxels."""
    images = Images(case, run / "cases" / case)
    prompts = Prompts.from_rows(case, json.loads((run / "prompts" / f"{case}.json").read_text()))
    for z in prompts.slices:
        yield images.fused_slice(fusion, z), np.array([prompt.box for prompt in prompts.in_slice(z)], np.int64)


def subset(run: Path, name: str) -> list[str]:
    """Names of the cases of a subset."""
    return sorted(json.loads((run / "split.json").read_text())[name])


def some_slices(run: Path, fusion: str, count: int) -> tuple[Slices, Boxes]:
    """`count` slices of the first test case, from the start again where it has fewer, each with its first box."""
    found = list(prompted(run, subset(run, "test")[0], fusion))
    chosen = [found[number % len(found)] for number in range(count)]
    return np.stack([image for image, _ in chosen]), np.stack([boxes[0] for _, boxes in chosen])


def ours(checkpoint: Path, device: str, precision: str) -> ZeroShot:
    """Our method, loaded, with a row of PRECISIONS set."""
    products, convolutions, encoder = PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions
    options = ImageOptions.model_validate({"backend": "torch", "precision": encoder})
    method = ZeroShot(Context(options, (), "ct-only", ("CT",), device, 0, checkpoint, Path()))
    method.load(None)
    return method


def theirs(folder: Path, checkpoint: Path, scratch: str, device: str) -> dict[str, Any]:
    """Names of the official inference script, run up to its loaded network."""
    sys.path.insert(0, str(folder))
    script = str(folder / "CVPR24_LiteMedSAM_infer.py")
    sys.argv = [script, "-lite_medsam_checkpoint_path", str(checkpoint), "-o", scratch, "-png_save_dir", scratch]
    sys.argv += ["-device", device, "-i", scratch]
    return runpy.run_path(script, run_name="official")


def their_masks(names: dict[str, Any], image: Slices, boxes: Boxes, device: str) -> list[npt.NDArray[np.bool_]]:
    """Masks of half-open boxes, by the steps of the official MedSAM_infer_npz_2D."""
    network = names["medsam_lite_model"]
    small = names["resize_longest_side"](image, 256)
    scaled = (small - small.min()) / np.clip(small.max() - small.min(), a_min=1e-8, a_max=None)
    padded = torch.tensor(names["pad_image"](scaled, 256)).float().permute(2, 0, 1).unsqueeze(0).to(device)
    with torch.no_grad():
        embedding = network.image_encoder(padded)
    masks = []
    for box in boxes[:, [1, 0, 3, 2]] - [0, 0, 1, 1]:
        corners = names["resize_box_to_256"](box, original_size=image.shape[:2])[None]
        mask, _ = names["medsam_inference"](network, embedding, corners, small.shape[:2], image.shape[:2])
        masks.append(mask > 0)
    return masks


def predict_theirs(asked: argparse.Namespace, checkpoint: Path, scratch: str) -> list[dict[str, Any]]:
    """Slice after slice, one and three boxes each."""
    names = theirs(asked.official, checkpoint, scratch, asked.device)
    images, boxes = some_slices(asked.run_folder, asked.fusion, 8)
    rows = []
    for count in (1, 3):

        def whole(count: int = count) -> None:
            for image, box in zip(images, boxes, strict=True):
                their_masks(names, image, np.repeat(box[None], count, axis=0), asked.device)

        seconds, memory = timed(whole, asked.rounds, asked.device)
        rows.append({"who": "official", "batch": 1, "boxes": count, "whole": len(images) / seconds, "gb": memory})
    return rows


def predict_ours(
    asked: argparse.Namespace, checkpoint: Path, precision: str, batches: list[int]
) -> list[dict[str, Any]]:
    """Every batch size, one and three boxes a slice."""
    method = ours(checkpoint, asked.device, precision)
    return [row for batch in batches for row in of_batch(asked, method, f"ours {precision}", batch)]


def of_batch(asked: argparse.Namespace, method: ZeroShot, who: str, batch: int) -> Iterator[dict[str, Any]]:
    """One batch size, one and three boxes a slice."""
    predictor: Predictor = method._ready()
    images, boxes = some_slices(asked.run_folder, asked.fusion, batch)
    options = method.context.options
    framed = torch.from_numpy(np.stack([slice_to_frame(i, options.image_size, options.normalisation) for i in images]))
    framed = framed.to(asked.device)
    for count in (1, 3):
        wanted = [np.repeat(box[None], count, axis=0) for box in boxes]
        embedded = method.encode(images)
        corners = torch.from_numpy(boxes_to_frame(np.concatenate(wanted), embedded.frame)).to(asked.device)
        owners = torch.arange(batch, device=asked.device).repeat_interleave(count)
        del embedded

        def whole(wanted: list[Boxes] = wanted) -> None:
            method.decode(method.encode(images), wanted)

        def network(corners: torch.Tensor = corners, owners: torch.Tensor = owners) -> None:
            predictor.decode(predictor.encode(framed)[owners], corners)

        def encoder() -> None:
            predictor.encode(framed)

        row: dict[str, Any] = {"who": who, "batch": batch, "boxes": count}
        for name, call in (("whole", whole), ("network", network), ("encoder", encoder)):
            seconds, memory = timed(call, asked.rounds, asked.device)
            row |= {name: batch / seconds, f"{name}_gb": memory}
        yield row


def all_masks(asked: argparse.Namespace, checkpoint: Path, precision: str, scratch: str) -> dict[str, Any]:
    """Union of the masks of every prompted slice of the test patients, by case; `precision` "official": theirs."""
    names = theirs(asked.official, checkpoint, scratch, asked.device) if precision == "official" else None
    method = None if names else ours(checkpoint, asked.device, precision)
    found = {}
    for case in subset(asked.run_folder, "test")[: asked.patients]:
        masks = []
        for image, boxes in prompted(asked.run_folder, case, asked.fusion):
            if method is not None:
                (probabilities,) = method.decode(method.encode(image[None]), [boxes])
                masks.append((probabilities > 0.5).any(axis=0))
            else:
                assert names is not None
                masks.append(np.any(their_masks(names, image, boxes, asked.device), axis=0))
        found[case] = np.stack(masks)
    return found


def dsc(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Overlap of two masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def predict(asked: argparse.Namespace, checkpoint: Path, scratch: str) -> Iterator[dict[str, Any]]:
    """Throughput and memory."""
    yield from apart(predict_theirs, asked, checkpoint, scratch)
    yield from apart(predict_ours, asked, checkpoint, "default", asked.batches)


def precision(asked: argparse.Namespace, checkpoint: Path, scratch: str) -> Iterator[dict[str, Any]]:
    """Agreement and throughput of every precision."""
    exact = apart(all_masks, asked, checkpoint, "float32", scratch)
    for name in ("official", *PRECISIONS):
        masks = apart(all_masks, asked, checkpoint, name, scratch)
        agreement = [dsc(exact[case], masks[case]) for case in exact]
        differ = sum(int((exact[case] != masks[case]).sum()) for case in exact)
        row = {"who": name, "dsc_mean": statistics.mean(agreement), "dsc_least": min(agreement), "voxels": differ}
        yield row | {"of": sum(exact[case].size for case in exact)}
    for name in PRECISIONS:
        yield from apart(predict_ours, asked, checkpoint, name, [1, max(asked.batches)])


def training_cases(run: Path) -> list[TrainingCase]:
    """The training patients of a run."""
    return [
        TrainingCase(
            Images(case, run / "cases" / case),
            run / "references" / f"{case}.npy",
            Prompts.from_rows(case, json.loads((run / "prompts" / f"{case}.json").read_text())),
        )
        for case in subset(run, "train")
    ]


def export_pairs(asked: argparse.Namespace, place: Path) -> int:
    """Every (slice, instance) pair as the two files that the official training reads; their number."""
    for name in ("imgs", "gts"):
        (place / name).mkdir(parents=True)
    count = 0
    for case in training_cases(asked.run_folder):
        for z in case.prompts.slices:
            image = case.images.fused_slice(asked.fusion, z)
            values = sorted({prompt.structure for prompt in case.prompts.in_slice(z)})
            for found in instances_in(np.asarray(case.label()[z]), z, [Structure(str(v), v) for v in values]):
                name = f"{case.case}-{z}-{found.structure}-{found.number}.npy"
                np.save(place / "imgs" / name, image)
                np.save(place / "gts" / name, found.mask.astype(np.uint8))
                count += 1
    return count


def epoch_theirs(asked: argparse.Namespace, checkpoint: Path, scratch: str) -> list[dict[str, Any]]:
    """The official script, with a line added that prints seconds and memory; newer MONAI wants a float target."""
    place = Path(scratch)
    pairs = export_pairs(asked, place / "npy")
    text = (asked.official / "train_one_gpu.py").read_text()
    end, loss = "    epoch_end_time = time()\n", "seg_loss(logits_pred, gt2D)"
    assert end in text and loss in text
    told = 'print("EPOCH", epoch_end_time - epoch_start_time, torch.cuda.max_memory_allocated())'
    script = place / "train.py"
    script.write_text(text.replace(end, f"{end}    {told}\n").replace(loss, "seg_loss(logits_pred, gt2D.float())"))
    command = [sys.executable, str(script), "-data_root", str(place / "npy"), "-pretrained_checkpoint", str(checkpoint),
               "-work_dir", str(place / "work"), "-num_epochs", str(asked.epochs + 2), "-batch_size", str(asked.batch),
               "-lr", "3e-4", "-device", asked.device, "-num_workers", str(min(8, os.cpu_count() or 1))]  # fmt: skip
    path = os.pathsep.join([str(asked.official), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=place, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    found = [(float(a), int(b)) for a, b in re.findall(r"EPOCH (\S+) (\d+)", done.stdout)][1:]
    seconds = statistics.median(one for one, _ in found)
    return [{"who": "official", "pairs": pairs, "seconds": seconds, "rate": pairs / seconds, "gb": found[-1][1] / 1e9}]


def epoch_ours(asked: argparse.Namespace, checkpoint: Path, scratch: str, amp: bool) -> list[dict[str, Any]]:
    """Our fine-tuning without validation cases, and its batches prepared alone."""
    torch.manual_seed(0)
    model, _ = load_model(checkpoint)
    training, validation = (
        Samples(cases, asked.fusion, 256, "min-max", asked.batch) for cases in (training_cases(asked.run_folder), [])
    )
    protocol = Protocol(epochs=asked.epochs + 1, batch=asked.batch, amp=amp)
    folder = Path(scratch) / f"ours-{amp}"
    device = torch.device(asked.device)
    tuning = FineTuning(model, training, validation, protocol, folder=folder, seed=0, device=device)
    spans: list[float] = []
    whole_epoch = tuning._train_epoch

    def measured() -> None:
        start = time.perf_counter()
        whole_epoch()  # ends with the last loss on the host
        spans.append(time.perf_counter() - start)

    tuning._train_epoch = measured  # type: ignore[method-assign]  # without validation and checkpoints, as theirs
    times = [time.perf_counter()]
    tuning.run(lambda *_: times.append(time.perf_counter()))
    seconds = statistics.median(spans[1:])
    pairs = sum(len(one.prompts) for one in training.slices())
    margins, start = policy_from(protocol.margins), time.perf_counter()
    for slices in training.plan("alone"):
        training.redrawn(slices, margins, flips=True, names=("alone",))
    row = {"who": f"ours {'float16' if amp else 'float32'}", "pairs": pairs, "slices": len(training.slices())}
    row |= {"seconds": seconds, "rate": pairs / seconds, "gb": peak_gb(asked.device)}
    row |= {"batches_alone": time.perf_counter() - start, "with_checkpoints": np.diff(times).round(2).tolist()}
    return [row]


def epoch(asked: argparse.Namespace, checkpoint: Path, scratch: str) -> Iterator[dict[str, Any]]:
    """An epoch of both."""
    yield from apart(epoch_theirs, asked, checkpoint, scratch)
    for amp in (True, False):
        yield from apart(epoch_ours, asked, checkpoint, scratch, amp)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("what", choices=["predict", "precision", "epoch"])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--weights", type=Path, help="lite_medsam.pth; by default where `bench weights` finds it")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fusion", default="ct-only")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    asked.official, asked.run_folder = asked.official.resolve(), asked.run_folder.resolve()
    checkpoint = (asked.weights or weights.locate("lite_medsam.pth").path).resolve()
    if asked.device == "cuda":
        print(torch.cuda.get_device_name(), torch.__version__)
    with tempfile.TemporaryDirectory() as scratch:
        measure = {"predict": predict, "precision": precision, "epoch": epoch}[asked.what]
        for row in measure(asked, checkpoint, scratch):
            print(json.dumps({name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
