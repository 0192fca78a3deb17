"""torchvision's kernels under mmcv's names: against mmcv's published arrays and plain Python definitions."""

import math
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from detection.engines import mmcv_ops
from transfer.runtime.errors import EngineError

pytest.importorskip("mmcv")
mmcv_ops.install()
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align, sigmoid_focal_loss, soft_nms  # noqa: E402

# Inputs, outputs and gradients of open-mmlab/mmcv: tests/test_ops/test_roi_align.py
# (2 × 2 bins, scale 1, 2 × 2 samples per bin, aligned; the gradient is that of the sum).
PUBLISHED = [
    ([[[1, 2], [3, 4]]], (0, 0, 1, 1), [[[1.0, 1.25], [1.5, 1.75]]], [[[3.0625, 0.4375], [0.4375, 0.0625]]]),
    (
        [[[1, 2], [3, 4]], [[4, 3], [2, 1]]],
        (0, 0, 1, 1),
        [[[1.0, 1.25], [1.5, 1.75]], [[4.0, 3.75], [3.5, 3.25]]],
        [[[3.0625, 0.4375], [0.4375, 0.0625]]] * 2,
    ),
    (
        [[[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]],
        (0, 0, 3, 3),
        [[[1.9375, 4.75], [7.5625, 10.375]]],
        [np.outer([0.6875, 0.625, 0.625, 0.0625], [0.6875, 0.625, 0.625, 0.0625])],
    ),
]


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_gives_mmcv_published_values(case, dtype):
    image, box, output, gradient = PUBLISHED[case]
    x = torch.tensor([image], dtype=dtype, requires_grad=True)
    out = roi_align(x, torch.tensor([[0, *box]], dtype=dtype), (2, 2), 1.0, 2, "avg", True)
    out.sum().backward()
    np.testing.assert_allclose(out.detach()[0], output, atol=1e-6)
    np.testing.assert_allclose(x.grad[0], np.array(gradient), atol=1e-6)


def naive_roi_align(x, rois, size, scale, ratio, aligned):
    """The definition, sample by sample (He et al., Mask R-CNN, section 3)."""
    height, width = x.shape[2:]
    offset = 0.5 if aligned else 0.0
    regions = []
    for index, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - offset for value in box)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
        bin_w, bin_h = w / size, h / size
        nx, ny = (ratio, ratio) if ratio else (math.ceil(bin_w), math.ceil(bin_h))
        bins = []
        for i in range(size):
            for j in range(size):
                total = x.new_zeros(x.shape[1])
                for iy in range(ny):
                    for ix in range(nx):
                        py = y1 + i * bin_h + (iy + 0.5) * bin_h / ny
                        px = x1 + j * bin_w + (ix + 0.5) * bin_w / nx
                        if not (-1.0 <= py <= height and -1.0 <= px <= width):
                            continue
                        py, px = max(py, 0.0), max(px, 0.0)
                        top, left = min(int(py), height - 1), min(int(px), width - 1)
                        # Beyond the last row or column its value is continued.
                        py, px = min(py, height - 1.0), min(px, width - 1.0)
                        down, right = min(top + 1, height - 1), min(left + 1, width - 1)
                        fy, fx = py - top, px - left
                        plane = x[int(index)]
                        total = total + (
                            plane[:, top, left] * (1 - fy) * (1 - fx)
                            + plane[:, top, right] * (1 - fy) * fx
                            + plane[:, down, left] * fy * (1 - fx)
                            + plane[:, down, right] * fy * fx
                        )
                bins.append(total / max(nx * ny, 1))
        regions.append(torch.stack(bins, dim=-1).view(-1, size, size))
    return torch.stack(regions)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_equals_its_definition_in_value_and_gradient(aligned, ratio):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 2, 7, 9, generator=generator, dtype=torch.float64)
    corners = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 24
    sides = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 12 + 0.5
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[0] = torch.tensor([-6.0, -5.0, 50.0, 45.0])  # far over all borders of the 28 × 36 image
    rois = torch.cat([torch.tensor([[0.0], [1], [1], [0], [1]], dtype=torch.float64), boxes], dim=1)
    weights = torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    results = []
    for function in (
        lambda x: RoIAlign((3, 3), 0.25, ratio, "avg", aligned)(x, rois),
        lambda x: naive_roi_align(x, rois, 3, 0.25, ratio, aligned),
    ):
        x = features.clone().requires_grad_()
        out = function(x)
        (out * weights).sum().backward()
        results.append((out.detach(), x.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)


def test_roi_align_gradient_is_the_derivative():
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.2, 3.9, 3.1], [0, 1, 1, 2.5, 4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: roi_align(value, rois, (2, 3), 1.0, 0, "avg", True), (x,))


def test_max_pooling_is_refused_by_name():
    with pytest.raises(EngineError, match="max"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), (2, 2), 1.0, 2, "max", True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roi_align_of_half_precision_is_that_of_the_same_numbers(dtype):
    """Regions too: computed in float32 and rounded once."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(1, 2, 8, 8, generator=generator).to(dtype).requires_grad_()
    rois = torch.tensor([[0, 0.5, 1.25, 6.5, 7.0]]).to(dtype)
    single = half.detach().float().requires_grad_()
    for x in (half, single):
        roi_align(x, rois.to(x.dtype), (2, 2), 1.0, 0, "avg", True).sum().backward()
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, single.grad.to(dtype))


# Inputs, outputs and gradients of open-mmlab/mmcv: tests/test_ops/test_focal_loss.py (gamma 2, alpha 0.25, mean).
FOCAL = [
    ([[1.0, 0], [0, 1.0]], [0, 1], 0.13562961, [[-0.00657264, 0.11185755], [0.11185755, -0.00657264]]),
    (
        [[1.0, 0, -1.0], [0, 1.0, 2.0]],
        [2, 1],
        1.10251057,
        [[0.28808805, 0.11185755, -0.09602935], [0.11185755, -0.00657264, 0.40376765]],
    ),
    (
        [[1e-6, 2e-6, 3e-6], [4e-6, 5e-5, 6e-4], [7e-3, 8e-2, 9e-1]],
        [1, 2, 0],
        0.42287254,
        [
            [0.07457182, -0.02485716, 0.07457201],
            [0.07457211, 0.07457669, -0.02483728],
            [-0.02462499, 0.08277918, 0.18050370],
        ],
    ),
]


@pytest.mark.parametrize(("logits", "target", "loss", "gradient"), FOCAL)
def test_focal_loss_gives_mmcv_published_values(logits, target, loss, gradient):
    x = torch.tensor(logits, requires_grad=True)
    out = sigmoid_focal_loss(x, torch.tensor(target), 2.0, 0.25, None, "mean")
    out.backward()
    np.testing.assert_allclose(out.detach(), loss, rtol=1e-5)
    np.testing.assert_allclose(x.grad, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_focal_loss_equals_torchvisions_in_value_and_gradient(gamma, alpha):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64) * 20  # as sure as can be, too
    target = torch.randint(0, 6, (40,), generator=generator)  # 5 is the background
    ones = torch.nn.functional.one_hot(target, 6)[:, :5].double()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    factors = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    losses = [
        sigmoid_focal_loss(ours, target, gamma, alpha, None, "none"),
        torchvision_focal_loss(theirs, ones, alpha, gamma, "none"),
    ]
    for loss in losses:
        (loss * factors).sum().backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-12)


def test_focal_loss_with_weights_of_classes_is_refused():
    with pytest.raises(EngineError, match="weights of classes"):
        sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([0]), 2.0, 0.25, torch.ones(2), "mean")


def naive_nms(boxes, scores, threshold, offset=0):
    """Greedy suppression by the definition; boxes and scores are numpy arrays."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        suppressed = False
        for other in kept:
            a, b = boxes[index], boxes[other]
            w = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
            h = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
            areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
            suppressed |= w * h > threshold * (sum(areas) - w * h)
        if not suppressed:
            kept.append(int(index))
    return kept


def test_nms_gives_mmcv_published_values():
    # open-mmlab/mmcv: tests/test_ops/test_nms.py, test_nms_allclose
    boxes = np.array([[6, 3, 8, 7], [3, 6, 9, 11], [3, 7, 10, 12], [1, 4, 13, 7]], dtype=np.float32)
    scores = np.array([0.6, 0.9, 0.7, 0.2], dtype=np.float32)
    dets, kept = nms(boxes, scores, iou_threshold=0.3, offset=0)
    assert kept.tolist() == [1, 0, 3]
    np.testing.assert_allclose(dets[:, :4], boxes[[1, 0, 3]])
    np.testing.assert_allclose(dets[:, 4], [0.9, 0.6, 0.2])


def test_nms_gives_the_example_of_mmcv_documentation():
    boxes = np.array(
        [
            [49.1, 32.4, 51.0, 35.9],
            [49.3, 32.9, 51.0, 35.3],
            [49.2, 31.8, 51.0, 35.4],
            [35.1, 11.5, 39.1, 15.7],
            [35.6, 11.8, 39.3, 14.2],
            [35.3, 11.5, 39.9, 14.5],
            [35.2, 11.7, 39.7, 15.7],
        ],
        dtype=np.float32,
    )
    dets, kept = nms(boxes, np.array([0.9, 0.9, 0.5, 0.5, 0.5, 0.4, 0.3], dtype=np.float32), iou_threshold=0.6)
    assert len(dets) == len(kept) == 3


def random_boxes(seed, count=60):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)
    return boxes, rng.permutation(count) / count  # no tied scores


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_nms_equals_its_definition(seed, offset):
    boxes, scores = random_boxes(seed)
    dets, kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4, offset=offset)
    assert kept.tolist() == naive_nms(boxes, scores, 0.4, offset)
    assert dets[:, 4].tolist() == scores[kept].tolist()


def test_nms_offset_decides_where_it_must():
    # IoU 1/3 without offset; with the +1 convention 6·11 / (2·11·11 − 66) = 0.375.
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.35, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.35, offset=1)[1].tolist() == [0]


def test_nms_score_threshold_and_maximum():
    boxes, scores = random_boxes(7)
    strong = np.flatnonzero(scores > 0.5)
    expected = [int(strong[index]) for index in naive_nms(boxes[strong], scores[strong], 0.4)]
    both = torch.from_numpy(boxes), torch.from_numpy(scores)
    assert nms(*both, 0.4, score_threshold=0.5)[1].tolist() == expected
    assert nms(*both, 0.4, score_threshold=0.5, max_num=3)[1].tolist() == expected[:3]
    assert nms(*both, 0.4, max_num=2)[1].tolist() == naive_nms(boxes, scores, 0.4)[:2]


@pytest.mark.parametrize("split", [10_000, 20])
@pytest.mark.parametrize("maximum", [-1, 5])
def test_batched_nms_suppresses_within_groups_only(split, maximum):
    boxes, scores = random_boxes(11)
    groups = np.random.default_rng(1).integers(0, 3, len(boxes))
    kept = []
    for group in range(3):
        members = np.flatnonzero(groups == group)
        kept += [int(members[index]) for index in naive_nms(boxes[members], scores[members], 0.5)]
    kept.sort(key=lambda index: -scores[index])
    config = {"type": "nms", "iou_threshold": 0.5, "split_thr": split, "max_num": maximum}
    tensors = [torch.from_numpy(array) for array in (boxes, scores, groups)]
    dets, found = batched_nms(*tensors, config)
    assert found.tolist() == (kept if maximum < 0 else kept[:maximum])
    np.testing.assert_allclose(dets[:, :4], boxes[found])

    across = {"type": "nms", "iou_threshold": 0.5}
    assert batched_nms(*tensors, across, class_agnostic=True)[1].tolist() == naive_nms(boxes, scores, 0.5)
    assert batched_nms(*tensors, None)[1].tolist() == np.argsort(-scores).tolist()


def test_operations_that_are_not_there_refuse_by_name():
    with pytest.raises(EngineError, match="softnms") as caught:
        soft_nms(torch.rand(3, 4), torch.rand(3))
    assert "compiled" in str(caught.value)
    with pytest.raises(EngineError, match="deform_conv_forward"):
        sys.modules["mmcv._ext"].deform_conv_forward(1, key=2)


def test_install_keeps_what_is_there_and_steps_aside_for_compiled_kernels(monkeypatch):
    before = sys.modules["mmcv._ext"]
    assert mmcv_ops.install() is True
    assert sys.modules["mmcv._ext"] is before
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(mmcv_ops, "find_spec", lambda name: ModuleSpec(name, loader=None))
    assert mmcv_ops.install() is False
    assert "mmcv._ext" not in sys.modules
