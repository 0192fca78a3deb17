"""Whole runs of the classification tasks on small images: what they report, choose, keep and refuse."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from classification_runs import CLASSES, SMALL, TINY_SGD, run, write_csv, write_images
from official_layouts import write_imagenet, write_inat18, write_places205

from transfer.__main__ import main
from transfer.checkpoints.backbone import random_backbone
from transfer.classification.probes.knn import knn
from transfer.classification.trunk import Trunk
from transfer.classification.views import Frozen, WholeView
from transfer.cli import run_command, understood
from transfer.datasets.labels.own_images import read_image_folder
from transfer.record import read_record
from transfer.runtime.files import ROOT
from transfer.task import load_task
from transfer.tasks.voc07_lowshot import draw

RANDOM = "random:resnet18"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory):
    """One runs folder: tasks find each other's features."""
    return tmp_path_factory.mktemp("runs")


def test_knn_equals_the_classifier_by_hand(images, shared_runs):
    (record,) = run("transfer.knn", RANDOM, "--image-folder", str(images), *SMALL, "--ks", "3", "20", runs=shared_runs)
    splits, view = read_image_folder(images), WholeView(32, 32, interpolation="bicubic")
    trunk = Trunk(random_backbone("resnet18", 0), ("avg",), torch.device("cpu"))
    features = {
        split.name: trunk(torch.stack([view(split.images.read(i)) for i in range(len(split))]))["avg"]
        for split in (splits.train, splits.test)
    }
    train, test = features.values()
    votes = knn(train, torch.from_numpy(splits.train.labels), test, classes=3, k=(3, 20))
    for k in (3, 20):
        expected = 100 * float((votes[k].numpy() == splits.test.labels).mean())
        assert record.metrics[f"top1_k{k}"] == pytest.approx(expected)
    assert record.primary_metric == "top1_k20"
    assert record.verification["tensors"] == record.verification["expected"] == 100
    assert ("architecture", "resnet18") in {(d["what"], d["run"]) for d in record.differences}
    assert record.data["train"]["images"] == 24


def test_features_are_computed_once_for_all_seeds(images, tmp_path, capsys):
    options = ["--image-folder", str(images), *SMALL, "--holdout", "0.25", "--penalties", "0.1", "1", "10"]
    first, second = run("finegrained.own_linear", RANDOM, *options, "--seeds", "0", "1", runs=tmp_path)
    said = capsys.readouterr().err
    assert said.count("0 of 1 chunks are cached") == 2  # train and test, by the first run
    assert said.count("1 of 1 chunks are cached") == 2
    assert said.rindex("0 of 1") < said.index("1 of 1")
    assert first.metrics["top1"] == 100  # colours are easy
    assert [line["penalty"] for line in first.details["sweep"]] == [0.1, 1, 10]
    assert first.details["validation_images"] == 6
    assert first.details["per_class"] == dict.fromkeys(CLASSES, 100.0)
    assert second.seed == 1


def test_a_run_extracts_what_the_next_ones_want_and_their_numbers_are_the_same(images, tmp_path, capsys):
    common = [RANDOM, "--image-folder", str(images), "--device", "cpu", "--runs", str(tmp_path / "beside")]
    knn = ["transfer.knn", *common, *SMALL, "--ks", "20"]
    view = ["--view.resize", "40", "--view.crop", "32"]
    linear = ["--pooling", "max", "--penalties", "1", "10", *view]
    line = understood(["finegrained.own_linear", *common, *linear])
    beside = line.task.frozen(line.recipe)
    assert beside == (Frozen(WholeView(40, 32, interpolation="bicubic"), ("max",)),)
    refused = Frozen(WholeView(24, 32), ("avg",))
    assert run_command(knn, (refused, *beside, Frozen(beside[0].view, ("max",), "bf16"))) == 0
    assert len(list(tmp_path.glob("beside/features/*/done.json"))) == 4  # train and test, of both
    capsys.readouterr()
    (found,) = run("finegrained.own_linear", *common[:3], *linear, runs=tmp_path / "beside")
    assert capsys.readouterr().err.count("1 of 1 chunks are cached") == 2
    (alone,) = run("finegrained.own_linear", *common[:3], *linear, runs=tmp_path / "alone")
    assert (found.run_id, found.metrics, found.details) == (alone.run_id, alone.metrics, alone.details)


def test_what_a_linear_protocol_takes_from_the_frozen_backbone():
    task = load_task("transfer.imagenet_linear")
    assert task.frozen(task.protocols["vicreg"]) == ()  # random crops
    cached = task.presets["cpu"][1]
    assert task.frozen(cached) == (Frozen(WholeView(128, 128, interpolation="bicubic"), ("avg",)),)
    one = dataclasses.replace(cached, lrs=(), weight_decays=())
    assert not task.frozen(one)[0].val  # nothing is chosen


def test_features_of_other_threads_are_used_and_the_record_says_so(images, tmp_path):
    options = ["--image-folder", str(images), *SMALL]
    (made,) = run("transfer.knn", RANDOM, *options, "--ks", "20", "--threads", "2", runs=tmp_path)
    assert made.conditions["threads"] == 2
    records = run("transfer.knn", RANDOM, *options, "--ks", "3", "20", runs=tmp_path)
    (reused,) = [record for record in records if record.run_id != made.run_id]
    assert reused.conditions["threads"] == 1
    for split in ("train", "test"):
        of = f"features of {made.data[split]['name']} are of an earlier run"
        assert f"{of}: the number of CPU threads was 2 and is now 1" in reused.notes
    assert not [note for note in made.notes if "threads" in note]


def test_levels_of_a_csv_are_reported(images, shared_runs):
    levels = {"blue": "cold", "green": "cold", "red": "warm"}
    file = write_csv(images, levels)
    options = ["--csv", str(file), "--csv-levels", "kind", *SMALL, "--ks", "1", "20"]
    (record,) = [r for r in run("transfer.knn", RANDOM, *options, runs=shared_runs) if "top1_k20_kind" in r.metrics]
    assert record.metrics["top1_k20_kind"] >= record.metrics["top1_k20"]


@pytest.mark.slow
def test_linear_in_both_forms_and_the_search_is_kept(images, tmp_path):
    common = ["--image-folder", str(images), *TINY_SGD, "--sgd.epochs", "6", "--holdout", "0.25"]
    (crops,) = run("transfer.imagenet_linear", RANDOM, *common, "--lrs", "0.1", "1", "1e9", runs=tmp_path / "crops")
    assert len(crops.details["sweep"]) == 3
    assert crops.details["chosen"]["lr"] in (0.1, 1.0)
    assert crops.metrics["top1"] > 60
    assert {d["what"] for d in crops.differences} >= {"data", "lrs", "sgd.crop"}
    cached, = run(
        "transfer.imagenet_linear", RANDOM, *common, "--form", "cached", "--lrs", "0.1", "1", "--poolings", "avg",
        "max", runs=tmp_path / "cached",
    )  # fmt: skip
    assert [(line["lr"], line["pooling"]) for line in cached.details["sweep"]] == [
        (0.1, "avg"), (0.1, "max"), (1.0, "avg"), (1.0, "max"),
    ]  # fmt: skip
    assert ("form", "crops", "cached") in {(d["what"], d["protocol"], d["run"]) for d in cached.differences}
    assert cached.metrics["top1"] > 60


def test_a_single_classifier_is_trained_on_all_images_and_chosen_by_nothing(images, tmp_path):
    options = ["--image-folder", str(images), *TINY_SGD, "--sgd.epochs", "1", "--poolings", "avg"]
    (record,) = run("transfer.places205_linear", RANDOM, *options, runs=tmp_path)
    assert record.details["validation_images"] == 0
    assert "validation" not in record.details["chosen"]


@pytest.mark.slow
def test_fine_tuning_and_its_search(images, tmp_path):
    tiny = ["--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "8", "--sgd.steps", "3"]
    options = ["--image-folder", str(images), *tiny, "--lrs", "0.01", "1e12", "--decays", "0", "--holdout", "0.25"]
    (record,) = run("finegrained.own_finetune", RANDOM, *options, runs=tmp_path)
    values = [line["validation"] for line in record.details["sweep"]]
    assert values[1] is None  # diverged, and out of the search
    assert record.details["chosen"]["lr"] == 0.01
    workdir = tmp_path / "work" / "finegrained.own_finetune" / record.run_id
    assert not list(workdir.glob("search_*/fit.pth"))
    assert (workdir / "final" / "fit.pth").exists()


@pytest.mark.slow
def test_semi_supervised_on_the_official_lists(tmp_path):
    write_imagenet(tmp_path)
    tiny = ["--sgd.epochs", "1", "--sgd.batch", "4", "--sgd.crop", "32", "--sgd.resize", "32", "--sgd.processes", "1"]
    (record,) = run("transfer.imagenet_semi_10", RANDOM, "--data-root", str(tmp_path), *tiny, runs=tmp_path / "runs")
    assert record.data["train"]["images"] == 6
    assert any("128,116" in note for note in record.notes)


@pytest.mark.parametrize(
    ("task", "write"),
    [
        ("transfer.imagenet_finetune", write_imagenet),
        ("finegrained.inat18_finetune", write_inat18),
    ],
)
@pytest.mark.slow
def test_full_fine_tuning_in_the_official_layouts(task, write, tmp_path):
    write(tmp_path)
    tiny = ["--sgd.batch", "3", "--sgd.crop", "32", "--sgd.resize", "32", "--sgd.processes", "1"]
    schedule = ["--sgd.epochs", "2", "--sgd.milestones", "1", "--sgd.lr", "0.01", "--sgd.lr-backbone", "0.01"]
    (record,) = run(task, RANDOM, "--data-root", str(tmp_path), *tiny, *schedule, runs=tmp_path / "runs")
    assert record.status == "finished"
    assert record.protocol == "vissl"
    assert {"sgd.epochs", "sgd.milestones", "start of the classifier"} <= {line["what"] for line in record.differences}
    (curve,) = (tmp_path / "runs").rglob("metrics.jsonl")
    rates = [json.loads(line)["lr_backbone"] for line in curve.read_text(encoding="utf-8").splitlines()]
    assert rates[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("task", "write", "level"),
    [("finegrained.inat18_linear", write_inat18, "top1_supercategory"),
     ("transfer.places205_linear", write_places205, None)],
)  # fmt: skip
def test_official_layouts_end_to_end(task, write, level, tmp_path):
    write(tmp_path)
    options = ["--data-root", str(tmp_path), *TINY_SGD, "--sgd.epochs", "2", "--poolings", "avg", "max"]
    (record,) = run(task, RANDOM, *options, runs=tmp_path / "runs")
    assert record.status == "finished"
    assert any("the official split has" in note for note in record.notes)
    assert level is None or level in record.metrics
    assert {"top1", "top1_max"} <= set(record.metrics)  # side by side, none chosen
    assert record.details["validation_images"] == 0


@pytest.fixture(scope="module")
def voc(toy):
    return ["--image-folder", str(toy / "voc"), "--train", "train", *SMALL, "--pooling", "avg"]


@pytest.mark.slow
def test_voc07_svm_by_both_solvers(voc, tmp_path):
    (ours,) = run("transfer.voc07_svm", RANDOM, *voc, "--costs", "0.1", "1", "10", runs=tmp_path / "ours")
    assert set(ours.metrics) == {"mAP", "mAP_11point"}
    assert ours.details["features"] == 512
    assert ours.details["not_converged"] == 0
    assert len(ours.details["sweep"]["dotted_disc"]) == 3
    (theirs,) = run(
        "transfer.voc07_svm", RANDOM, *voc, "--costs", "0.1", "1", "10", "--solver", "liblinear",
        runs=tmp_path / "theirs",
    )  # fmt: skip
    assert ours.details["costs"] == theirs.details["costs"]
    assert ours.metrics["mAP"] == pytest.approx(theirs.metrics["mAP"], abs=0.3)


@pytest.mark.slow
def test_voc07_lowshot_reports_the_mean_over_draws_and_keeps_what_is_published(voc, tmp_path):
    options = [*voc, "--ks", "1", "8", "--draws", "2", "--costs", "0.1", "10"]
    (record,) = run("transfer.voc07_lowshot", RANDOM, *options, runs=tmp_path)
    about = record.details["k8"]
    assert record.metrics["mAP_k8"] == pytest.approx(np.mean(about["draws"]))
    assert about["sweep"][str(about["cost"])]["test"] == pytest.approx(record.metrics["mAP_k8"])
    best = max(about["sweep"].values(), key=lambda line: line["not_drawn"])
    assert best["test"] == pytest.approx(record.metrics["mAP_k8"])  # chosen on what was not drawn
    assert about["as_published"] >= record.metrics["mAP_k8"]


@pytest.mark.slow
def test_voc07_lowshot_needs_enough_images(voc, tmp_path, capsys):
    assert main(["run", "transfer.voc07_lowshot", RANDOM, *voc, "--runs", str(tmp_path)]) == 2
    assert "too few images that show" in capsys.readouterr().err


def test_a_single_label_set_is_no_set_for_svms(images, tmp_path, capsys):
    assert main(["run", "transfer.voc07_svm", RANDOM, "--image-folder", str(images), "--runs", str(tmp_path)]) == 2
    assert "one label an image" in capsys.readouterr().err


def test_a_set_of_several_labels_is_none_for_the_others(voc, tmp_path, capsys):
    assert main(["run", "transfer.knn", RANDOM, *voc[:4], "--runs", str(tmp_path)]) == 2
    assert "several labels an image" in capsys.readouterr().err


def test_draws_hold_k_that_show_a_class_and_k_for_each_other_class():
    labels = np.random.default_rng(0).choice([1, 0, -1], (400, 4), p=[0.3, 0.1, 0.6]).astype(np.int8)
    drawn = draw(labels, 5, (0, 5, 0))
    for column in range(4):
        chosen = labels[drawn[:, column], column]
        assert (chosen == 1).sum() == 5
        assert (chosen == -1).sum() == 15
        assert not (chosen == 0).any()
    np.testing.assert_array_equal(drawn, draw(labels, 5, (0, 5, 0)))
    assert (drawn != draw(labels, 5, (0, 5, 1))).any()


def test_an_unreadable_image_is_named_and_a_budget_leaves_it_out(tmp_path, capsys):
    folder = write_images(tmp_path / "images")
    (folder / "train" / "red" / "3.png").write_bytes(b"not an image")
    options = ["--image-folder", str(folder), *SMALL, "--ks", "20"]
    (failed,) = run("transfer.knn", RANDOM, *options, runs=tmp_path / "runs", status=1)
    assert "red/3.png" in failed.failure["message"]
    assert "--unreadable 1" in failed.failure["message"]
    (record,) = run("transfer.knn", RANDOM, *options, "--unreadable", "1", runs=tmp_path / "runs")
    assert record.status == "finished"
    assert any("1 images could not be read" in note and "red/3.png" in note for note in record.notes)


def test_duplicates_across_train_and_test_are_counted(tmp_path):
    folder = write_images(tmp_path / "images")
    (folder / "test" / "red" / "copy.png").write_bytes((folder / "train" / "red" / "0.png").read_bytes())
    (record,) = run("transfer.knn", RANDOM, "--image-folder", str(folder), *SMALL, "--ks", "20", runs=tmp_path / "runs")
    assert record.details["duplicates"] == 1
    assert any("byte for byte" in note for note in record.notes)


def test_own_tasks_want_images(tmp_path, capsys):
    assert main(["run", "finegrained.own_linear", RANDOM, "--runs", str(tmp_path)]) == 2
    assert "--image-folder DIR" in capsys.readouterr().err


def test_days_of_work_on_a_cpu_are_refused(tmp_path, capsys):
    write_imagenet(tmp_path)
    options = ["--data-root", str(tmp_path), "--sgd.epochs", "10000000", "--runs", str(tmp_path / "runs")]
    assert main(["run", "transfer.imagenet_linear", RANDOM, *options, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "days of training on this CPU" in said
    assert "--preset cpu" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [("transfer/run_imagenet.sh", [*TINY_SGD, "--sgd.epochs", "3", "--lrs", "0.1", "1", "--holdout", "0.25"]),
     ("transfer/run_knn.sh", [*SMALL, "--ks", "20"])],
)  # fmt: skip
def test_two_processes_give_the_record_of_one(script, options, images, tmp_path):
    found = []
    for count in ("", "2"):
        runs = tmp_path / f"runs{count}"
        command = ["bash", str(ROOT / script), RANDOM, "--image-folder", str(images), *options, "--device", "cpu"]
        environment = {**os.environ, "PYTHON": sys.executable, "TORCHRUN": count, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--runs", str(runs)], env=environment, check=True, timeout=200)
        (path,) = (runs / "records").rglob("*.json")
        found.append(read_record(path))
    one, two = found
    assert one.run_id == two.run_id
    assert one.metrics == pytest.approx(two.metrics, abs=1e-6)
    assert "2 processes" in two.notes


def test_a_class_that_lies_in_the_held_out_part_alone_is_learned_in_the_end(tmp_path):
    folder = write_images(tmp_path / "images")
    for number in range(1, 8):
        (folder / "train" / "red" / f"{number}.png").unlink()  # one image is left
    options = ["--image-folder", str(folder), *SMALL, "--holdout", "0.3", "--penalties", "1e-6", "1"]
    for record in run(
        "finegrained.own_linear", RANDOM, *options, "--seeds", "0", "1", "2", "3", runs=tmp_path / "runs"
    ):
        assert record.metrics["top1"] > 60
        assert not any("not converged" in note for note in record.notes)


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_search_is_no_divergence(images, tmp_path):
    tiny = ["--sgd.crop", "32", "--sgd.resize", "32", "--sgd.batch", "8", "--sgd.steps", "2"]
    options = ["--image-folder", str(images), *tiny, "--lrs", "0.1", "0.01", "--decays", "0", "--holdout", "0.25"]
    (record,) = run("finegrained.own_finetune", RANDOM, *options, runs=tmp_path)
    workdir = tmp_path / "work" / record.task / record.run_id
    (workdir / "search_1" / "validation.json").unlink()
    (workdir / "search_1" / "fit.pth").write_bytes(b"cut short")
    (tmp_path / "records" / record.task / f"{record.run_id}.json").unlink()
    (failed,) = run("finegrained.own_finetune", RANDOM, *options, runs=tmp_path, status=1)
    assert "cannot resume from" in failed.failure["message"]


def test_images_left_out_of_sgd_training_are_in_the_record(tmp_path):
    folder = write_images(tmp_path / "images")
    (folder / "train" / "red" / "3.png").write_bytes(b"not an image")
    options = ["--image-folder", str(folder), *TINY_SGD, "--sgd.epochs", "1", "--unreadable", "1", "--holdout", "0.25"]
    (record,) = run("transfer.imagenet_linear", RANDOM, *options, runs=tmp_path / "runs")
    assert any("left out" in note and "red/3.png" in note for note in record.notes)


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [("finegrained.own_linear", ["--view.crop", "300"], "crop 300, resize 224"),
     ("finegrained.own_linear", ["--penalties", "0"], "--penalties"),
     ("finegrained.own_linear", ["--holdout", "1"], "--holdout 1"),
     ("finegrained.own_linear", ["--workers", "-1"], "--workers -1"),
     ("finegrained.own_finetune", ["--sgd.lr", "5"], "--lrs"),
     ("finegrained.own_finetune", ["--sgd.crop", "300"], "crop 300"),
     ("transfer.imagenet_linear", ["--precision", "bf16"], "cached form"),
     ("transfer.imagenet_linear", ["--sgd.smallest", "2"], "smallest 2"),
     ("transfer.imagenet_linear", ["--sgd.optimizer", "lars"], "trust 0"),
     ("finegrained.own_finetune", ["--sgd.optimizer", "lars", "--sgd.trust", "0.1"], "optimizer lars"),
     ("transfer.knn", [], "--ks of 1 … 24")],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused_before_anything_is_computed(
    task, options, said, images, tmp_path, capsys
):
    arguments = ["run", task, RANDOM, "--image-folder", str(images), *options, "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_is_done_otherwise_than_published_is_a_difference(voc, images, tmp_path):
    (svm,) = run("transfer.voc07_svm", RANDOM, *voc, "--costs", "1", runs=tmp_path / "svm")
    assert ("solver", "liblinear", "batched") in {(d["what"], d["protocol"], d["run"]) for d in svm.differences}
    (linear,) = run("finegrained.own_linear", RANDOM, "--image-folder", str(images), *SMALL, runs=tmp_path / "linear")
    assert "end of the fit" in {d["what"] for d in linear.differences}
