"""Files of methods that train ConvNeXts and Swin transformers, under their authors' names and timm's."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable

import torch
from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release

CONVNEXT = "facebookresearch/ConvNeXt: models/convnext.py, utils.py"
FCMAE = "facebookresearch/ConvNeXt-V2: models/{convnextv2,convnextv2_sparse,fcmae,utils}.py, utils.py"
SPARK = "keyu-tian/SparK: pretrain/{main,spark,encoder}.py, pretrain/models/*.py, pretrain/utils/misc.py"
ESVIT = "microsoft/esvit: main_esvit.py, models/swin_transformer.py, utils.py"
SWIN = "microsoft/Swin-Transformer: models/swin_transformer.py, utils.py"


def convnext_name(name: str) -> str:
    """timm's name → that of ConvNeXt's authors."""
    name = re.sub(r"^stem\.", "downsample_layers.0.", name)
    name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
    name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
    return name.replace("head.norm.", "norm.")


def sparse_name(name: str) -> str:
    """timm's name → that of FCMAE's sparse encoder."""
    name = convnext_name(name)
    name = re.sub(r"\.norm\.|(downsample_layers\.[123]\.0)\.", lambda found: f"{found[1] or '.norm'}.ln.", name)
    name = re.sub(r"(\.pwconv\d)\.", r"\1.linear.", name)
    return re.sub(r"(dwconv|downsample_layers\.[123]\.1)\.weight", r"\1.kernel", name)


def official(state: State) -> State:
    """A ConvNeXt as its authors' code saves it: MLPs are matrices, response norms rows of a map."""
    return {convnext_name(name): _matrix(name, tensor) for name, tensor in without_fc(state).items()}


def _matrix(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if ".mlp.grn." in name:
        return tensor.reshape(1, 1, 1, -1)
    return tensor.flatten(1) if ".mlp." in name and name.endswith("weight") else tensor


def sparse(state: State) -> State:
    """A ConvNeXt V2 as FCMAE trains it: kernels are [places, in, out], places column by column."""
    found = {}
    for name, tensor in without_fc(state).items():
        theirs = sparse_name(name)
        if theirs.endswith("dwconv.kernel"):
            found[theirs] = tensor[:, 0].permute(2, 1, 0).flatten(0, 1)
        elif theirs.endswith(".kernel"):
            found[theirs] = tensor.permute(3, 2, 1, 0).flatten(0, 1)
        elif re.search(r"(dwconv|layers\.[123]\.1)\.bias|grn", theirs):
            found[theirs] = tensor[None]
        else:
            found[theirs] = _matrix(name, tensor)
    return found


def convnext(state: State) -> Tree:
    return {"model": official(state) | linear("head.", width_of(state), 1000)}


def convnext_run(state: State) -> Tree:
    weights = official(state) | linear("head.", width_of(state), 1000)
    return {"model": weights, "model_ema": slow_copy(weights), **training_state(state), "args": Namespace(epochs=300)}


def fcmae_run(state: State) -> Tree:
    decoder = under("decoder.0.", {"dwconv.weight": filled(512, 1, 7, 7), "grn.gamma": filled(1, 1, 1, 2048)})
    decoder |= {"proj.weight": filled(512, width_of(state), 1, 1), "pred.weight": filled(3072, 512, 1, 1)}
    model = under("encoder.", sparse(state)) | decoder | {"mask_token": filled(1, 512, 1, 1)}
    return {"model": model, **training_state(state), "args": Namespace(model="convnextv2_atto")}


def dinov3(state: State) -> Tree:
    weights = official(state)
    return weights | {f"norms.3.{kind}": weights[f"norm.{kind}"].clone() for kind in ("weight", "bias")}


def spark(encoder: State) -> Tree:
    rest: State = {"mask_tokens.0": filled(1, 768, 1, 1), "norm_black": filled(1, 3, 224, 224)}
    rest |= {"densify_norms.0.weight": filled(768), "densify_projs.1.weight": filled(384, 384, 3, 3)}
    rest |= {"imn_m": filled(1, 3, 1, 1), "imn_s": filled(1, 3, 1, 1), "dense_decoder.proj.bias": filled(3)}
    module = under("sparse_encoder.sp_cnn.", encoder) | rest | {"config": {"mask_ratio": 0.6, "hierarchy": 4}}
    return {"args": "Args()", "input_size": 224, "arch": "a", "is_pretrain": True, "module": module} | {
        **training_state(encoder),
        "performance_desc": "-",
    }


def swin_name(name: str) -> str:
    """timm's name → that of Swin's authors."""
    return re.sub(r"^layers\.(\d)\.downsample\.", lambda found: f"layers.{int(found[1]) - 1}.downsample.", name)


def swin_network(state: State, masks: bool = True) -> State:
    """A Swin transformer as its authors' code saves it, with its buffers."""
    found: State = {}
    for name, tensor in without_fc(state).items():
        found[swin_name(name)] = tensor
        if name.endswith("relative_position_bias_table"):
            window = (int(tensor.shape[0] ** 0.5) + 1) // 2
            index = torch.tensor(3).expand(window**2, window**2)
            found[name.replace("bias_table", "index")] = index
            if masks and ".blocks.1." in name:
                found[name.replace("attn.relative_position_bias_table", "attn_mask")] = filled(4, *index.shape)
    return found


def swin(state: State) -> Tree:
    return {"model": swin_network(state) | linear("head.", width_of(state), 1000)}


def swin_run(state: State) -> Tree:
    more = {"lr_scheduler": {"last_epoch": 3}, "scaler": {"scale": 1.0}, "max_accuracy": 81.2, "config": "DATA: …"}
    return {**swin(state), **training_state(state), **more}


def simmim(state: State) -> Tree:
    encoder = swin_network(state) | {"mask_token": filled(1, 1, 96)}
    model = under("encoder.", encoder) | {
        "decoder.0.weight": filled(3072, width_of(state), 1, 1),
        "decoder.0.bias": filled(3072),
    }
    return {"model": model, **training_state(state), "config": "MODEL: …"}


def _dino_head(state: State, name: str) -> State:
    head = mlp(f"{name}.mlp.", width_of(state), 2048, 2048, 256)
    return head | {f"{name}.last_layer.weight_g": filled(65536, 1), f"{name}.last_layer.weight_v": filled(65536, 256)}


def esvit(state: State) -> Tree:
    network = swin_network(state, masks=False)
    heads = _dino_head(state, "head") | _dino_head(state, "head_dense")
    return {
        "student": under("module.", slow_copy(network) | heads),
        "teacher": network | heads,
        **training_state(state),
        "args": Namespace(arch="swin_tiny"),
        "dino_loss": {"center": filled(1, 65536), "center_grid": filled(1, 65536)},
    }


def ibot(state: State) -> Tree:
    network, heads = swin_network(state), _dino_head(state, "head")
    masked = {"masked_embed": filled(1, 96)}
    return {
        "student": under("module.", under("backbone.", slow_copy(network) | masked) | heads),
        "teacher": under("backbone.", network) | heads,
        **training_state(state),
        "args": Namespace(arch="swin_tiny"),
        "ibot_loss": {"center": filled(1, 8192), "center2": filled(1, 1, 8192)},
    }


def timm(state: State) -> Tree:
    return without_fc(state) | linear("head.fc.", width_of(state), 1000)


def _release(
    title: str, form: str, build: Callable[[State], Tree], place: str, key: Callable[[str], str], source: str, **more
) -> Release:
    return Release(title, form, build, (place,) if place else (), key, source, **({"counters": False} | more))


_TEACHER = {"branch": "teacher", "others": ("student",)}
_T7 = "swin_tiny_window7_224"

RELEASES = {
    "convnext": _release(
        "ConvNeXt", "convnext", convnext, "model", convnext_name, CONVNEXT, branch="model", lints=("classifier",),
        archs=("convnext_tiny", "convnext_base", "convnextv2_atto", "convnextv2_nano", "convnextv2_huge"),
    ),
    "convnext_run": _release(
        "ConvNeXt, one's own run", "convnext", convnext_run, "model", convnext_name, CONVNEXT, branch="model",
        others=("ema",), lints=("classifier",), archs=("convnextv2_atto", "convnext_tiny"),
    ),
    "fcmae": _release(
        "ConvNeXt V2, released FCMAE", "convnext", lambda state: {"model": official(state)}, "model", convnext_name,
        FCMAE, branch="model",
        archs=("convnextv2_atto.nonorm", "convnextv2_femto.nonorm", "convnextv2_tiny.nonorm", "convnextv2_huge.nonorm"),
    ),
    "fcmae_run": _release(
        "ConvNeXt V2, FCMAE's own run", "convnext", fcmae_run, "model", lambda name: "encoder." + sparse_name(name),
        FCMAE, archs=("convnextv2_atto.nonorm", "convnextv2_base.nonorm"),
    ),
    "dinov3_convnext": _release(
        "DINOv3, ConvNeXt", "convnext", dinov3, "", convnext_name,
        "facebookresearch/dinov3: dinov3/models/convnext.py",
        archs=("convnext_tiny", "convnext_small", "convnext_large"),
    ),
    "spark_convnext": _release(
        "SparK, released ConvNeXt", "convnext", official, "", convnext_name, SPARK,
        archs=("convnext_small.nonorm", "convnext_large.nonorm"),
    ),
    "spark_convnext_decoder": _release(
        "SparK, ConvNeXt and decoder", "spark", lambda state: spark(official(state)), "module",
        lambda name: "sparse_encoder.sp_cnn." + convnext_name(name), SPARK,
        archs=("convnext_tiny.nonorm", "convnext_small.nonorm"),
    ),
    "spark_resnet_decoder": _release(
        "SparK, ResNet and decoder", "spark", lambda state: spark(without_fc(state)), "module",
        "sparse_encoder.sp_cnn.{}".format, SPARK, archs=("resnet50", "resnet152"), counters=True,
    ),
    "timm_convnext": _release(
        "timm, ConvNeXt", "plain", timm, "", str, "huggingface/pytorch-image-models: timm/models/convnext.py",
        container="safetensors", archs=("convnextv2_atto", "convnext_tiny", "convnext_atto"), lints=("classifier",),
    ),
    "timm_convnext_headless": _release(
        "timm, ConvNeXt without head", "plain", without_fc, "", str,
        "huggingface/pytorch-image-models: timm/models/convnext.py", archs=("convnextv2_atto.nonorm",),
    ),
    "timm_swin": _release(
        "timm, Swin", "plain", timm, "", str, "huggingface/pytorch-image-models: timm/models/swin_transformer.py",
        archs=(_T7, "swin_base_window12_384"), lints=("classifier",),
    ),
    "swin": _release(
        "Swin", "swin", swin, "model", swin_name, SWIN, lints=("classifier",),
        archs=(_T7, "swin_small_window7_224", "swin_base_window12_384", "swin_large_window7_224"),
    ),
    "swin_run": _release(
        "Swin, one's own run", "swin", swin_run, "model", swin_name, SWIN, lints=("classifier",), archs=(_T7,),
    ),
    "swin_alone": _release(
        "Swin, a network alone", "swin", lambda state: {"state_dict": swin_network(state)}, "state_dict", swin_name,
        "bytedance/ibot: extract_backbone_weights.py", lints=("assumed-eps",), archs=(_T7,),
    ),
    "simmim": _release(
        "SimMIM, Swin", "simmim", simmim, "model", lambda name: "encoder." + swin_name(name),
        "microsoft/Swin-Transformer: models/simmim.py, utils_simmim.py",
        archs=("swin_tiny_window6_192", "swin_base_window6_192"),
    ),
    "esvit": _release(
        "EsViT, Swin", "esvit", esvit, "teacher", swin_name, ESVIT, alone=False, **_TEACHER,
        archs=(f"{_T7}.eps1e-06", "swin_tiny_window14_224.eps1e-06", "swin_base_window14_224.eps1e-06"),
    ),
    "ibot_swin": _release(
        "iBOT, Swin, full checkpoint", "ibot", ibot, "teacher", lambda name: "backbone." + swin_name(name),
        "bytedance/ibot: main_ibot.py, models/swin_transformer.py",
        archs=(f"{_T7}.eps1e-06", "swin_tiny_window14_224.eps1e-06"), alone=False, **_TEACHER,
    ),
}  # fmt: skip
