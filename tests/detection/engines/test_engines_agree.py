"""What must be equal whichever engine trains: verified weights, image order, learning rates, what is frozen."""

import dataclasses

import pytest

from detection.engines.choose import load_engine
from detection.engines.progress import TrainingLog

pytest.importorskip("detectron2")
pytest.importorskip("mmdet")
from mmdet_toy import TINY, TINY_C4, job_of

pytestmark = pytest.mark.detectron2
ENGINES = ("detectron2", "mmdet")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [TINY, dataclasses.replace(TINY_C4, extra_norm=True)], ids=["fpn", "c4"])
def test_both_verify_the_same_number_of_tensors_and_compute_what_torchvision_does(recipe, dataset, tmp_path):
    untrained = dataclasses.replace(recipe, iterations=0, precise_bn=0)
    verified = {
        name: load_engine(name).run(job_of(dataset, tmp_path / name, untrained)).verification for name in ENGINES
    }
    assert verified["detectron2"].tensors == verified["mmdet"].tensors == 100
    assert sorted(verified["detectron2"].by_part.values()) == sorted(verified["mmdet"].by_part.values())
    for verification in verified.values():
        assert max(verification.stage_error.values()) < 1e-4


@pytest.mark.slow
def test_both_see_the_same_images_in_the_same_order_at_the_same_learning_rates(dataset, tmp_path, monkeypatch):
    from detection.engines.detectron2 import data as detectron2_data
    from detection.engines.mmdet import data as mmdet_data

    recipe = dataclasses.replace(TINY, iterations=6, warmup_iterations=3, steps=(4, 5), precise_bn=0)
    seen, rates = {}, {}
    for name, module in zip(ENGINES, (detectron2_data, mmdet_data), strict=True):
        order, lrs = seen.setdefault(name, []), rates.setdefault(name, [])
        original = module.read_pixels
        log_step = TrainingLog.step
        with monkeypatch.context() as patch:
            patch.setattr(
                module, "read_pixels", lambda image, *a, o=order, f=original: o.append(image.name) or f(image, *a)
            )
            patch.setattr(
                TrainingLog, "step", lambda log, i, lr, losses, r=lrs, f=log_step: r.append(lr) or f(log, i, lr, losses)
            )
            load_engine(name).run(job_of(dataset, tmp_path / name, recipe))
    training_reads = recipe.iterations * recipe.batch
    assert seen["detectron2"][:training_reads] == seen["mmdet"][:training_reads]
    assert rates["detectron2"] == pytest.approx(rates["mmdet"], rel=1e-6)
    assert len(rates["mmdet"]) == recipe.iterations
