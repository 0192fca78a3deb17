"""The lines of code that only a GPU reaches, each with the tests of this folder that would reach it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pretrain", "transfer", "detection", "segmentation", "finegrained", "results")
# What names a GPU, or does something else where there is one.
SIGN = re.compile(
    r'"cuda"|is_cuda|torch\.cuda|"nccl"|backends\.cudnn\.|GradScaler\(|\bpin_memory\b|=pin\b|\.compile\(\)|nn\.SyncBatchNorm\b|"fp16"'
)
VOC = "test_1_voc.py::test_thirty_iterations_stopped_and_resumed"
MASKS = "test_2_masks.py::test_mask_rcnn_in_mixed_precision"
VIEWS = "test_3_pretraining.py::test_bf16_with_views_on_the_device"
NCCL = "test_3_pretraining.py::test_nccl_with_one_process"
SCALING = "test_3_pretraining.py::test_loss_scaling"
COMPILED = "test_3_pretraining.py::test_compiled"
FEATURES = "test_4_features.py::test_features_are_those_of_the_cpu"
SUITE = "test_8_suite.py::test_two_checkpoints_one_after_the_other"
CROPS = "test_5_probes.py::test_sgd_on_crops"

# File → the tests that run its lines on a GPU. None: it takes two GPUs.
TESTS: dict[str, tuple[str, ...]] = {
    "pretrain/data.py": (VIEWS,),
    "pretrain/machine.py": (VIEWS,),
    "pretrain/nuclear.py": (VIEWS,),
    "pretrain/step.py": (SCALING,),
    "pretrain/train.py": (VIEWS, COMPILED),
    "transfer/cli.py": (VOC,),
    "transfer/runtime/batch_norm.py": (),
    "transfer/runtime/conditions.py": (VOC, VIEWS),
    "detection/engines/run.py": (MASKS,),
    "detection/engines/checkpoint.py": (MASKS,),
    "transfer/checkpoints/verify.py": (VOC, MASKS),
    "transfer/classification/features.py": (FEATURES,),
    "transfer/runtime/provenance.py": (VOC,),
    "transfer/classification/sgd/data.py": (CROPS,),
    "transfer/classification/sgd/layerwise.py": (CROPS,),
    "transfer/runtime/world.py": (NCCL,),
    "transfer/runtime/progress.py": (VOC,),
    "transfer/checkpoints/speed.py": (SUITE,),
    "transfer/suites/command.py": (SUITE,),
    "transfer/suites/slots.py": (SUITE,),
}
# They name a GPU to refuse it or to speak of it: a CPU reaches these lines.
ON_A_CPU = ("pretrain/recipe.py", "detection/protocols.py", "detection/recipe.py", "transfer/task.py")


def reached() -> dict[str, tuple[str, ...]]:
    """Gives "file: code" → the tests that reach it on a GPU; empty: none does, it takes two GPUs.

    Raises:
        KeyError: a file that names a GPU and stands in neither list.
    """
    found = {}
    for place in lines_that_name_a_gpu():
        path = place.partition(": ")[0]
        if path not in ON_A_CPU:
            found[place] = TESTS[path]
    return found


@cache
def lines_that_name_a_gpu() -> tuple[str, ...]:
    """Gives "file: code" of every line outside docstrings and comments that `SIGN` is found in, file by file."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            source = path.read_text(encoding="utf-8")
            if not SIGN.search(source):
                continue
            documented = _documented(ast.parse(source))
            for number, line in enumerate(source.splitlines(), 1):
                code = line.strip()
                if number not in documented and not code.startswith("#") and SIGN.search(code):
                    found.append(f"{name}: {code}")
    return tuple(found)


def _documented(tree: ast.Module) -> set[int]:
    """Numbers of the lines of docstrings."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno:
                found |= set(range(first.lineno, first.end_lineno + 1))
    return found
