"""Reading and writing LiteMedSAM weights: the official flat file and its relatives, never a pickle that can run code.

The key map between the published state dict and timm's TinyViT was read in github bowang-lab/MedSAM, branch
LiteMedSAM, commit b0fab47 (Apache-2.0): 292 encoder keys map one to one, the neck has six, the rest is SAM's own.
"""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from gtvbench.adapters.litemedsam.model import LiteMedSAM, Stem, forget_cached_biases
from gtvbench.bench.core.errors import WeightsError

_log = logging.getLogger(__name__)

_RENAMES = (
    (r"^image_encoder\.neck\.", "neck."),
    (r"^image_encoder\.patch_embed\.seq\.0\.", "image_encoder.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "image_encoder.patch_embed.conv2."),
    (r"^image_encoder\.layers\.", "image_encoder.stages."),
)
_DOWNSAMPLE = re.compile(r"^image_encoder\.stages\.(\d)\.downsample\.")
_CONV = re.compile(r"^(image_encoder\..*\b(?:conv\d|local_conv))\.c\.")
_VIT = {768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H"}  # by the width of the image encoder
_DROPPED = ("image_encoder.norm_head.", "image_encoder.head.")  # MobileSAM files only: the classifier's


def our_key(official: str) -> str:
    """The name in `LiteMedSAM` of an official key."""
    key = official
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    key = _DOWNSAMPLE.sub(lambda found: f"image_encoder.stages.{int(found[1]) + 1}.downsample.", key)
    return _CONV.sub(r"\1.conv.", key)


def flat_state(model: LiteMedSAM) -> dict[str, Tensor]:
    """The model's state dict under the official names (435 keys for the lite stem)."""
    state = model.state_dict()
    return {official: state[ours] for official, ours in _official_names(model).items()}


def save_flat(model: LiteMedSAM, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``model`` atomically as safetensors under the official names, floats as ``dtype``."""
    tensors = {
        key: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().clone()
        for key, value in flat_state(model).items()
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(tensors))  # save_file would make it readable by its owner alone
    partial.replace(path)


def load_model(path: Path, *, image_size: int = 256) -> tuple[LiteMedSAM, Stem]:
    """Build a model in eval mode from a weights file.

    Args:
        path: ``.pth``/``.pt`` (read with ``weights_only=True``) or ``.safetensors``; official flat names, optionally
            wrapped in ``{"model": ...}`` and prefixed with ``module.``.
        image_size: side of the model's frame in pixels.

    Returns:
        The model in float32 and the patch embedding that the file has.

    Raises:
        WeightsError: unreadable, unsafe, truncated, or another model's; the first differing keys are named.
    """
    state = normalise_keys(read_tensors(path))
    stem = _stem(state)
    model = LiteMedSAM(image_size, stem)
    load_state(model, state, path)
    return model.eval(), stem


def load_state(model: LiteMedSAM, state: dict[str, Tensor], path: Path) -> None:
    """Load official-named ``state`` into ``model`` strictly; ``path`` is for the error's text."""
    names = _official_names(model)
    expected = model.state_dict()
    _refuse_other_kinds(state, path)
    missing = [key for key in names if key not in state]
    foreign = [key for key in state if key not in names]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[ours].shape)}"
        for key, ours in names.items()
        if key in state and state[key].shape != expected[ours].shape
    ]
    differences = [
        f"{title}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for title, keys in (("missing", missing), ("not known", foreign), ("other shape", shapes))
        if keys
    ]
    if differences:
        raise WeightsError(
            "These are not LiteMedSAM weights. " + "; ".join(differences) + ".",
            file=path,
            remedy="name lite_medsam.pth, a checkpoint fine-tuned from it, or mobile_sam.pt; see `bench weights`",
        )
    bad = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise WeightsError(
            f"The weights hold NaN or infinite values: {', '.join(bad[:3])}.",
            file=path,
            remedy="take another checkpoint; this one's training diverged or the file is damaged",
        )
    model.load_state_dict({ours: state[key].to(expected[ours].dtype) for key, ours in names.items()})
    forget_cached_biases(model)


def _refuse_other_kinds(state: dict[str, Tensor], path: Path) -> None:
    """Say what a file is that is often taken for LiteMedSAM's."""
    remedy = "name lite_medsam.pth; see `bench weights`"
    position = state.get("image_encoder.pos_embed")
    if position is not None:
        kind = _VIT.get(position.shape[-1], "another ViT")
        raise WeightsError(
            f"This is a checkpoint of SAM or MedSAM ({kind}), not of LiteMedSAM.", file=path, remedy=remedy
        )
    whole = [key for key, value in state.items() if key.endswith("weight") and not value.is_floating_point()]
    if whole:
        raise WeightsError(
            f"The weights are quantised to {str(state[whole[0]].dtype).removeprefix('torch.')} ({whole[0]}).",
            file=path,
            remedy=remedy,
        )
    if any(value.dtype in (torch.float16, torch.bfloat16) for value in state.values()):
        _log.warning("%s holds weights in half precision; they are computed with as they are, rounded", path.name)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without ever running code that the file holds.

    Raises:
        WeightsError: missing, truncated, of an unknown kind, or a pickle with anything but tensors in it.
    """
    if not path.is_file():
        raise WeightsError("The weights file does not exist.", file=path, remedy="see `bench weights`")
    content: object
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in {".pth", ".pt"}:
        content = _read_pickle(path)
    else:
        raise WeightsError(
            f"Weights of the kind '{path.suffix}' cannot be read safely.",
            file=path,
            remedy="use .safetensors, .pth or .pt",
        )
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError("The file holds no state dict.", file=path, remedy="name a file of weights")
    strangers = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(
            f"The file holds more than tensors: {', '.join(strangers[:3])}.",
            file=path,
            remedy="name a state dict, flat or under 'model'",
        )
    return {str(key): value for key, value in content.items()}


def normalise_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip ``module.`` and drop MobileSAM's classifier and the derived indices that some files carry."""
    stripped = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key: value
        for key, value in stripped.items()
        if not key.startswith(_DROPPED) and not key.endswith("attention_bias_idxs")
    }


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"The file is no complete safetensors file: {error}",
            file=path,
            remedy="copy or download it again",
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise WeightsError(
                "The file wants to run code when it is opened and was not opened: " + _first_line(error),
                file=path,
                remedy="take the weights from their official source, or convert them to .safetensors yourself",
            ) from error
        damaged = "" if zipfile.is_zipfile(path) else " (it is no complete archive)"
        raise WeightsError(
            f"The file cannot be read as PyTorch weights{damaged}: {_first_line(error)}",
            file=path,
            remedy="copy or download it again; `bench weights` verifies it",
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _stem(state: dict[str, Tensor]) -> Stem:
    first = state.get("image_encoder.patch_embed.seq.0.c.weight")
    return "mobile" if first is not None and first.ndim == 4 and first.shape[-1] == 3 else "lite"


def _official_names(model: LiteMedSAM) -> dict[str, str]:
    """Official key -> our key, in our order."""
    return {_official_key(ours): ours for ours in model.state_dict()}


def _official_key(ours: str) -> str:
    """The inverse of `our_key`."""
    if not ours.startswith(("image_encoder.", "neck.")):
        return ours
    key = re.sub(r"^neck\.", "image_encoder.neck.", ours)
    key = re.sub(r"^image_encoder\.stages\.(\d)\.downsample\.", _one_back, key)
    key = key.replace("image_encoder.stages.", "image_encoder.layers.")
    key = key.replace("patch_embed.conv1.", "patch_embed.seq.0.").replace("patch_embed.conv2.", "patch_embed.seq.2.")
    return re.sub(r"\.conv\.(?=weight)", ".c.", key)


def _one_back(found: re.Match[str]) -> str:
    return f"image_encoder.stages.{int(found[1]) - 1}.downsample."
