"""ImageNet models of Detectron and Detectron2 under Caffe2's names."""

from checkpoint_files import State, Tree, filled, width_of

from releases import Release
from releases.caffe2 import BENCHMARK, arrays, blob, folded, is_statistic, uncounted
from transfer.checkpoints.backbone import InputSpec

MSRA = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
MEAN = (103.53, 116.28, 123.675)


def classifier(state: State, name: str) -> State:
    return {f"{name}_w": filled(1000, width_of(state)), f"{name}_b": filled(1000)}


def detectron(state: State) -> Tree:
    """Norms folded; the translator from Caffe writes a bias, here of zeros, for every convolution."""
    blobs = {blob(name): value for name, value in uncounted(folded(state)).items() if not is_statistic(name)}
    biases = {name[:-1] + "b": filled(len(value)) * 0 for name, value in blobs.items() if name.endswith("_w")}
    return arrays(blobs | biases | classifier(state, "fc1000"))


def detectron2(state: State) -> Tree:
    blobs = {blob(name, MSRA): value for name, value in uncounted(state).items()}
    return arrays({**blobs, "conv1_b": filled(64), **classifier(state, "fc1000")})


def resnext(state: State) -> Tree:
    return arrays({blob(name): value for name, value in uncounted(state).items()} | classifier(state, "pred"))


def _release(title: str, build, source: str, **more) -> Release:
    return Release(
        title=title,
        format="detectron1",
        build=build,
        place=(),
        source=source,
        container="pickle",
        counters=False,
        **more,
    )


RELEASES = {
    "detectron1_msra": _release(
        "Detectron, MSRA's R-50.pkl",
        detectron,
        "facebookresearch/Detectron: tools/pickle_caffe_blobs.py",
        key=blob,
        reads=folded,
        derived=is_statistic,
        input=InputSpec("BGR", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)),
        stride_in_1x1=True,
        archs=("resnet50", "resnet101"),
        lints=("bgr", "normalisation", "stride-in-1x1", "statistics", "classifier"),
    ),
    "detectron2_msra": _release(
        "Detectron2, MSRA's R-50.pkl",
        detectron2,
        "facebookresearch/detectron2: MODEL_ZOO.md, issue 1688",
        key=lambda name: blob(name, MSRA),
        input=InputSpec("BGR", 255.0, MEAN, (1.0, 1.0, 1.0)),
        stride_in_1x1=True,
        archs=("resnet50", "resnet101"),
        lints=("bgr", "normalisation", "stride-in-1x1", "classifier"),
    ),
    "detectron2_x101": _release(
        "Detectron2, FAIR's X-101-32x8d.pkl",
        resnext,
        "facebookresearch/detectron2: configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        key=lambda name: blob(name, BENCHMARK),
        input=InputSpec("BGR", 255.0, MEAN, (57.375, 57.12, 58.395)),
        archs=("resnext101_32x8d",),
        lints=("bgr", "classifier"),
    ),
}
