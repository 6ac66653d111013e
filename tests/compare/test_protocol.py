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
from filelock import FileLock

from rlrr.adapters import read_record
from rlrr.compare import protocol
from rlrr.compare.protocol import Plan, choose, find_result, learning_rate, measure, read_result
from rlrr.errors import RLRRError
from rlrr.training.recipe import Recipe

OPENED: list[Path] | None = None  # while it is a list, every file that Python opens is noted in it


def _note(event, arguments):
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(_note)


def test_the_honest_protocol_tunes_on_train_and_tests_what_all_images_trained(recipe, tmp_path, trained):
    said = []
    result = measure("kitti", Plan(recipe, seeds=(3, 5), rates=(0.3, 1.0, 3.0)), tmp_path / "kitti", said.append)
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


def test_a_result_says_all_that_it_depends_on(recipe, tmp_path):
    result = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), tmp_path / "kitti")
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


def test_the_papers_protocol_is_one_run_and_its_number_is_called_what_it_is(recipe, tmp_path, trained):
    result = measure("kitti", Plan(recipe, "paper", seeds=(42,), rates=(1.0,)), tmp_path / "kitti")
    assert [(one.protocol, one.seed) for one in trained] == [("paper", 42)]
    assert result.label == "best test epoch"
    assert result.accuracies == [read_record(tmp_path / "kitti" / "paper-42").metrics["best_test_accuracy"]]


def test_seconds_are_those_of_all_trainings(recipe, tmp_path):
    result = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0, 2.0)), tmp_path / "kitti")
    folders = ("rate-1", "rate-2", "seed-0")
    seconds = [read_record(tmp_path / "kitti" / name).metrics["train_seconds"] for name in folders]
    assert result.seconds == pytest.approx(sum(seconds), abs=0.05)


def test_the_honest_protocol_touches_no_test_image_before_the_last_training_of_a_seed(
    recipe, kitti, tmp_path, monkeypatch
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
        measure("kitti", Plan(recipe, seeds=(0, 1), rates=(1.0, 2.0)), tmp_path / "kitti")
    finally:
        OPENED = None
    assert tests == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def whole(kitti, tiny_backbone, tmp_path_factory):
    """A plan of four trainings and what it gives in one go."""
    recipe = Recipe(data=str(kitti), model=tiny_backbone, epochs=1, batch_size=4, precision="fp32")
    plan = Plan(recipe, seeds=(0, 1), rates=(1.0, 2.0))
    return plan, measure("kitti", plan, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_stopped_protocol_goes_on_without_repeating_a_training(whole, tmp_path, monkeypatch, trained, done):
    (plan, expected), train = whole, protocol.train

    def stops(recipe, folder, **options):
        if len(trained) < done:
            return train(recipe, folder, **options)
        monkeypatch.setattr("rlrr.training.trainer.ClassificationTrainer.keep_average", _interrupt)
        return train(recipe, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "train", stops)
        with pytest.raises(RLRRError, match="Stopped"):
            measure("kitti", plan, tmp_path / "kitti")
    monkeypatch.undo()
    assert len(trained) == done
    assert find_result(plan, tmp_path / "kitti") is None
    again = []
    monkeypatch.setattr(protocol, "train", lambda *args, **options: again.append(options) or train(*args, **options))
    stopped = measure("kitti", plan, tmp_path / "kitti")
    assert again == [{"resume": True}, *[{}] * (3 - done)]
    assert stopped.accuracies == expected.accuracies
    assert stopped.candidates == expected.candidates


def _interrupt(self):
    raise KeyboardInterrupt


def test_a_protocol_that_is_killed_goes_on(recipe, tmp_path, trained):
    folder, script = tmp_path / "kitti", tmp_path / "measure.py"
    script.write_text(
        "import sys; from pathlib import Path; from rlrr.compare.protocol import Plan, measure\n"
        "from rlrr.training.recipe import Recipe\n"
        f"plan = Plan(Recipe(**{recipe.to_dict()!r}), seeds=tuple(range(200)), rates=(1.0,))\n"
        f"measure('kitti', plan, Path({str(folder)!r}))"
    )
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not (folder / "seed-2" / "rlrr.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = sorted(int(path.parent.name.removeprefix("seed-")) for path in folder.glob("*/rlrr.json"))
    assert left[:3] == [0, 1, 2]
    seeds = range(left[-1] + 2)
    # so many seeds were only to be killed in time: as if fewer had been asked for
    options = folder / "options.json"
    options.unlink()
    result = measure("kitti", Plan(recipe, seeds=tuple(seeds), rates=(1.0,)), folder)
    assert [one.seed for one in trained] == [seed for seed in seeds if seed not in left]
    assert len(result.accuracies) == len(seeds)


def test_a_training_killed_before_its_recipe_was_written_is_begun_anew(recipe, tmp_path):
    (tmp_path / "kitti" / "seed-0").mkdir(parents=True)
    (tmp_path / "kitti" / "seed-0" / ".recipe.yaml.0123.tmp").write_text("half")
    assert measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), tmp_path / "kitti").accuracies


def test_a_finished_result_is_taken_without_looking_at_the_data(recipe, kitti, tmp_path, trained):
    shutil.copytree(kitti, tmp_path / "kitti data")
    plan = Plan(replace(recipe, data=str(tmp_path / "kitti data")), seeds=(0,), rates=(1.0,))
    first = measure("kitti", plan, tmp_path / "out")
    shutil.rmtree(tmp_path / "kitti data")
    assert measure("kitti", plan, tmp_path / "out") == first
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": (1,)}, "seeds: 0 -> 1"),
        ({"rates": (2.0,)}, "rates: 1 -> 2"),
        ({"protocol": "paper"}, "protocol: honest -> paper"),
        ({"recipe": {"epochs": 3}}, "epochs: 1 -> 3"),
    ],
)
def test_a_folder_of_other_options_is_refused_naming_them(recipe, tmp_path, change, named):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    measure("kitti", plan, tmp_path / "kitti")
    if "recipe" in change:
        change = {"recipe": replace(recipe, **change["recipe"])}
    with pytest.raises(RLRRError, match="was made with other options") as error:
        measure("kitti", replace(plan, **change), tmp_path / "kitti")
    assert named in str(error.value)
    assert "another --output" in str(error.value)


def test_threads_and_workers_make_no_other_result(recipe, tmp_path, trained):
    first = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), tmp_path / "kitti")
    changed = Plan(replace(recipe, threads=1, workers=0), seeds=(0,), rates=(1.0,))
    assert measure("kitti", changed, tmp_path / "kitti") == first


def test_data_may_move_but_not_change(recipe, kitti, tmp_path, make_vtab):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    first = measure("kitti", plan, tmp_path / "out")
    shutil.copytree(kitti, tmp_path / "moved" / "kitti")
    moved = replace(plan, recipe=replace(recipe, data=str(tmp_path / "moved" / "kitti")))
    assert measure("kitti", moved, tmp_path / "out") == first
    make_vtab(tmp_path / "other", "kitti", train=5, test=8)
    other = replace(plan, recipe=replace(recipe, data=str(tmp_path / "other" / "kitti")))
    with pytest.raises(RLRRError, match="was made on other data"):
        measure("kitti", other, tmp_path / "out")


def test_two_processes_do_not_work_in_one_folder(recipe, tmp_path):
    (tmp_path / "kitti").mkdir()
    with FileLock(tmp_path / "kitti" / ".lock"), pytest.raises(RLRRError, match="Another process works in"):
        measure("kitti", Plan(recipe), tmp_path / "kitti")


def test_data_without_test_images_are_refused(recipe, flat_images, tmp_path):
    plan = Plan(replace(recipe, data=str(flat_images)), seeds=(0,), rates=(1.0,))
    with pytest.raises(RLRRError, match="flat has no test images"):
        measure("flat", plan, tmp_path / "flat")


def test_no_rate_is_chosen_on_images_that_another_seed_tests_on(recipe, tmp_path, trained):
    plan = Plan(replace(recipe, data="sample:digits"), seeds=(0, 1), rates=(1.0, 2.0))
    with pytest.raises(RLRRError, match="draws its test images anew for each seed"):
        measure("digits", plan, tmp_path / "digits")
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
    [({"learning_rate": 3e-3}, 0.3, 9e-4), ({}, 1.0, 5e-3), ({"method": "linear"}, 3.0, 3e-2)],
)
def test_a_factor_is_of_the_recipes_own_rate_or_the_methods(options, rate, expected):
    assert learning_rate(Recipe(data="x", **options), rate) == expected


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"rates": (0.0,)}, "--rates"),
        ({"protocol": "paper", "seeds": (1, 2), "rates": (1.0,)}, "--protocol paper"),
        ({"protocol": "paper", "seeds": (1,), "rates": (1.0, 2.0)}, "--protocol paper"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(plan, named):
    with pytest.raises(RLRRError, match=named):
        Plan(Recipe(data="x"), **plan)


@pytest.mark.parametrize("file", ["options.json", "result.json"])
def test_a_damaged_file_is_named(recipe, tmp_path, file):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    measure("kitti", plan, tmp_path / "kitti")
    (tmp_path / "kitti" / file).write_text("{}")
    with pytest.raises(RLRRError, match=f"{file} is damaged"):
        measure("kitti", plan, tmp_path / "kitti")
