"""stable-pretraining: methods with and without a teacher."""

from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, under, width_of, without_fc

from releases import Refusal, Release
from releases.huggingface import name_in_transformers
from releases.lightning_files import lightning, projector

SOURCE = "rbalestr-lab/stable-pretraining: stable_pretraining/methods"


def wrapped(name: str, teacher: State, student: State) -> State:
    """TeacherStudentWrapper: two networks and three coefficients."""
    kinds = ("ema_coefficient", "base_ema_coefficient", "final_ema_coefficient")
    coefficients = {f"{name}{kind}": filled() for kind in kinds}
    return under(f"{name}teacher.", teacher) | under(f"{name}student.", student) | coefficients


def byol(state: State, rename=str) -> Tree:
    backbone = {rename(name): tensor for name, tensor in without_fc(state).items()}
    heads = projector("", width_of(state), 4096, 256)
    weights = wrapped("backbone.", backbone, slow_copy(backbone)) | wrapped("projector.", heads, heads)
    return saved(weights | projector("predictor.", 256, 4096, 256))


def moco_v2(state: State) -> Tree:
    backbone, heads = without_fc(state), mlp("", width_of(state), 2048, 128)
    weights = wrapped("backbone.", backbone, slow_copy(backbone)) | wrapped("projector.", heads, heads)
    kinds = ("pointer", "filled", "initialized")
    return saved(weights | {"queue.out": filled(65536, 128), **{f"queue.{kind}": filled() for kind in kinds}})


def simclr(state: State) -> Tree:
    probe = linear("callbacks_modules.linear_probe.", width_of(state), 1000)
    queue = {"callbacks_modules.embedding_queue.out": filled(20000, 128)}
    return saved(
        under("backbone.", without_fc(state)) | projector("projector.", width_of(state), 2048, 128) | probe | queue
    )


def saved(weights: State) -> Tree:
    settings = {"system.working_dir": "/somewhere", "lr": 0.5}
    return lightning(weights, hparams_name="kwargs", hyper_parameters=settings)


def low_resolution(state: State) -> Tree:
    tree = simclr(state)
    tree["state_dict"]["backbone.conv1.weight"] = filled(64, 3, 3, 3)
    return tree


def _release(title: str, build, source: str, teacher: bool = True, rename=str, **more) -> Release:
    prefix = "backbone.teacher." if teacher else "backbone."
    return Release(
        title=f"stable-pretraining, {title}",
        format="stable_pretraining",
        build=build,
        place=("state_dict",),
        key=lambda name: prefix + rename(name),
        source=f"{SOURCE}/{source}.py",
        branch="teacher" if teacher else "only",
        others=("student",) if teacher else (),
        **more,
    )


RELEASES = {
    "stable_pretraining": _release("BYOL, DINO, MoCo v3", byol, "byol", archs=("resnet50", "resnet18")),
    "stable_pretraining_moco": _release("MoCo v2", moco_v2, "mocov2"),
    "stable_pretraining_simclr": _release("SimCLR and others", simclr, "simclr", teacher=False),
    "stable_pretraining_transformers": _release(
        "BYOL on a ResNet of transformers",
        lambda state: byol(state, name_in_transformers),
        "byol",
        rename=name_in_transformers,
    ),
}

REFUSED = {
    "stable_pretraining_low_resolution": Refusal(
        title="stable-pretraining, low_resolution",
        build=low_resolution,
        says=("CIFAR stem",),
        source="rbalestr-lab/stable-pretraining: stable_pretraining/backbone/utils.py",
        format="stable_pretraining",
    )
}
