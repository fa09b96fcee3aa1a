"""Faster inference, same outputs: folded batch normalisation, channels-last memory, fused attention."""

from __future__ import annotations

import copy

import torch
from timm.models.tiny_vit import Attention, ConvNorm
from torch import Tensor, nn

from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.options import Precision


class FastLiteMedSAM:
    """A LiteMedSAM prepared for prediction: its own folded copy of the weights, in eval mode, without gradients.

    Args:
        model: the network; left as it is.
        device: where to run.
        precision: of the encoder.
        fold: fold batch normalisation into the convolutions before it (outputs equal to rounding).
    """

    def __init__(
        self, model: LiteMedSAM, device: torch.device, precision: Precision = "float32", *, fold: bool = True
    ) -> None:
        # CPU first: folding creates new layers there. A copy made in train mode carries no cached attention biases.
        ready = copy.deepcopy(model).cpu().train().eval().requires_grad_(False)
        if fold:
            fold_batch_norm(ready.image_encoder)
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        ready.image_encoder.to(self.dtype)
        ready.neck.to(self.dtype)
        self.device = device
        self.model = ready.to(device).to(memory_format=torch.channels_last)
        cache_biases_for_fused_attention(self.model)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (B, 256, S/stride, S/stride), float32, of padded slices (B, 3, S, S)."""
        ready = images.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = self.model.encode(ready)
        return embeddings.float()

    @torch.inference_mode()
    def decode(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, S, S) and predicted IoU (N, 1) of boxes (N, 4) in the frame, one embedding per box."""
        logits, iou = self.model.decode(embeddings, boxes.to(self.device))
        return logits, iou


def fold_batch_norm(module: nn.Module) -> None:
    """Replace every convolution with batch normalisation under ``module`` by one convolution, in place (eval only)."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.fuse())
        else:
            fold_batch_norm(child)


def cache_biases_for_fused_attention(module: nn.Module) -> None:
    """Fill timm's cache of attention biases (heads, n, n) with the same values as (1, heads, n, n), in eval mode.

    PyTorch's fused CPU attention takes masks of two or four dimensions only and computes step by step for three. timm
    empties the cache in train() and in to(), so a change of the module is safe, only slower.
    """
    for attention in module.modules():
        if isinstance(attention, Attention):
            biases = attention.attention_biases[:, attention.attention_bias_idxs][None]
            attention.attention_bias_cache[str(biases.device)] = biases.contiguous()
