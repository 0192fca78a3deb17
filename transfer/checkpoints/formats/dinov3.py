"""DINOv3: released vision transformers.

Layout (facebookresearch/dinov3: hubconf.py, dinov3/hub/backbones.py, dinov3/models/vision_transformer.py): flat, with
`storage_tokens`, which are registers, layer scales (`ls1.gamma`), the periods of its angles (`rope_embed.periods`), a
`mask_token` that is used in pretraining alone, and in some sizes `local_cls_norm.`, the norm of small crops, also of
pretraining alone. One bias of queries, keys and values, of which `bias_mask` leaves out that of the keys
(dinov3/layers/attention.py, LinearKMaskedBias). A gated MLP has `w1`, the gate, `w2` and `w3`
(dinov3/layers/ffn_layers.py).

Files trained on web images take pixels with ImageNet's mean and std, those of satellite images others (README.md); the
ones of the sizes that exist as both cannot be told apart, which a lint says. DINOv3's ConvNeXts are plain ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch

from transfer.checkpoints.backbone import Dropped, Lint
from transfer.checkpoints.declared import Network, Release, prefixed
from transfer.checkpoints.rules import Extracted, Tree, has_prefix
from transfer.runtime.errors import CheckpointError

_NAMES = (
    ("storage_tokens", "reg_token"),
    ("rope_embed.periods", "rope.periods"),
    (".ls1.gamma", ".gamma_1"),
    (".ls2.gamma", ".gamma_2"),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
BIAS, MASK = ".attn.qkv.bias", ".attn.qkv.bias_mask"
_BOTH_KINDS = (1024, 4096)  # width of the sizes that were trained on web and on satellite images
_SATELLITE = Lint(
    "assumed-normalisation",
    "read as trained on web images, with ImageNet's mean and std; files of satellite images (SAT-493M) have the same "
    "tensors and take the mean .430 .411 .296 and the std .213 .156 .143",
)


def timm_name(name: str) -> str:
    """`blocks.0.mlp.w1.bias` → `blocks.0.mlp.fc1_g.bias`."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


_RELEASED = prefixed(
    Release(
        name="dinov3",
        title="DINOv3, released backbone of a ViT",
        networks={"only": Network("")},
        heads={
            "mask_token": "stands for masked patches in pretraining, unused in evaluation",
            "local_cls_norm.": "the norm of small crops in pretraining, unused in evaluation",
        },
        needs=("storage_tokens", "rope_embed."),
        keys=(None, "state_dict", "model"),
        markers=("blocks.0.norm1.",),
        families=("dinov3",),
        rename=timm_name,
    )
)


def read(tree: Tree, branch: str | None) -> Extracted:
    """Queries' and values' biases apart, without that of keys."""
    found = _RELEASED.read(tree, branch)
    if has_prefix(found.state, "cls_norm."):
        raise CheckpointError(
            "is a ViT of DINOv3 whose CLS token and patches have norms of their own, and no network here computes that",
            found="cls_norm.",
            todo="take a released file, which has one norm",
        )
    state = dict(_parted(found.state))
    masks = tuple(name for name in found.state if name.endswith(MASK))
    dropped = (
        *found.dropped,
        *([Dropped("leaves out the bias of keys, as this network does", masks)] if masks else []),
    )
    return dataclasses.replace(found, state=state, dropped=dropped, lints=(*found.lints, *seen_images(state)))


def seen_images(state: Mapping[str, torch.Tensor]) -> tuple[Lint, ...]:
    """A word on pixels, of the sizes that exist as trained on web and on satellite images."""
    token = state.get("cls_token")
    return (_SATELLITE,) if token is not None and token.ndim == 3 and token.shape[2] in _BOTH_KINDS else ()


def _parted(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in state.items():
        if name == "rope.periods":
            yield name, tensor.float()  # of bf16 the same numbers
        elif name.endswith(BIAS) and tensor.ndim == 1 and not len(tensor) % 3:
            _demand_keys_without(name, tensor, state.get(f"{name}_mask"))
            query, _, value = tensor.chunk(3)
            yield name.replace(BIAS, ".attn.q_bias"), query
            yield name.replace(BIAS, ".attn.v_bias"), value
        elif not name.endswith(MASK):
            yield name, tensor


def _demand_keys_without(name: str, bias: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raise `CheckpointError` if keys have a bias after all: turned by their place, it would change the function."""
    wide = len(bias) // 3
    known = all(each.layout == torch.strided and not each.is_meta for each in (bias, *([] if mask is None else [mask])))
    expected = torch.cat([torch.ones(wide), torch.zeros(wide), torch.ones(wide)])
    masked = mask is not None and mask.shape == bias.shape and known and torch.equal(mask.float().cpu(), expected)
    if mask is not None and not masked:
        raise CheckpointError(
            "masks something else than the bias of its keys",
            found=f"{name}_mask {tuple(mask.shape)}",
            todo="check that the file is whole: download or copy it again",
        )
    if mask is None and known and bool(bias[wide : 2 * wide].any()):
        raise CheckpointError(
            "has a bias of its keys, which DINOv3 masks, and no mask of it", found=name, todo="save its bias_mask, too"
        )


FORMAT = dataclasses.replace(_RELEASED, read=read)
