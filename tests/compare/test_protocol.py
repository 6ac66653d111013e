"""The two protocols: what is trained, in which order, on what; and that nothing is done twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from rlrr.adapters.record import read_record
from rlrr.compare import protocol
from rlrr.compare.folder import find_result, read_result
from rlrr.compare.plan import Plan, learning_rate
from rlrr.compare.protocol import choose, measure
from rlrr.errors import RLRRError
from rlrr.recipes.recipe import Recipe

pytestmark = pytest.mark.slow

OPENED: list[Path] | None = None  # while it is a list, every file that Python opens is noted in it


def _note(event, arguments):
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(_note)


def test_the_honest_protocol_tunes_on_train_and_tests_what_all_images_trained(recipe, tmp_path, trained, fingerprint):
    said = []
    result = measure(
        "kitti", Plan(recipe, seeds=(3, 5), rates=(0.3, 1.0, 3.0)), fingerprint, tmp_path / "kitti", said.append
    )
    tuning, final = trained[:3], trained[3:]
    assert [(one.train_on, one.test, one.select, one.seed) for one in tuning] == [("train", False, "last", 3)] * 3
    assert [one.learning_rate for one in tuning] == [0.0015, 0.005, 0.015]
    assert [(one.train_on, one.test, one.protocol, one.seed) for one in final] == [
        ("trainval", True, "honest", 3),
        ("trainval", True, "honest", 5),
    ]
    assert (
        {one.learning_rate for one in final} == {result.learning_rate} == {choose(result.candidates)["learning_rate"]}
    )
    assert result.images == {"train": 6, "val": 2, "test": 8}
    measured = [read_record(tmp_path / "kitti" / f"seed-{seed}").metrics["test_accuracy"] for seed in (3, 5)]
    assert (result.accuracies, result.mean, result.deviation) == (measured, fmean(measured), stdev(measured))
    assert said == [
        *(f"kitti: learning rate {rate}, {i} of 3" for i, rate in enumerate(("0.0015", "0.005", "0.015"), start=1)),
        "kitti: seed 3, 1 of 2",
        "kitti: seed 5, 2 of 2",
    ]


def test_a_result_says_all_that_it_depends_on(recipe, tmp_path, fingerprint):
    result = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), fingerprint, tmp_path / "kitti")
    record = read_record(tmp_path / "kitti" / "seed-0")
    assert result == read_result(tmp_path / "kitti")
    assert result.label == "last epoch, tested once; learning rate not tuned"
    assert result.candidates == []
    assert result.deviation is None
    assert result.recipe_sha256 == recipe.digest()
    assert result.fingerprint == record.backbone["fingerprint"]
    assert result.data_sha256 == [record.data["sha256"]]
    assert result.test_sha256 == [record.data["test_sha256"]]
    assert (result.versions, result.parameters) == (record.versions, record.parameters)
    assert (result.device, result.peak_memory_mb) == (record.metrics["device"], record.metrics["peak_memory_mb"])


def test_the_papers_protocol_is_one_run_and_its_number_is_called_what_it_is(recipe, tmp_path, trained, fingerprint):
    result = measure("kitti", Plan(recipe, "paper", seeds=(42,), rates=(1.0,)), fingerprint, tmp_path / "kitti")
    assert [(one.protocol, one.seed) for one in trained] == [("paper", 42)]
    assert result.label == "best test epoch"
    assert result.accuracies == [read_record(tmp_path / "kitti" / "paper-42").metrics["best_test_accuracy"]]


def test_rates_that_are_almost_alike_are_two_runs(recipe, tmp_path, trained, fingerprint):
    plan = Plan(recipe, seeds=(0,), rates=(0.3333333, 0.33333333))
    measure("kitti", plan, fingerprint, tmp_path / "kitti")
    assert [one.learning_rate for one in trained[:2]] == [0.0016666665, 0.00166666665]
    assert (tmp_path / "kitti" / "rate-0.33333333").exists()


@pytest.mark.parametrize("split", ["train800", "val200", "test"])
def test_data_that_change_in_place_are_not_averaged(recipe, kitti, tmp_path, monkeypatch, fingerprint, split):
    shutil.copytree(kitti, tmp_path / "data" / "kitti")
    image, train = tmp_path / "data" / "kitti" / "images" / split / "000001.jpg", protocol.train

    def changes(recipe, folder, **options):
        if recipe.seed == 1:
            shutil.copy(image.with_name("000000.jpg"), image)
        return train(recipe, folder, **options)

    monkeypatch.setattr(protocol, "train", changes)
    plan = Plan(replace(recipe, data=str(tmp_path / "data" / "kitti")), seeds=(0, 1), rates=(1.0, 2.0))
    runs = "seed-0" if split == "test" else "rate-1, rate-2, seed-0"
    for _ in range(2):  # at the end of all runs, and before any other
        with pytest.raises(RLRRError, match=rf"{runs} in .* had other images than .* has now: delete"):
            measure("kitti", plan, fingerprint, tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "seed-1", ignore_errors=True)
        monkeypatch.setattr(protocol, "train", None)


def test_a_split_that_each_seed_draws_is_no_change_of_the_data(recipe, tmp_path, fingerprint):
    plan = Plan(replace(recipe, data="sample:lfw"), seeds=(0, 1), rates=(1.0,))
    assert len(set(measure("lfw", plan, fingerprint, tmp_path / "lfw").test_sha256)) == 2


def test_weights_that_are_not_those_of_the_runs_are_refused(recipe, tmp_path):
    with pytest.raises(RLRRError, match="The backbone's weights changed between the runs"):
        measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), "ab" * 32, tmp_path / "kitti")


def test_seconds_are_those_of_all_trainings(recipe, tmp_path, fingerprint):
    result = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0, 2.0)), fingerprint, tmp_path / "kitti")
    folders = ("rate-1", "rate-2", "seed-0")
    seconds = [read_record(tmp_path / "kitti" / name).metrics["train_seconds"] for name in folders]
    assert result.seconds == pytest.approx(sum(seconds), abs=0.05)


def test_the_honest_protocol_touches_no_test_image_before_the_last_training_of_a_seed(
    recipe, kitti, tmp_path, monkeypatch, fingerprint
):
    global OPENED
    train, tests = protocol.train, []

    def of_test():
        return [path for path in OPENED if path.is_relative_to(kitti / "images" / "test")]

    def watched(recipe, folder, **options):
        from rlrr.training.trainer import ClassificationTrainer

        def at_the_end(self):
            tests.append(len(of_test()))
            OPENED.clear()

        with monkeypatch.context() as patch:
            patch.setattr(ClassificationTrainer, "keep_average", at_the_end)
            record = train(recipe, folder, **options)
        assert bool(of_test()) == recipe.test
        OPENED.clear()
        return record

    monkeypatch.setattr(protocol, "train", watched)
    OPENED = []
    try:
        measure("kitti", Plan(recipe, seeds=(0, 1), rates=(1.0, 2.0)), fingerprint, tmp_path / "kitti")
    finally:
        OPENED = None
    assert tests == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def whole(kitti, tiny_backbone, tmp_path_factory, fingerprint):
    """A plan of four trainings and what it gives in one go."""
    recipe = Recipe(data=str(kitti), model=tiny_backbone, epochs=1, batch_size=4, precision="fp32")
    plan = Plan(recipe, seeds=(0, 1), rates=(1.0, 2.0))
    return plan, measure("kitti", plan, fingerprint, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_stopped_protocol_goes_on_without_repeating_a_training(
    whole, tmp_path, monkeypatch, trained, done, fingerprint
):
    (plan, expected), train = whole, protocol.train

    def stops(recipe, folder, **options):
        if len(trained) < done:
            return train(recipe, folder, **options)
        monkeypatch.setattr("rlrr.training.trainer.ClassificationTrainer.keep_average", _interrupt)
        return train(recipe, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "train", stops)
        with pytest.raises(RLRRError, match="Stopped"):
            measure("kitti", plan, fingerprint, tmp_path / "kitti")
    monkeypatch.undo()
    assert len(trained) == done
    assert find_result(plan, fingerprint, tmp_path / "kitti") is None
    again = []
    monkeypatch.setattr(protocol, "train", lambda *args, **options: again.append(options) or train(*args, **options))
    stopped = measure("kitti", plan, fingerprint, tmp_path / "kitti")
    assert again == [{"resume": True}, *[{}] * (3 - done)]
    assert stopped.accuracies == expected.accuracies
    assert stopped.candidates == expected.candidates


def _interrupt(self):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "seen", "left"),
    [
        ({"seeds": (0, 1), "rates": (1.0, 2.0)}, "rate-1/rlrr.json", ["rate-2", "seed-0", "seed-1"]),
        ({"protocol": "paper", "seeds": (42,), "rates": (1.0,)}, "paper-42/checkpoints/checkpoint-4", ["paper-42"]),
    ],
)
def test_a_protocol_that_is_killed_goes_on(recipe, tmp_path, monkeypatch, fingerprint, options, seen, left):
    plan, folder, script = Plan(replace(recipe, epochs=6), **options), tmp_path / "kitti", tmp_path / "measure.py"
    script.write_text(
        "from pathlib import Path; from rlrr.compare.plan import Plan; from rlrr.compare.protocol import measure\n"
        "from rlrr.recipes.recipe import Recipe\n"
        f"plan = Plan(Recipe(**{plan.recipe.to_dict()!r}), **{options!r})\n"
        f"measure('kitti', plan, {fingerprint!r}, Path({str(folder)!r}))"
    )
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not (folder / seen).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / seen).exists()
    train, again = protocol.train, []
    monkeypatch.setattr(protocol, "train", lambda one, its, **how: again.append(its.name) or train(one, its, **how))
    result = measure("kitti", plan, fingerprint, folder)
    assert again == left
    monkeypatch.undo()
    whole = measure("kitti", plan, fingerprint, tmp_path / "whole")
    assert (result.accuracies, result.candidates) == (whole.accuracies, whole.candidates)


def test_a_training_killed_before_its_recipe_was_written_is_begun_anew(recipe, tmp_path, fingerprint):
    (tmp_path / "kitti" / "seed-0").mkdir(parents=True)
    (tmp_path / "kitti" / "seed-0" / ".recipe.yaml.0123.tmp").write_text("half")
    assert measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), fingerprint, tmp_path / "kitti").accuracies


def test_data_without_test_images_are_refused(recipe, flat_images, tmp_path, fingerprint):
    plan = Plan(replace(recipe, data=str(flat_images)), seeds=(0,), rates=(1.0,))
    with pytest.raises(RLRRError, match="flat has no test images"):
        measure("flat", plan, fingerprint, tmp_path / "flat")


def test_no_rate_is_chosen_on_images_that_another_seed_tests_on(recipe, tmp_path, trained, fingerprint):
    plan = Plan(replace(recipe, data="sample:digits"), seeds=(0, 1), rates=(1.0, 2.0))
    with pytest.raises(RLRRError, match="draws its test images anew for each seed"):
        measure("digits", plan, fingerprint, tmp_path / "digits")
    assert not trained


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({0.3: 0.5, 1.0: 0.6, 3.0: 0.7}, 3.0),
        ({0.3: 0.7, 1.0: 0.7, 3.0: 0.7}, 1.0),
        ({0.3: 0.7, 1.0: 0.6, 3.0: 0.7}, 0.3),
    ],
)
def test_of_equal_rates_the_recipes_own_or_else_the_lowest_is_chosen(accuracies, chosen):
    candidates = [{"rate": rate, "val_accuracy": value} for rate, value in accuracies.items()]
    assert choose(candidates)["rate"] == chosen


@pytest.mark.parametrize(
    ("options", "rate", "expected"),
    [({"learning_rate": 3e-3}, 0.3, 9e-4), ({}, 1.0, 5e-3), ({"method": "linear"}, 3.0, 9e-2)],
)
def test_a_factor_is_of_the_recipes_own_rate_or_the_methods(options, rate, expected):
    assert learning_rate(Recipe(data="x", **options), rate) == expected


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"recipe": Recipe(data="x", early_stop=3)}, "The recipe has early_stop: leave it out"),
        ({"rates": (1.0, float("inf"))}, "learning_rate must be above 0"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"rates": (0.0,)}, "rates"),
        ({"protocol": "paper", "seeds": (1, 2), "rates": (1.0,)}, "protocol"),
        ({"protocol": "paper", "seeds": (1,), "rates": (1.0, 2.0)}, "protocol"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(plan, named):
    with pytest.raises(RLRRError, match=named):
        Plan(**{"recipe": Recipe(data="x")} | plan)
