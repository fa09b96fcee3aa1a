"""BatchNorm over the batch of all ranks of a fit; torch's own, SyncBatchNorm, has no CPU and counts every image."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of the images (B, C, H, W) of every rank, in float32.

    A rank that has no image of its own passes any through with `counted` False: they are normalised, but no statistic
    knows of them. In eval mode, and in what it stores, it is BatchNorm2d.
    """

    counted: bool = True
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, images: Tensor) -> Tensor:
        """Normalise; every rank must call it, for the ranks exchange sums, here and in the backward pass."""
        if not self.training:
            return super().forward(images)
        shift = self.running_mean.clone()  # near the mean, so that the difference of squares below keeps its digits
        with torch.no_grad():
            moved = images.float() - _wide(shift)
            number = torch.full_like(shift, moved[:, 0].numel())
            sums = torch.stack([moved.sum((0, 2, 3)), moved.square().sum((0, 2, 3)), number]) * self.counted
            dist.all_reduce(sums)
            count, mean = sums[2], sums[0] / sums[2]
            variance = (sums[1] / count - mean.square()).clamp(min=0)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean + shift, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
            scale = (variance + self.eps).rsqrt()
        return _Normalise.apply(images, self.weight, self.bias, mean + shift, scale, count, self.counted)  # type: ignore[no-any-return]


def use_global_batch_norm(model: nn.Module) -> list[GlobalBatchNorm2d]:
    """Turn every BatchNorm2d of `model` into a global one, with its weights and under its name; return them."""
    found = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    for module in found:
        module.__class__ = GlobalBatchNorm2d
    return [module for module in model.modules() if isinstance(module, GlobalBatchNorm2d)]


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


class _Normalise(torch.autograd.Function):
    """(images - mean) * scale * weight + bias, where mean and scale (C,) depend on the counted images of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        scale: Tensor,
        count: Tensor,
        counted: bool,
    ) -> Tensor:
        ctx.save_for_backward(images, weight, mean, scale, count)
        ctx.counted = counted
        return ((images.float() - _wide(mean)) * _wide(scale * weight) + _wide(bias)).to(images.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        wide, normal = gradient.float(), (images.float() - _wide(mean)) * _wide(scale)
        of_bias, of_weight = wide.sum((0, 2, 3)), (wide * normal).sum((0, 2, 3))
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        if ctx.counted:
            wide = wide - _wide(sums[0] / count) - normal * _wide(sums[1] / count)
        return (wide * _wide(scale * weight)).to(images.dtype), of_weight, of_bias, None, None, None, None
