"""DINO's full checkpoints with a ResNet."""

from argparse import Namespace

from checkpoint_files import State, Tree, filled, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def build(state: State, outer: str = "module.") -> Tree:
    head = mlp("head.mlp.", width_of(state), 2048, 2048, 256)
    head |= {"head.last_layer.weight_g": filled(65536, 1), "head.last_layer.weight_v": filled(65536, 256)}
    backbone = without_fc(state)
    return {
        "student": under("module.", under("backbone.", slow_copy(backbone)) | head),
        "teacher": under(outer, under("backbone.", backbone) | head),
        **training_state(state),
        "args": Namespace(arch="resnet50", out_dim=65536, local_crops_scale=[0.05, 0.14]),
        "dino_loss": {"center": filled(1, 65536)},
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 17},
    }


def _release(title: str, outer: str, **more) -> Release:
    return Release(
        title=title,
        format="dino",
        build=lambda state: build(state, outer),
        place=("teacher",),
        key=(outer + "backbone.{}").format,
        source="facebookresearch/dino: main_dino.py, utils.py, vision_transformer.py",
        branch="teacher",
        others=("student",),
        **more,
    )


RELEASES = {
    "dino_full": _release("DINO, full checkpoint", "module."),
    "dino_full_unwrapped": _release("DINO, teacher without module.", "", container="legacy"),
}
