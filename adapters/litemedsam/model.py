"""LiteMedSAM as a module: timm's TinyViT with three edits, segment-anything's prompt encoder and mask decoder.

Architecture: Ma et al., LiteMedSAM (github bowang-lab/MedSAM, branch LiteMedSAM, Apache-2.0), which is MobileSAM's
TinyViT-5M with an image encoder that keeps a quarter of the resolution. Nothing of either repository is copied here.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from gtvbench.bench.core.errors import BenchError

Stem = Literal["lite", "mobile"]
"""The patch embedding: ``lite`` keeps the resolution (LiteMedSAM), ``mobile`` divides it by 4 (MobileSAM)."""

EMBEDDING_CHANNELS = 256


def embedding_stride(stem: Stem) -> int:
    """Pixels of the model's frame per side of one embedding cell."""
    return 4 if stem == "lite" else 16


class LiteMedSAM(nn.Module):
    """The whole network at one square frame size.

    Args:
        image_size: side S of the square frame in pixels; the published model uses 256. TinyViT's windows pad
            themselves, so S need only be a multiple of the embedding stride.
        stem: which patch embedding to build.

    Raises:
        BenchError: S is not a positive multiple of the embedding stride.
    """

    image_encoder: Any
    prompt_encoder: Any
    mask_decoder: Any

    def __init__(self, image_size: int = 256, stem: Stem = "lite") -> None:
        super().__init__()
        stride = embedding_stride(stem)
        if image_size < 2 * stride or image_size % stride:
            raise BenchError(
                f"LiteMedSAM: image_size {image_size} is not usable; "
                f"choose a multiple of {stride} that is at least {2 * stride} (published: 256)."
            )
        self.image_size = image_size
        self.stem: Stem = stem
        side = image_size // stride
        self.image_encoder = _tiny_vit(stem)
        self.neck = nn.Sequential(
            nn.Conv2d(320, EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBEDDING_CHANNELS,
            image_embedding_size=(side, side),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING_CHANNELS, mlp_dim=2048, num_heads=8),
            transformer_dim=EMBEDDING_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Embed padded slices.

        Args:
            images: (B, 3, S, S) float in [0, 1].

        Returns:
            (B, 256, S/stride, S/stride) embeddings; one serves any number of boxes.
        """
        features = self.image_encoder.forward_features(images)
        return cast(Tensor, self.neck(features))

    def decode(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Segment one box per embedding, all in one batch.

        segment-anything's ``MaskDecoder.predict_masks`` repeats every image once per prompt, so N images with N
        boxes fail there; this is the same computation with one embedding per box and only the single-mask token.

        Args:
            embeddings: (N, 256, s, s), the embedding of each box's slice.
            boxes: (N, 4) x0, y0, x1, y1 in pixels of the padded S-frame.

        Returns:
            Logits (N, 1, S, S) and the predicted intersection over union (N, 1).
        """
        decoder = self.mask_decoder
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes, masks=None)
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
        tokens = torch.cat([output_tokens.expand(len(boxes), -1, -1), sparse], dim=1)
        source = embeddings + dense
        position = self.prompt_encoder.get_dense_pe().expand_as(source)
        hidden, attended = decoder.transformer(source, position, tokens)
        upscaled = decoder.output_upscaling(attended.transpose(1, 2).reshape(source.shape))
        kernel = decoder.output_hypernetworks_mlps[0](hidden[:, 1])
        logits = torch.einsum("nc,nchw->nhw", kernel, upscaled)[:, None]
        if logits.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        iou = decoder.iou_prediction_head(hidden[:, 0])[:, :1]
        return logits, cast(Tensor, iou)

    def forward(self, images: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``images`` (B, 3, S, S) once and decode ``boxes`` (N, 4), box i on image ``owners[i]``."""
        return self.decode(self.encode(images)[owners], boxes)


def forget_cached_biases(module: nn.Module) -> None:
    """Drop the attention biases that timm caches in eval mode; needed after weights changed under an eval model."""
    training = module.training
    module.train(not training)  # timm clears its cache in train(mode), whichever the mode
    module.train(training)


def _tiny_vit(stem: Stem) -> nn.Module:
    encoder = TinyVit(
        num_classes=0,
        global_pool="",
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        drop_path_rate=0.0,
    )
    if stem == "lite":
        encoder.patch_embed.conv1.conv = nn.Conv2d(3, 32, 1, bias=False)
        encoder.patch_embed.conv2.conv = nn.Conv2d(32, 64, 1, bias=False)
    encoder.stages[3].downsample.conv2.conv.stride = (1, 1)
    encoder.head = nn.Identity()
    return cast(nn.Module, encoder)
