"""LiteMedSAM ready to predict: in OpenVINO on a CPU, in PyTorch elsewhere, with the same masks."""

from __future__ import annotations

import functools
import hashlib
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gtvbench.adapters.litemedsam.model import EMBEDDING_CHANNELS, LiteMedSAM, embedding_stride
from gtvbench.adapters.litemedsam.options import Backend, Precision
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.study.weights import cache_folder

if TYPE_CHECKING:
    from openvino import CompiledModel

_log = logging.getLogger(__name__)

_CONVERSIONS_KEPT = 16
"""Converted networks in the cache, 14 to 26 MB each; the one that was not used for the longest time goes first."""


class Predictor:
    """A network in eval mode on `device`, which it takes over: encode slices, decode boxes, without gradients.

    Args:
        model: the network; moved to `device`.
        device: where to run.
        precision: of the encoder; the decoder always computes in float32.
        backend: `openvino` (CPU only), `torch`, or `auto`: OpenVINO on a CPU, PyTorch elsewhere.

    Raises:
        StudyError: OpenVINO was asked for on another device than the CPU.
    """

    def __init__(
        self, model: LiteMedSAM, device: torch.device, precision: Precision = "float32", backend: Backend = "auto"
    ) -> None:
        if backend == "openvino" and device.type != "cpu":
            raise StudyError(f"backend openvino does not run on {device.type}", remedy="use backend: auto")
        self.device = device
        # Through train mode: timm caches attention biases in eval mode, and a change of weights leaves them stale.
        self.model = model.to(device).train().eval().requires_grad_(False)
        self.precision = precision
        self._encoder = self._decoder = None
        if backend == "openvino" or (backend == "auto" and device.type == "cpu"):
            cells = model.image_size // embedding_stride(model.stem)
            slices, embeddings = (
                torch.zeros(1, *shape)
                for shape in ((3, model.image_size, model.image_size), (EMBEDDING_CHANNELS, cells, cells))
            )
            self._encoder = _compiled(_Encoder(model), (slices,), precision)
            self._decoder = _compiled(_Decoder(model), (embeddings, torch.zeros(1, 4)), "float32")

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (B, 256, S/stride, S/stride), float32 on the device, of padded slices (B, 3, S, S)."""
        if self._encoder is not None:
            return _one_by_one(self._encoder, images)[0]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model.encode(images.to(self.device)).float()

    @torch.inference_mode()
    def decode(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, S, S) and predicted IoU (N, 1) of boxes (N, 4) in the frame, one embedding per box."""
        if self._decoder is not None:
            logits, iou = _one_by_one(self._decoder, embeddings, boxes)
            return logits, iou
        return self.model.decode(embeddings.to(self.device), boxes.to(self.device))


def _one_by_one(compiled: CompiledModel, *batches: Tensor) -> list[Tensor]:
    """Outputs of a compiled network, item after item: a batch is no faster on a CPU, and a fixed shape is."""
    rows = [
        [found.copy() for found in compiled([item[None].contiguous().numpy() for item in items]).values()]
        for items in zip(*batches, strict=True)
    ]
    return [torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True)]


class _Encoder(nn.Module):
    """The encoder and its neck alone, as OpenVINO's conversion traces them."""

    def __init__(self, model: LiteMedSAM) -> None:
        super().__init__()
        self.image_encoder, self.neck = model.image_encoder, model.neck
        self.forward = model.encode


class _Decoder(nn.Module):
    """Prompt encoder and mask decoder alone, for one box."""

    def __init__(self, model: LiteMedSAM) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = model.prompt_encoder, model.mask_decoder
        self.forward = model.decode


def quiet_openvino() -> Any:
    """The package openvino without its telemetry, which reports every import and conversion to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails, as foreseen there
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    """The one `openvino.Core` of this process, never let go of.

    On processors with AMX each Core hands the thread an alternate signal stack of its own. Where two of them live and
    end, the thread is left with one that was freed, and the next signal (Ctrl-C) ends the process with SIGSEGV: seen
    with OpenVINO 2026.4.1.
    """
    return quiet_openvino().Core()


def computes_bfloat16() -> bool:
    """Whether this processor has units for bfloat16 (AMX, AVX-512), so that it is faster there."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compiled(part: nn.Module, example: tuple[Tensor, ...], precision: Precision) -> CompiledModel:
    # OpenVINO would compute in bfloat16 by itself where the processor can; here the study file decides.
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32", "PERFORMANCE_HINT": "LATENCY"}
    kept = _conversion(part, example)
    network = _converted(part, example) if kept is None else _core().read_model(kept)
    return _core().compile_model(network, "CPU", settings)


def _conversion(part: nn.Module, example: tuple[Tensor, ...]) -> Path | None:
    """The converted network in the cache, converted now where it is not there; None where nothing can be kept."""
    openvino = quiet_openvino()
    folder = cache_folder() / "openvino"
    kept = folder / _digest(part, example, openvino.__version__) / "network.xml"
    try:
        if not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as partial:
                new = Path(partial) / "new"
                openvino.save_model(_converted(part, example), new / kept.name, compress_to_fp16=False)
                if not kept.is_file():  # another process may have been quicker
                    new.replace(kept.parent)
        kept.parent.touch()
        others = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime)
        for old in others[:-_CONVERSIONS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if kept.is_file():
            return kept
        _log.warning("the converted network cannot be kept in %s (%s); it is converted again each time", folder, error)
        return None
    return kept


def _converted(part: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """A part of the network as an OpenVINO model for one slice or box."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer: sides of windows become constants, as they may at a fixed size
        return quiet_openvino().convert_model(
            part.eval(), example_input=example, input=[list(tensor.shape) for tensor in example]
        )


def _digest(part: nn.Module, example: tuple[Tensor, ...], version: str) -> str:
    """Identity of a part's weights and of what converts them."""
    found = hashlib.sha256(f"1 {version} {[tuple(tensor.shape) for tensor in example]}".encode())
    for name, tensor in part.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
