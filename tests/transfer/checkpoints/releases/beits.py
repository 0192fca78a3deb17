"""BEiT and those who train its transformer: data2vec, SimMIM, CAE."""

from __future__ import annotations

from checkpoint_files import State, Tree, filled, linear, slow_copy, training_state, under, width_of, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec

HALF = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SHARED, OWN = "beit_384x2_patch16_224.shared", "beit_384x2_patch16_224"
UNILM = "microsoft/unilm: beit/modeling_pretrain.py, modeling_finetune.py, beit2/modeling_pretrain.py"


def _indices(state: State, prefix: str = "") -> State:
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    return {prefix + name.replace("bias_table", "index"): filled(197, 197) for name in tables}


def beit(state: State) -> Tree:
    head = {"mask_token": filled(1, 1, width_of(state))} | linear("lm_head.", width_of(state), 8192)
    return {"model": without_fc(state) | _indices(state) | head, **training_state(state)}


def beit_v2(state: State) -> Tree:
    tree = beit(state)
    tree["model"] |= linear("cls_pt_layers.0.mlp.fc1.", width_of(state), 4 * width_of(state))
    return tree


def tuned(state: State) -> Tree:
    return {"module": without_fc(state) | _indices(state) | linear("head.", width_of(state), 1000)}


def data2vec(state: State) -> Tree:
    tree = beit(state)
    return {"model": tree["model"], "model_ema": slow_copy(without_fc(state)) | _indices(state), "epoch": 3}


def simmim(state: State) -> Tree:
    encoder = under("encoder.", without_fc(state)) | _indices(state, "encoder.")
    encoder |= {"encoder.mask_token": filled(1, 1, width_of(state))}
    return {"model": encoder | linear("decoder.0.", width_of(state), 768), **training_state(state)}


def cae(state: State) -> Tree:
    encoder, wide = without_fc(state), width_of(state)
    model = under("encoder.", encoder) | under("teacher.", slow_copy(encoder))
    model |= linear("pretext_neck.head.", wide, 8192) | {"mask_token": filled(1, 1, wide)}
    return {"model": model, **training_state(state)}


def _release(title, form, build, place, key, source, **more) -> Release:
    return Release(title, form, build, place, key.format, source, **{"counters": False} | more)


RELEASES = {
    "beit_pretrained": _release(
        "BEiT, pretrained", "beit", beit, ("model",), "{}", UNILM, input=HALF, lints=("assumed-normalisation",),
        archs=(SHARED, "beit_base_patch16_224.shared", "beit_large_patch16_224.shared"),
    ),
    "beit_fine_tuned": _release(
        "BEiT, fine-tuned", "beit", tuned, ("module",), "{}", UNILM, input=HALF, lints=("classifier",),
        archs=(f"{OWN}.fcnorm", "beit_base_patch16_384.fcnorm"),
    ),
    "beit_v2": _release("BEiT v2, pretrained", "beit", beit_v2, ("model",), "{}", UNILM, archs=(SHARED,)),
    "data2vec": _release(
        "data2vec, ViT", "beit", data2vec, ("model",), "{}", "facebookresearch/data2vec_vision: beit/run_cyclical.py",
        archs=(SHARED,), branch="model", others=("ema",),
    ),
    "simmim_vit": _release(
        "SimMIM, ViT", "simmim", simmim, ("model",), "encoder.{}", "microsoft/SimMIM: models/simmim.py",
        archs=(SHARED,),
    ),
    "cae": _release(
        "CAE", "cae", cae, ("model",), "encoder.{}", "lxtGH/CAE: models/modeling_cae.py", branch="encoder",
        others=("teacher",),
        archs=("beit_384x2_patch16_224.h12.norel.abs", "beit_large_patch16_224.norel.abs"),
    ),
    "timm_beit": _release(
        "timm, BEiT", "plain", lambda state: without_fc(state) | linear("head.", width_of(state), 1000), (), "{}",
        "huggingface/pytorch-image-models: timm/models/beit.py", input=HALF, container="safetensors",
        archs=(f"{OWN}.fcnorm",), lints=("assumed-normalisation", "classifier"),
    ),
}  # fmt: skip
