"""From losses to new weights: mixed precision, the mean over all processes, clipping, the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from transfer.runtime.world import ALONE, World

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TransferOptimWrapper(OptimWrapper):  # type: ignore[misc]  # mmengine is untyped
    """mmengine's optimiser wrapper for one or several processes, in full or mixed precision, on CPUs and GPUs.

    mmengine's own for mixed precision refuses CPUs, and its gradients are averaged by a wrapper around the model (see
    `World.add_up` for why not here).

    Args:
        amp: "off", "bf16", or "fp16", which scales losses.
        device: where the model is: "cpu" or "cuda".
        world: the processes whose gradients are averaged.
        options: see `mmengine.optim.OptimWrapper`.
    """

    def __init__(self, *, amp: str = "off", device: str = "cpu", world: World = ALONE, **options: Any) -> None:
        super().__init__(**options)
        self.amp, self.world = amp, world
        self.device_type = torch.device(device).type
        self.scaler = GradScaler(self.device_type, enabled=amp == "fp16")

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Around the forward pass."""
        with super().optim_context(model), torch.autocast(self.device_type, TYPES.get(self.amp), self.amp != "off"):
            yield

    def backward(self, loss: Tensor, **options: Any) -> None:
        """The gradients of this process's loss."""
        super().backward(self.scaler.scale(loss), **options)

    def step(self, **options: Any) -> None:
        """The same step on all processes; one that has infinite gradients makes all of them leave it out in fp16."""
        if self.world.size > 1:
            self._average()
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **options)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and loss scale."""
        return {"optimizer": super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        super().load_state_dict(state_dict["optimizer"])
        if self.amp == "fp16":
            self.scaler.load_state_dict(state_dict["scaler"])

    def _average(self) -> None:
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        trained = [parameter for parameter in trained if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # not used by this process's images, perhaps by another's
                parameter.grad = torch.zeros_like(parameter)
        self.world.average([parameter.grad for parameter in trained])


def keep_full_precision(model: Any) -> None:
    """Let mixed precision stop at the heads' outputs and at the regions' features.

    mmdet makes anchors and regions of the type of the features beside them; bf16 knows numbers above 256 to the next
    even one, above 512 to the next multiple of 4 only.
    """
    names = ("rpn_head", "bbox_head", "roi_head.bbox_head", "roi_head.mask_head")
    inside = dict(model.named_modules())
    for name in names:
        if name in inside:
            inside[name].register_forward_hook(lambda module, arguments, output: _float(output))
    for name in ("roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor"):
        if name in inside:
            inside[name].register_forward_pre_hook(lambda module, given: (_float(given[0]), *given[1:]))


def _float(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else tuple(_float(part) for part in output)


OPTIM_WRAPPERS.register_module(module=TransferOptimWrapper, force=True)
