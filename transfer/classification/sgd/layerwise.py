"""A transformer and its classifier, fine-tuned with a rate for every block (He et al., CVPR 2022, arXiv 2111.06377).

Facts taken from facebookresearch/mae: main_finetune.py, engine_finetune.py, util/lr_decay.py, models_vit.py, after
BEiT's. Mixing, erasing and augmenting images are timm's, as there. Everything random of a step is drawn from the seed
and its number, so a training that was killed goes on with the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer.checkpoints.backbone import Backbone, Dropped
from transfer.checkpoints.families import family_of
from transfer.classification.sgd.data import Batch
from transfer.classification.sgd.layerwise_recipe import LayerwiseRecipe, demand_transformer
from transfer.classification.sgd.learners import FineTuned, NetworkLearner
from transfer.classification.sgd.seeds import drawn_by
from transfer.classification.views import to_network
from transfer.runtime.errors import Diverged
from transfer.runtime.world import World

HEAD_SCALE = 2e-5  # of the classifier's weights: main_finetune.py, trunc_normal_(model.head.weight, std=2e-5)
UNDECAYED = ("pos_embed", "cls_token", "reg_token")  # timm: vision_transformer.py, no_weight_decay


def pooled(backbone: Backbone, pooling: str) -> Backbone:
    """The backbone as it is fine-tuned: with "patches" the norm comes behind their average and starts anew.

    Raises:
        UserError: its family is not fine-tuned so, or it has no CLS token that is asked for.
    """
    demand_transformer(backbone.arch, pooling)
    from transfer.checkpoints.families.vit import vit_of

    vit = vit_of(backbone.arch)
    if pooling == "cls" or vit.norm == "pooled":
        return backbone
    arch = dataclasses.replace(vit, norm="pooled").arch
    state = {name: tensor for name, tensor in backbone.state.items() if not name.startswith("norm.")}
    state |= {"fc_norm.weight": torch.ones(vit.width), "fc_norm.bias": torch.zeros(vit.width)}
    left = tuple(name for name in backbone.state if name.startswith("norm."))
    reason = "the final norm of all tokens: the norm behind the average of patches starts anew"
    dropped = (Dropped(reason, left),) if left else ()
    return dataclasses.replace(backbone, arch=arch, state=state, dropped=backbone.dropped + dropped)


class LayerwiseTuned(FineTuned):
    """A transformer under a linear classifier, as published for MAE."""

    def __init__(
        self, backbone: Backbone, classes: int, recipe: LayerwiseRecipe, seed: int, device: torch.device
    ) -> None:
        backbone = pooled(backbone, recipe.pooling)
        super().__init__(backbone, classes, seed, device, recipe.crop, drop_path=recipe.drop_path)
        weight = self.network.get_parameter("head.weight")
        with torch.no_grad(), drawn_by(seed):
            weight.copy_(nn.init.trunc_normal_(torch.empty(weight.shape), std=HEAD_SCALE))


def groups(model: LayerwiseTuned, recipe: LayerwiseRecipe) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: one for each depth, with and without decay, and `scale`, its share of the rate."""
    family, arch = family_of(model.backbone.arch), model.backbone.arch
    last = max(family.layer(arch, name) for name, _ in model.network.named_parameters())
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.network.named_parameters():
        layer = family.layer(arch, name)
        decayed = parameter.ndim > 1 and name not in UNDECAYED
        group = found.setdefault(
            (layer, decayed),
            {
                "params": [],
                "weight_decay": recipe.weight_decay if decayed else 0.0,
                "scale": recipe.layer_decay ** (last - layer),
            },
        )
        group["params"].append(parameter)
    return list(found.values())


class LayerwiseTuner(NetworkLearner):
    """See `transfer.classification.sgd.loop.Learner`."""

    def __init__(self, model: LayerwiseTuned, recipe: LayerwiseRecipe, classes: int, seed: int, world: World) -> None:
        from timm.data.mixup import Mixup
        from timm.data.random_erasing import RandomErasing

        self.model, self.recipe, self.classes, self.seed, self.world = model.train(), recipe, classes, seed, world
        self.optimizer = torch.optim.AdamW(groups(model, recipe), lr=recipe.lr, betas=recipe.betas)
        self.mix = (
            Mixup(
                mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, switch_prob=recipe.switch,
                label_smoothing=recipe.smoothing, num_classes=classes,
            )
            if recipe.mixup or recipe.cutmix
            else None
        )  # fmt: skip
        self.erase = (
            RandomErasing(recipe.erasing, mode="pixel", max_count=1, device=model.device.type)
            if recipe.erasing
            else None
        )

    def step(self, batch: Batch, labels: Tensor, share: float, images: int, number: int) -> Tensor:
        """See `transfer.classification.sgd.loop.Learner`."""
        if self.model.proof is None:
            self.world.together(self.model.prove)
        self.optimizer.zero_grad(set_to_none=False)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        loss = torch.zeros((), device=labels.device)
        if len(labels):
            draw = self.seed, number, self.world.rank
            with drawn_by(*draw), _drawn_on(labels.device, draw):
                x, wanted = self._mixed(batch.views, labels)
                logs = self.model.network(x).log_softmax(1)
                whole = -(wanted * logs).sum() / images
                torch.autograd.backward(whole)
                loss += whole.detach()
        self.world.add_up([loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        if not bool(loss.isfinite()):
            raise Diverged(
                f"the loss is {loss.item()} at step {number}",
                found=f"learning rate {self.recipe.lr * share:g}",
                todo="lower the learning rate",
            )
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * share * group["scale"]
        self.optimizer.step()
        return loss

    def _mixed(self, views: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the network takes them, and the share of each class in them; of an odd number one is not mixed."""
        x = to_network(views, self.model.backbone.input, labels.device)
        if self.erase is not None:
            x = self.erase(x)
        off = self.recipe.smoothing / self.classes
        wanted = torch.full((len(labels), self.classes), off, device=labels.device)
        wanted.scatter_(1, labels[:, None], 1 - self.recipe.smoothing + off)
        even = len(labels) // 2 * 2
        if self.mix is not None and even:
            mixed, shares = self.mix(x[:even].clone(), labels[:even])
            x, wanted = torch.cat([mixed, x[even:]]), torch.cat([shares.to(wanted), wanted[even:]])
        return x, wanted

    def numbers(self, losses: Tensor, share: float) -> dict[str, Any]:
        """See `transfer.classification.sgd.loop.Learner`."""
        return {"lr": self.recipe.lr * share, "loss": losses.item()}


@contextmanager
def _drawn_on(device: torch.device, draw: tuple[int, ...]) -> Iterator[None]:
    """A GPU leaves blocks out, and fills erased parts, by a generator of its own."""
    if device.type == "cpu":
        yield
        return
    with torch.random.fork_rng(devices=[device]):
        torch.cuda.manual_seed(int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0] >> 1))
        yield
