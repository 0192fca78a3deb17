"""Files of methods that train vision transformers, under timm's names for the most part."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Refusal, Release

S16 = "vit_small_patch16_224"
DINO = "facebookresearch/dino: main_dino.py, utils.py, vision_transformer.py, hubconf.py"
DINOV2 = "facebookresearch/dinov2: dinov2/models/vision_transformer.py, dinov2/train/train.py"


def _head(state: State, last: str = "last_layer") -> State:
    head = mlp("head.mlp.", width_of(state), 2048, 2048, 256)
    return head | {f"head.{last}.weight_g": filled(65536, 1), f"head.{last}.weight_v": filled(65536, 256)}


def dino(state: State) -> Tree:
    encoder = without_fc(state)
    return {
        "student": under("module.", under("backbone.", slow_copy(encoder)) | _head(state)),
        "teacher": under("backbone.", encoder) | _head(state),
        **training_state(state),
        "args": Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": filled(1, 65536)},
    }


def ibot(state: State) -> Tree:
    encoder = {_gamma(name): tensor for name, tensor in without_fc(state).items()}
    masked = {"masked_embed": filled(1, width_of(state))}
    head = _head(state) | {"head.last_layer2.weight_g": filled(8192, 1), "head.last_layer2.weight_v": filled(8192, 256)}
    return {
        "student": under("module.", under("backbone.", slow_copy(encoder) | masked) | head),
        "teacher": under("backbone.", encoder) | head,
        **training_state(state),
        "args": Namespace(arch="vit_small"),
        "ibot_loss": {"center": filled(1, 8192), "center2": filled(1, 1, 8192)},
    }


def _gamma(name: str) -> str:
    return name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")


def mugs(state: State) -> Tree:
    def network(encoder: State) -> State:
        relation = under("backbone.relation_blocks.0.", linear("attn.qkv.", width_of(state), 3 * width_of(state)))
        heads: State = {}
        for name in ("instance_head.projector.", "local_group_head.projector.", "group_head.projector."):
            heads |= mlp(name, width_of(state), 2048, 256)
        return under("backbone.", encoder) | relation | heads

    encoder = without_fc(state)
    return {
        "student": under("module.", network(slow_copy(encoder))),
        "teacher": under("module.", network(encoder)),
        "student_mem": {"queue": filled(256, 65536)},
        "teacher_mem": {"queue": filled(256, 65536)},
        **training_state(state),
        "instance-sup.": {"queue": filled(256, 65536)},
        "local-group-sup.": {"queue": filled(256, 65536)},
        "group-sup.": {"center": filled(1, 65536)},
    }


def msn(state: State) -> Tree:
    encoder = without_fc(state)
    head = mlp("fc.", width_of(state), 2048, 256)
    return {
        "encoder": under("module.", slow_copy(encoder) | head),
        "target_encoder": under("module.", encoder | head),
        "prototypes": filled(1024, 256),
        "opt": training_state(state)["optimizer"],
        "epoch": 3,
    }


def ijepa(state: State) -> Tree:
    encoder = without_fc(state)
    return {
        "encoder": under("module.", slow_copy(encoder)),
        "predictor": under("module.", linear("predictor_embed.", width_of(state), 384)),
        "target_encoder": under("module.", encoder),
        "opt": training_state(state)["optimizer"],
        "scaler": {"scale": 65536.0},
        "epoch": 300,
        "loss": 0.2,
    }


def moco_v3(state: State) -> Tree:
    encoder, head = without_fc(state), mlp("head.", width_of(state), 4096, 4096, 256, bias=False, between_bn=True)
    return {
        "epoch": 300,
        "arch": "vit_small",
        "state_dict": under("module.base_encoder.", encoder | head)
        | under("module.momentum_encoder.", slow_copy(encoder) | head)
        | under("module.predictor.", mlp("", 256, 4096, 256, bias=False, between_bn=True)),
        "optimizer": training_state(state)["optimizer"],
        "scaler": {"scale": 65536.0},
    }


def mae(state: State) -> Tree:
    wide = width_of(state)
    decoder = linear("decoder_embed.", wide, 512) | linear("decoder_blocks.0.attn.qkv.", 512, 1536)
    decoder |= linear("decoder_pred.", 512, 768) | {
        "decoder_norm.weight": filled(512),
        "decoder_norm.bias": filled(512),
    }
    decoder |= {"decoder_pos_embed": filled(1, 197, 512), "mask_token": filled(1, 1, 512)}
    return {"model": without_fc(state) | decoder, **training_state(state), "args": Namespace(model="mae_vit_small")}


def classifier(state: State) -> Tree:
    return {"model": without_fc(state) | linear("head.", width_of(state), 1000)}


def dinov2(state: State) -> Tree:
    return _v2(without_fc(state)) | {"mask_token": filled(1, width_of(state))}


def _v2(state: State) -> State:
    swiglu = state["blocks.0.mlp.fc1.bias"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]
    return {_v2_name(name, swiglu): tensor for name, tensor in state.items()}


def _v2_name(name: str, swiglu: bool = False) -> str:
    name = "register_tokens" if name == "reg_token" else name
    return name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.") if swiglu else name


def dinov2_teacher(state: State) -> Tree:
    encoder = {_chunk(name): tensor for name, tensor in without_fc(state).items()}
    teacher = under("backbone.", encoder | {"mask_token": filled(1, width_of(state))})
    for head in ("dino_head.", "ibot_head."):
        teacher |= mlp(f"{head}mlp.", width_of(state), 2048, 2048, 256)
        teacher |= {f"{head}last_layer.weight_g": filled(65536, 1), f"{head}last_layer.weight_v": filled(65536, 256)}
    return {"teacher": teacher}


def _chunk(name: str) -> str:
    """FSDP's chunks of blocks: the number of the chunk before that of the block."""
    start, _, rest = name.partition("blocks.")
    number, _, inner = rest.partition(".")
    return f"blocks.{int(number) // 4}.{number}.{inner}" if rest and not start else name


def _release(
    title: str, form: str, build: Callable[[State], Tree], place: str, key: str, source: str, **more
) -> Release:
    more = {"archs": (S16,), "counters": False} | more
    return Release(title, form, build, (place,) if place else (), key.format, source, **more)


_TEACHER = {"branch": "teacher", "others": ("student",)}
_TARGET = {"branch": "target", "others": ("online",)}
_OFFSET = f"{S16}.offset"

RELEASES = {
    "dino_vit_full": _release(
        "DINO, full checkpoint of a ViT", "dino", dino, "teacher", "backbone.{}", DINO,
        archs=(_OFFSET, "vit_small_patch8_224.offset", "vit_base_patch16_224.offset", "vit_base_patch8_224.offset"),
        **_TEACHER,
    ),
    "dino_vit": _release(
        "DINO, released ViT (a plain one)", "plain", without_fc, "", "{}", DINO,
        archs=(f"{S16}.antialias", "vit_base_patch8_224.antialias"),
    ),
    "ibot_full": _release(
        "iBOT, full checkpoint", "ibot", ibot, "teacher", "backbone.{}", "bytedance/ibot: main_ibot.py, models/*.py",
        archs=(_OFFSET, "vit_large_patch16_224.ls.offset"), **_TEACHER,
    ),
    "mugs_full": _release(
        "Mugs, full checkpoint", "mugs", mugs, "teacher", "module.backbone.{}", "sail-sg/mugs: main.py, src/model.py",
        archs=(_OFFSET,), alone=False, **_TEACHER,
    ),
    "msn_full": _release(
        "MSN", "msn", msn, "target_encoder", "module.{}", "facebookresearch/msn: src/msn_train.py, src/deit.py",
        archs=(S16, "vit_large_patch7_224", "vit_base_patch4_224"), **_TARGET,
    ),
    "ijepa_full": _release(
        "I-JEPA", "ijepa", ijepa, "target_encoder", "module.{}", "facebookresearch/ijepa: src/train.py",
        archs=("vit_small_patch16_224.nocls", "vit_huge_patch14_224.nocls", "vit_giant_patch16_224.nocls"), **_TARGET,
    ),
    "moco_v3_vit": _release(
        "MoCo v3, ViT", "moco_v3", moco_v3, "state_dict", "module.base_encoder.{}",
        "facebookresearch/moco-v3: main_moco.py, moco/builder.py, vits.py",
        archs=(f"{S16}.h12", "vit_base_patch16_224"), branch="base", others=("momentum",),
    ),
    "mae_pretrained": _release(
        "MAE, encoder and decoder", "mae", mae, "model", "{}", "facebookresearch/mae: models_mae.py",
        archs=(S16, "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"),
    ),
    "mae_encoder": _release(
        "MAE, released encoder", "mae", lambda state: {"model": without_fc(state)}, "model", "{}",
        "facebookresearch/mae: README.md, main_finetune.py",
    ),
    "mae_fine_tuned": _release(
        "MAE, fine-tuned classifier", "mae", classifier, "model", "{}", "facebookresearch/mae: models_vit.py",
        archs=(f"{S16}.fcnorm",), lints=("fine-tuned", "classifier"),
    ),
    "deit": _release(
        "DeiT", "plain", classifier, "model", "{}", "facebookresearch/deit: models.py, main.py",
        archs=(f"{S16}.antialias", "vit_tiny_patch16_224.antialias"), lints=("classifier",),
    ),
    "dinov2": _release(
        "DINOv2, released backbone", "dinov2", dinov2, "", "{}", DINOV2,
        archs=("vit_small_patch14_518.ls.offset", "vit_base_patch14_518.ls.offset", "vit_large_patch14_518.ls.offset"),
    ),
    "dinov2_giant": Release(
        "DINOv2, released giant backbone", "dinov2", dinov2, (), lambda name: _v2_name(name, True), DINOV2,
        archs=("vit_384x2_patch14_98.swiglu.ls.offset", "vit_giant2_patch14_518.ls.offset"), counters=False,
    ),
    "dinov2_registers": Release(
        "DINOv2 with registers, released backbone", "dinov2", dinov2, (), _v2_name, DINOV2,
        archs=("vit_small_patch14_518.reg4.ls.antialias", "vit_large_patch14_518.reg4.ls.antialias"), counters=False,
    ),
    "dinov2_teacher": Release(
        "DINOv2, teacher of one's own training", "dinov2", dinov2_teacher, ("teacher",),
        lambda name: "backbone." + _chunk(name), DINOV2, archs=("vit_small_patch14_224.ls.offset",), counters=False,
        alone=False,
    ),
    "timm_vit": _release(
        "timm, ViT", "plain", lambda state: without_fc(state) | linear("head.", width_of(state), 1000), "", "{}",
        "huggingface/pytorch-image-models: timm/models/vision_transformer.py", container="safetensors",
        archs=(f"{S16}.antialias", "vit_base_patch14_518.ls.antialias"), lints=("classifier",),
    ),
    "timm_vit_trainer": _release(
        "timm, training checkpoint of a ViT", "timm",
        lambda state: {"epoch": 3, "arch": "vit_small_patch16_224", "version": 2, "state_dict": without_fc(state)}
        | {"state_dict_ema": slow_copy(without_fc(state))},
        "state_dict_ema", "{}", "huggingface/pytorch-image-models: timm/utils/checkpoint_saver.py",
        archs=(f"{S16}.antialias",), branch="ema", others=(), reads=slow_copy,
    ),
}  # fmt: skip


def clip(state: State) -> Tree:
    image, text = "visual.transformer.resblocks.0.", "transformer.resblocks.0."
    towers = {"visual.conv1.weight": filled(768, 3, 16, 16), "visual.class_embedding": filled(768)}
    towers |= {f"{image}ln_1.weight": filled(768), f"{image}attn.in_proj_weight": filled(2304, 768)}
    return towers | {f"{text}ln_1.weight": filled(512), "logit_scale": filled(1)}


REFUSED = {
    "dino_linear": Refusal(
        "DINO, linear classifier",
        lambda state: {"epoch": 100, "state_dict": linear("module.linear.", 1536, 1000)},
        ("a linear classifier alone", "the backbone"),
        "facebookresearch/dino: eval_linear.py",
        format="linear_classifier",
    ),
    "clip": Refusal(
        "CLIP",
        clip,
        ("a norm before the first block", "an activation that no tensor shows"),
        "openai/CLIP: clip/model.py; mlfoundations/open_clip: src/open_clip/transformer.py",
        format="clip",
    ),
}
