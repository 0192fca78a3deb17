"""Backbones that this project exports for MMDetection."""

from checkpoint_files import State, Tree, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec


def build(state: State) -> Tree:
    meta = {
        "layout": "msbreg-transfer/mmdet/1",
        "arch": "resnet18" if "layer1.2.bn1.bias" not in state else "resnet50",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "style": "pytorch",
    }
    return {"meta": meta, "state_dict": without_fc(state)}


RELEASES = {
    "mmdet": Release(
        title="MMDetection backbone, converted by this project",
        format="mmdet",
        build=build,
        place=("state_dict",),
        key=str,
        source="this project: transfer/checkpoints/formats/mmdet.py",
        input=InputSpec("RGB", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        archs=("resnet18", "resnet50"),
        real="files of this project's own conversions",
    )
}
