"""gtvbench's LiteMedSAM against the official inference: the same weights, slices and boxes.

    python tests/speed/litemedsam_parity.py OFFICIAL masks RUN [--patients 3] [--fusion ct-only]
    python tests/speed/litemedsam_parity.py OFFICIAL speed RUN [--rounds 9]

OFFICIAL is a checkout of github bowang-lab/MedSAM, branch LiteMedSAM; its script runs in a process of its own, beside
ours. RUN is a run folder: its prepared slices and stored boxes are used. `masks` compares label maps voxel by voxel,
for every backend and precision that this machine has. `speed` times one slice with one and with three boxes, in turn
within every round, and compares medians; run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gtvbench.adapters.base import Context
from gtvbench.adapters.litemedsam.inference import computes_bfloat16
from gtvbench.adapters.litemedsam.options import ImageOptions
from gtvbench.adapters.litemedsam.zero_shot import ZeroShot
from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.study import weights

Masks = list[npt.NDArray[np.bool_]]


def official(folder: str, checkpoint: str, scratch: str, pipe: Connection) -> None:
    """The other process: their script's own functions, asked through a pipe with (slice, boxes); masks and seconds."""
    sys.path.insert(0, folder)
    script = str(Path(folder) / "CVPR24_LiteMedSAM_infer.py")
    sys.argv = [script, "-lite_medsam_checkpoint_path", checkpoint, "-o", scratch, "-png_save_dir", scratch]
    theirs = runpy.run_path(script, run_name="official")
    network = theirs["medsam_lite_model"]
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        image, boxes = asked
        start = time.perf_counter()
        small = theirs["resize_longest_side"](image, 256)
        scaled = (small - small.min()) / np.clip(small.max() - small.min(), a_min=1e-8, a_max=None)
        framed = torch.tensor(theirs["pad_image"](scaled, 256)).float().permute(2, 0, 1).unsqueeze(0)
        with torch.no_grad():
            embedding = network.image_encoder(framed)
        masks = []
        for box in boxes:
            corners = theirs["resize_box_to_256"](box, original_size=image.shape[:2])[None]
            mask, _ = theirs["medsam_inference"](network, embedding, corners, small.shape[:2], image.shape[:2])
            masks.append(mask > 0)
        pipe.send((masks, time.perf_counter() - start))


class Official:
    """Their inference behind a pipe."""

    def __init__(self, folder: Path, checkpoint: Path, scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (str(folder.resolve()), str(checkpoint), str(scratch), other)
        self.process = context.Process(target=official, args=arguments, daemon=True)
        self.process.start()
        assert self.pipe.recv() == "ready"

    def __call__(self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.int64]) -> tuple[Masks, float]:
        """Masks of half-open boxes (k, 4) y0 x0 y1 x1, given to them as x0 y0 x1 y1 with the last pixel's index."""
        self.pipe.send((image, boxes[:, [1, 0, 3, 2]] - [0, 0, 1, 1]))
        answer: tuple[Masks, float] = self.pipe.recv()
        return answer


def ours(checkpoint: Path, **options: Any) -> ZeroShot:
    """Our method, loaded."""
    context = Context(ImageOptions(**options), (), "ct-only", ("CT",), "cpu", 0, checkpoint, Path())
    method = ZeroShot(context)
    method.load(None)
    return method


def timed(method: ZeroShot, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.int64]) -> tuple[Masks, float]:
    """Our masks, and the seconds from slice to masks."""
    start = time.perf_counter()
    (probabilities,) = method.decode(method.encode(image[None]), [boxes])
    masks = [probability > 0.5 for probability in probabilities]
    return masks, time.perf_counter() - start


def slices_of(run: Path, case: str, fusion: str) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Fused slices of a case with its stored boxes (k, 4), half-open voxels."""
    images = Images(case, run / "cases" / case)
    prompts = Prompts.from_rows(case, json.loads((run / "prompts" / f"{case}.json").read_text()))
    for z in prompts.slices:
        yield images.fused_slice(fusion, z), np.array([prompt.box for prompt in prompts.in_slice(z)], np.int64)


def variants() -> dict[str, dict[str, Any]]:
    """What this machine can compute the encoder with."""
    found: dict[str, dict[str, Any]] = {"torch": {"backend": "torch"}, "openvino": {"backend": "openvino"}}
    rough = {"backend": "openvino", "precision": "bfloat16"}
    if computes_bfloat16():
        found["openvino bfloat16"] = rough
    return found


def compare_masks(asked: argparse.Namespace, theirs: Official, checkpoint: Path) -> None:
    """Print, for each patient and variant, differing voxels and DSC of the two label maps."""
    methods = {name: ours(checkpoint, **options) for name, options in variants().items()}
    for folder in sorted((asked.run_folder / "cases").iterdir())[: asked.patients]:
        counts = {name: [0, 0, 0] for name in methods}
        voxels = prompted = 0
        for image, boxes in slices_of(asked.run_folder, folder.name, asked.fusion):
            expected = np.any(theirs(image, boxes)[0], axis=0)
            voxels += expected.size
            prompted += 1
            for name, method in methods.items():
                mask = np.any(timed(method, image, boxes)[0], axis=0)
                for place, value in enumerate((mask != expected, mask & expected, mask)):
                    counts[name][place] += int(np.count_nonzero(value))
                counts[name][2] += int(np.count_nonzero(expected))
        for name, (differ, both, total) in counts.items():
            print(
                f"{folder.name} {asked.fusion} {prompted} slices  {name:18} {differ} of {voxels} voxels differ, "
                f"DSC {2 * both / total:.6f}"
            )


def compare_speed(asked: argparse.Namespace, theirs: Official, checkpoint: Path) -> None:
    """Print medians and ratios."""
    case = sorted((asked.run_folder / "cases").iterdir())[0].name
    image, boxes = next(iter(slices_of(asked.run_folder, case, asked.fusion)))
    methods = {name: ours(checkpoint, **options) for name, options in variants().items()}
    for count in (1, 3):
        wanted = np.repeat(boxes[:1], count, axis=0)
        seconds: dict[str, list[float]] = {name: [] for name in ("official", *methods)}
        for number in range(asked.rounds + 2):
            for name in seconds:
                taken = (theirs(image, wanted) if name == "official" else timed(methods[name], image, wanted))[1]
                if number >= 2:
                    seconds[name].append(taken)
        for name, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(seconds["official"], values, strict=True))
            print(f"{count} boxes  {name:18} {1000 * statistics.median(values):8.1f} ms  {ratio:.2f}x")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("what", choices=["masks", "speed"])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--fusion", default="ct-only")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    checkpoint = weights.locate("lite_medsam.pth").path
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Official(asked.official, checkpoint, Path(scratch))
        (compare_masks if asked.what == "masks" else compare_speed)(asked, theirs, checkpoint)
        theirs.pipe.send(None)
        theirs.process.join()


if __name__ == "__main__":
    main()
