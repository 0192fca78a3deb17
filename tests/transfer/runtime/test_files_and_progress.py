"""Whole files or none; curves that survive kills; PreciseBN against its definition."""

import json
import logging
import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detection.engines.precise_bn import update_bn_statistics
from detection.engines.progress import TrainingLog
from detection.engines.run import predict
from transfer.datasets.boxes.detection import Detections
from transfer.runtime.errors import DataError, TrainingError, UserError
from transfer.runtime.files import write_atomically, write_json, write_text
from transfer.runtime.progress import read as read_progress
from transfer.runtime.progress import report_to
from transfer.runtime.world import World


def test_a_failing_writer_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot write") as error:
        write_atomically(path, fail)
    assert "No space left" in str(error.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"AP": float("nan")})
    assert not list(tmp_path.iterdir())


def test_errors_travel_between_processes_whole():
    error = pickle.loads(pickle.dumps(DataError("what", found="this", todo="that")))
    assert isinstance(error, DataError)
    assert str(error) == "what\n  found: this\n  to do: that"


def test_log_drops_what_a_resume_will_do_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = TrainingLog(path, start=0, total=10, every=2)
    for i in range(7):
        log.step(i, 0.1, {"loss_a": 1.0, "loss_b": 0.5})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    TrainingLog(path, start=4, total=10, every=2).step(4, 0.1, {"loss_a": 1.0})
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["loss"] == 1.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, value):
    log = TrainingLog(tmp_path / "m.jsonl", 0, 10)
    with pytest.raises(TrainingError, match="iteration 3") as error:
        log.step(3, 0.1, {"loss_cls": value, "loss_box": 1.0})
    assert "loss_cls" in str(error.value)


def test_log_speaks_where_there_is_no_terminal(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        TrainingLog(tmp_path / "m.jsonl", 0, 40).step(19, 0.1, {"l": 2.0})
    assert "iteration 20/40" in caplog.text


class Stub:
    """A detector that finds nothing in five images."""

    name, model, nothing = "stub", nn.BatchNorm2d(1), Detections.concatenate([])
    job = SimpleNamespace(test=SimpleNamespace(images=range(5)), world=World())

    def detect(self, images):
        return (self.nothing for _ in images)


def test_training_and_prediction_say_how_far_they_are(tmp_path):
    file = tmp_path / "progress.json"
    with report_to(file):
        log = TrainingLog(tmp_path / "m.jsonl", 4, 10)
        for i in range(4, 7):
            log.step(i, 0.1, {"l": 2.0})
        log.close()
        found = read_progress(file)
        assert (found.what, found.began, found.done, found.total) == ("training", 4, 7, 10)
        predict(Stub())
        found = read_progress(file)
        assert (found.what, found.began, found.done, found.total) == ("predict", 0, 5, 5)


def test_precise_bn_is_the_average_of_batch_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    model[3].eval()  # frozen: must stay as it is
    frozen = model[3].running_mean.clone()
    batches = [torch.randn(4, 2, 5, 5) for _ in range(3)]
    assert update_bn_statistics(model, batches, model, 3) == 1
    features = [model[0](x) for x in batches]
    means = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variances = torch.stack([f.var((0, 2, 3), unbiased=True) for f in features]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert torch.equal(model[3].running_mean, frozen)
    assert model[1].momentum == 0.1


def test_precise_bn_wants_all_its_batches():
    model = nn.BatchNorm1d(2)
    with pytest.raises(ValueError, match="wants 3 batches, got 1"):
        update_bn_statistics(model, [torch.randn(4, 2)], model, 3)
    assert model.momentum == 0.1
