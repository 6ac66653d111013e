"""Whole runs: stopped, killed and resumed to the same bits, on a full disk, and in every state of the folder."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import rlrr
from rlrr.adapters.folder import read_tensors
from rlrr.adapters.record import RECORD, TENSORS, read_record
from rlrr.errors import RLRRError, Stopped
from rlrr.inference.predict import load
from rlrr.recipes.files import RECIPE
from rlrr.recipes.recipe import Recipe
from rlrr.training import run, trainer
from rlrr.training.output import CHECKPOINTS, IMAGES, METRICS, last_checkpoint, read_metrics
from rlrr.training.run import build, train
from rlrr.training.trainer import ClassificationTrainer

pytestmark = pytest.mark.slow

STEPS = 6  # in an epoch: 24 images, 4 in a batch
RANDOM = {"flip": True, "drop_path": 0.3, "mixup": 0.4, "cutmix": 0.4}
PATIENT = {"method": "linear", "learning_rate": 1e-6, "early_stop": 2, "epochs": 5}


@pytest.fixture
def recipe(tiny_backbone, images):
    def make(**options) -> Recipe:
        options = {"epochs": 3, "batch_size": 4, "precision": "fp32"} | options
        return Recipe(**{"data": str(images), "model": tiny_backbone} | options)

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbs, made once for each recipe."""
    folders = {}

    def make(recipe: Recipe) -> Path:
        if (key := repr(recipe)) not in folders:
            folders[key] = tmp_path_factory.mktemp("runs") / "whole"
            train(recipe, folders[key])
        return folders[key]

    return make


def at_step(monkeypatch, number: int, do) -> None:
    """Have training call `do` when it is about to take this step."""
    step = ClassificationTrainer.training_step

    def stepping(self, *args, **kwargs):
        if self.state.global_step + 1 == number:
            do()
        return step(self, *args, **kwargs)

    monkeypatch.setattr(ClassificationTrainer, "training_step", stepping)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(*numbers: int) -> None:
    raise KeyboardInterrupt(*numbers)


def in_child(function) -> int:
    """Run in a copy of this process; gives the signal that ended it, or 0."""
    if not (child := os.fork()):
        signal.alarm(60)
        try:
            function()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killed_at(step: int, recipe: Recipe, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, die)
        assert in_child(lambda: train(recipe, folder)) == signal.SIGKILL
    assert not (folder / RECORD).exists()


def what_was_logged(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    return [
        {name: value for name, value in record.items() if not name.endswith(("_runtime", "_per_second"))}
        for record in read_metrics(folder / METRICS)
    ]


def script_accuracies(patch, *accuracies: float) -> None:
    """Have the validation of each epoch say this, whatever the model does."""
    scripted = iter(accuracies)
    patch.setattr(trainer, "_accuracy", lambda predictions: {"accuracy": next(scripted)})


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / TENSORS).read_bytes() == (other / TENSORS).read_bytes()
    assert what_was_logged(one) == what_was_logged(other)
    first, second = (read_record(folder) for folder in (one, other))
    for record in (first, second):
        assert record.metrics.pop("train_seconds") > 0
        record.metrics.pop("peak_memory_mb")
    assert first.metrics == second.metrics
    assert not list(other.rglob("checkpoint-*"))


@pytest.mark.parametrize(
    ("options", "step"),
    [
        (RANDOM, STEPS - 2),  # before the first checkpoint
        (RANDOM | {"workers": 1}, STEPS + 3),
        (RANDOM | {"ema": 0.9, "log_deviation": True}, 2 * STEPS + 1),
        (RANDOM | {"schedule": "paper", "cooldown": 1}, 2 * STEPS + 3),
        ({"protocol": "paper", "schedule": "restarts", "restart_epochs": 1}, STEPS + 3),
        (PATIENT, 2 * STEPS + 2),
        *(
            pytest.param(*case, marks=pytest.mark.soak)  # the same mechanisms, otherwise combined
            for case in (
                (RANDOM, STEPS + 3),
                (RANDOM | {"select": "last"}, 2 * STEPS + 1),
                ({"flip": True, "random_crop": [0.5, 1.0], "accumulate": 2, "label_smoothing": 0.1}, STEPS // 2 + 2),
                ({"method": "full", "drop_path": 0.3}, STEPS + 3),
                ({"method": "lora"}, STEPS + 3),
                ({"method": "full", "log_deviation": True}, STEPS + 3),
                (RANDOM | {"ema": 0.9}, STEPS + 3),
                (RANDOM | {"ema": 0.9, "train_on": "trainval"}, STEPS + 3),
            )
        ),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(recipe, whole, tmp_path, options, step):
    options = recipe(**options)
    killed_at(step, options, tmp_path / "killed")
    train(options, tmp_path / "killed", resume=True)
    assert_same_run(whole(options), tmp_path / "killed")


@pytest.mark.parametrize(
    "options",
    [
        RANDOM,
        pytest.param(RANDOM | {"select": "last"}, marks=pytest.mark.soak),
        PATIENT,
        pytest.param(PATIENT | {"select": "last", "learning_rate": 1e-5}, marks=pytest.mark.soak),
    ],
)
def test_a_run_killed_between_training_and_its_adapter_takes_no_step_more(recipe, whole, tmp_path, options):
    options = recipe(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "save_adapter", lambda *args: die())
        assert in_child(lambda: train(options, tmp_path / "killed")) == signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTrainer, "training_step", lambda *args: pytest.fail("it trained on"))
        train(options, tmp_path / "killed", resume=True)
    assert_same_run(whole(options), tmp_path / "killed")


def _without(folder: Path) -> str:
    (folder / "train" / "red" / "0.png").unlink()
    return "1 gone: train/red/0.png"


def _with_another(folder: Path) -> str:
    shutil.copy(folder / "test" / "red" / "0.png", folder / "val" / "red" / "new.png")
    return "1 new: val/red/new.png"


def _edited(folder: Path) -> str:
    shutil.copy(folder / "test" / "red" / "0.png", folder / "train" / "red" / "3.png")
    return "1 edited: train/red/3.png"


def _of_another_class(folder: Path) -> str:
    (folder / "train" / "red" / "0.png").rename(folder / "train" / "blue" / "red.png")
    return "1 moved or renamed: train/red/0.png is now train/blue/red.png"


@pytest.mark.parametrize("change", [_without, _with_another, _edited, _of_another_class])
def test_a_run_is_not_resumed_on_other_images(recipe, images, tmp_path, change):
    folder, options = tmp_path / "killed", recipe(data=str(shutil.copytree(images, tmp_path / "data")))
    killed_at(STEPS + 3, options, folder)
    said = change(tmp_path / "data")
    with pytest.raises(RLRRError, match="have changed since it was started") as caught:
        train(options, folder, resume=True)
    assert f"({said})" in str(caught.value)
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(images, tmp_path / "data")
    assert train(options, folder, resume=True)
    assert not (folder / IMAGES).exists()


def test_test_images_may_change_before_they_are_read(recipe, images, tmp_path):
    folder, options = tmp_path / "killed", recipe(data=str(shutil.copytree(images, tmp_path / "data")))
    killed_at(STEPS + 3, options, folder)
    (tmp_path / "data" / "test" / "red" / "0.png").unlink()
    assert train(options, folder, resume=True).data["test"] == 8


def test_a_run_of_an_older_version_resumes_with_a_warning(recipe, tmp_path, caplog):
    folder, options = tmp_path / "killed", recipe()
    killed_at(STEPS + 3, options, folder)
    (folder / IMAGES).unlink()
    train(options, folder, resume=True)
    assert "nothing tells whether the images are still the same" in caplog.text


def test_files_that_cannot_be_opened_are_skipped_too(recipe, images, tmp_path):
    data = Path(shutil.copytree(images, tmp_path / "data"))
    for split in ("train", "test"):
        (data / split / "red" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    record = train(recipe(data=str(data), bad_images="skip", epochs=1), tmp_path / "run")
    assert len(record.data["skipped"]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_data_whose_name_is_no_text_are_trained_on_resumed_and_recorded(recipe, images, tmp_path):
    data = str(shutil.copytree(images, tmp_path / os.fsdecode(b"caf\xe9")))
    options = recipe(data=data, epochs=2)
    killed_at(STEPS + 3, options, tmp_path / "run")
    assert train(options, tmp_path / "run", resume=True).recipe["data"] == data


def test_the_test_stands_in_the_metrics_too(recipe, tmp_path):
    record = train(recipe(epochs=1), tmp_path / "run")
    assert read_metrics(tmp_path / "run" / METRICS)[-1] == {
        "epoch": 1,
        "test_accuracy": record.metrics["test_accuracy"],
    }


def test_all_mistakes_are_named_at_once_data_first(recipe, tmp_path):
    folder = tmp_path / "run"
    train(recipe(epochs=1), folder)
    with pytest.raises(RLRRError) as caught:
        train(recipe(data="nope/", model="vit_of_nobody"), folder)
    assert [line.split(".")[0] for line in str(caught.value).splitlines()] == [
        "There is no folder nope",
        "There is no backbone 'vit_of_nobody', neither in timm nor as a folder",
        str(caught.value).splitlines()[2].split(".")[0],
    ]
    assert "already holds a run" in str(caught.value)


def test_early_stop_stops(recipe, tmp_path):
    options = recipe(**PATIENT)
    record = train(options, tmp_path / "run")
    assert record.metrics["epoch"] == 3  # as good as the first, and later
    assert max(line["epoch"] for line in read_metrics(tmp_path / "run" / METRICS)) == 3


def test_a_run_that_was_moved_still_finds_its_best_epoch(recipe, tmp_path):
    options = recipe(method="linear")
    with pytest.MonkeyPatch.context() as patch:
        script_accuracies(patch, 0.9, 0.5, 0.5)
        train(options, tmp_path / "whole")
        script_accuracies(patch, 0.9, 0.5, 0.5)
        patch.setattr(run, "save_adapter", lambda *args: die())
        in_child(lambda: train(options, tmp_path / "killed"))
    (tmp_path / "killed").rename(tmp_path / "moved")
    train(options, tmp_path / "moved", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "moved")


def test_a_run_killed_while_it_saves_goes_back_to_the_checkpoint_before(recipe, whole, tmp_path):
    options = recipe(**RANDOM)
    save = ClassificationTrainer._save_rng_state

    def dying(self, *args):
        if self.state.global_step == 2 * STEPS:
            die()
        save(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTrainer, "_save_rng_state", dying)
        assert in_child(lambda: train(options, tmp_path / "killed")) == signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed" / CHECKPOINTS).name == f"checkpoint-{STEPS}"
    train(options, tmp_path / "killed", resume=True)
    assert_same_run(whole(options), tmp_path / "killed")


@pytest.mark.parametrize("name", [TENSORS, "optimizer.pt", "rng_state.pth", "objective.pt", "trainer_state.json"])
def test_a_damaged_newest_checkpoint_is_replaced(recipe, whole, tmp_path, name):
    options = recipe(**RANDOM)
    killed_at(2 * STEPS + 3, options, tmp_path / "killed")
    file = tmp_path / "killed" / CHECKPOINTS / f"checkpoint-{2 * STEPS}" / name
    file.write_bytes(file.read_bytes()[:-20])
    train(options, tmp_path / "killed", resume=True)
    assert_same_run(whole(options), tmp_path / "killed")


def test_ctrl_c_says_how_to_go_on_and_resuming_ends_the_same(recipe, whole, tmp_path):
    options = recipe(**RANDOM)
    for step, state in ((4, "before the first checkpoint"), (STEPS + 3, "epoch 1 is saved")):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, step, interrupt)
            with pytest.raises(Stopped, match=f"{state}.*`resume`") as caught:
                train(options, tmp_path / "stopped", resume=step > STEPS)
        assert caught.value.signal == signal.SIGINT
    train(options, tmp_path / "stopped", resume=True)
    assert_same_run(whole(options), tmp_path / "stopped")


def test_a_stop_names_the_signal_that_its_handler_names(recipe, tmp_path, monkeypatch):
    at_step(monkeypatch, 2, lambda: interrupt(signal.SIGTERM))
    with pytest.raises(Stopped) as caught:
        train(recipe(), tmp_path / "run")
    assert caught.value.signal == signal.SIGTERM


def test_ctrl_c_after_training_says_how_to_go_on_too(recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate_split", lambda *args: interrupt())
        with pytest.raises(RLRRError, match=r"epoch 2 is saved.*resume"):
            train(recipe(epochs=2), tmp_path / "run")
    assert train(recipe(epochs=2), tmp_path / "run", resume=True).metrics["test_accuracy"] >= 0


def test_sigint_to_the_command_ends_it_in_one_sentence(recipe, tmp_path):
    options, folder = recipe(epochs=2000), tmp_path / "run"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(options.to_dict()))
    command = [sys.executable, "-m", "rlrr.cli.main", "train", "--config", str(path), "--output", str(folder)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # tests that a shell started in the background ignore Ctrl-C, and so would what they start
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 60
        while not last_checkpoint(folder / CHECKPOINTS) and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    *said, last = err.splitlines()  # what it began with may be said before
    assert last.startswith("rlrr: Stopped: epoch ")
    assert "resume" in last
    assert all(line.startswith("rlrr: ") for line in said)
    assert last_checkpoint(folder / CHECKPOINTS)


def test_resuming_a_finished_run_changes_nothing(recipe, tmp_path):
    options, folder = recipe(epochs=1), tmp_path / "run"
    record = train(options, folder)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert train(options, folder, resume=True) == record
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def test_resuming_a_run_that_was_killed_at_its_very_end_deletes_its_checkpoints(recipe, tmp_path):
    options, folder = recipe(epochs=1), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "remove_checkpoints", lambda folder: die())
        assert in_child(lambda: train(options, folder)) == signal.SIGKILL
    assert last_checkpoint(folder / CHECKPOINTS)
    assert train(options, folder, resume=True) == read_record(folder)
    assert not (folder / CHECKPOINTS).exists()


def test_a_finished_run_is_not_resumed_by_another_runs_recipe(recipe, tmp_path):
    for name, seed in (("run", 0), ("other", 1)):
        train(recipe(epochs=1, seed=seed), tmp_path / name)
    shutil.copyfile(tmp_path / "other" / RECIPE, tmp_path / "run" / RECIPE)
    with pytest.raises(RLRRError, match=r"recipe\.yaml is damaged, or not the file"):
        train(recipe(epochs=1, seed=1), tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", [TENSORS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_flipped_bit_in_a_checkpoint_does_not_reach_the_end(recipe, whole, tmp_path, name):
    options = recipe(**RANDOM)
    killed_at(2 * STEPS + 3, options, tmp_path / "killed")
    file = tmp_path / "killed" / CHECKPOINTS / f"checkpoint-{2 * STEPS}" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    train(options, tmp_path / "killed", resume=True)
    assert_same_run(whole(options), tmp_path / "killed")


def test_seeds_make_the_weights(recipe, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(recipe(epochs=1, seed=seed, **RANDOM), tmp_path / name)
    one, same, other = ((tmp_path / name / TENSORS).read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


def test_best_keeps_the_latest_of_the_best_epochs_and_last_keeps_the_last(recipe, tmp_path, monkeypatch):
    records = {}
    for select in ("best", "last"):
        script_accuracies(monkeypatch, 0.5, 0.9, 0.9, 0.7)
        records[select] = train(recipe(method="linear", epochs=4, select=select), tmp_path / select)
    assert [records[select].metrics["epoch"] for select in ("best", "last")] == [3, 4]
    assert records["best"].metrics["val_accuracy"] == 0.9
    best, last = (read_tensors(tmp_path / select / TENSORS) for select in ("best", "last"))
    assert not torch.equal(best["head.weight"], last["head.weight"])
    assert "best epoch" in records["best"].protocol
    assert "last epoch" in records["last"].protocol


@pytest.mark.parametrize("method", ["rlrr", "linear", "lora"])
def test_the_backbone_is_left_bit_for_bit_as_it_was(recipe, tmp_path, method):
    options = recipe(method=method, epochs=1)
    before = build(recipe(method="linear"), 3)[1].state_dict()
    train(options, tmp_path / "run")
    model = load(tmp_path / "run").model
    plain = model.unload() if method != "linear" else model
    after = plain.state_dict()
    assert before.keys() == after.keys()
    differ = [name for name in before if not torch.equal(before[name], after[name])]
    assert differ == ["head.weight", "head.bias"]


def test_training_itself_touches_only_what_is_trained(recipe, tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(run, "build", lambda *args: models.append(build(*args)) or models[0])
    before = build(recipe(), 3)[1].state_dict()
    train(recipe(epochs=1, weight_decay=0.1), tmp_path / "run")
    for name, tensor in models[0][1].state_dict().items():
        trained = "rlrr_" in name or ".modules_to_save." in name
        assert torch.equal(tensor, before[name]) or trained, name


def test_a_loss_that_is_not_finite_stops_the_run_and_nothing_of_it_is_saved(recipe, tmp_path):
    with pytest.raises(RLRRError, match=r"at step \d+ .*`learning_rate`"):
        train(recipe(method="full", learning_rate=1e30, warmup=0), tmp_path / "run")
    assert last_checkpoint(tmp_path / "run" / CHECKPOINTS) is None
    assert not (tmp_path / "run" / TENSORS).exists()


def test_weights_that_stop_being_finite_in_an_epochs_last_step_are_not_saved(recipe, tmp_path):
    options = recipe(method="full", learning_rate=1e30, batch_size=24, epochs=1, warmup=0)  # one step, from a good loss
    with pytest.raises(RLRRError, match=r"at step 1 .*`learning_rate`"):
        train(options, tmp_path / "run")
    assert last_checkpoint(tmp_path / "run" / CHECKPOINTS) is None
    assert not (tmp_path / "run" / TENSORS).exists()


def test_bf16_trains_on_the_cpu(recipe, tmp_path):
    train(recipe(epochs=1, precision="bf16"), tmp_path / "run")
    tensors = read_tensors(tmp_path / "run" / TENSORS)
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in tensors.values())


def test_drop_path_reaches_the_model_but_not_a_probe(recipe):
    def rate(method: str) -> float:
        plain = build(recipe(method=method, drop_path=0.4), 3)[1]
        return max(getattr(module, "drop_prob", None) or 0.0 for module in plain.modules())

    assert rate("rlrr") == rate("full") == pytest.approx(0.4)
    assert rate("linear") == 0.0


# The output folder


def test_a_run_is_neither_overwritten_nor_mixed_with_another_by_chance(recipe, tmp_path):
    folder = tmp_path / "run"
    train(recipe(epochs=1), folder)
    adapter = (folder / TENSORS).read_bytes()
    with pytest.raises(RLRRError, match=r"resume.*overwrite"):
        train(recipe(epochs=1), folder)
    with pytest.raises(RLRRError, match="epochs: 1 -> 2; seed: 0 -> 7"):
        train(recipe(epochs=2, seed=7), folder, resume=True)
    assert (folder / TENSORS).read_bytes() == adapter


def test_overwriting_deletes_the_run_and_nothing_else(recipe, tmp_path):
    folder = tmp_path / "run"
    train(recipe(method="rlrr", epochs=1), folder)
    for name in ("evaluation", "evaluation-val"):
        (folder / name).mkdir()
    (folder / "my notes.txt").write_text("precious")
    train(recipe(method="linear", epochs=1), folder, overwrite=True)
    assert read_record(folder).method == "linear"
    assert not (folder / "adapter_config.json").exists()
    assert not list(folder.glob("evaluation*"))
    assert (folder / "my notes.txt").read_text() == "precious"
    assert load(folder).classes == ["blue", "green", "red"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": "nowhere"},
        {"model": "vit_of_nobody"},
        {"weights": "nowhere.safetensors"},
        {"image_size": 33},
        {"precision": "fp16"},
        {"mixup": 0.2, "batch_size": 26},
    ],
    ids=str,
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_a_run_survives_an_overwriting_one_that_cannot_start(recipe, tmp_path, wrong):
    folder = tmp_path / "run"
    train(recipe(epochs=1), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RLRRError):
        train(recipe(**wrong), folder, overwrite=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_survives_an_overwriting_one_without_space(recipe, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(recipe(epochs=1), folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 << 20))
    with pytest.raises(RLRRError, match="has 5 MiB free and the run needs about"):
        train(recipe(epochs=1), folder, overwrite=True)
    assert load(folder)


# A full disk


@pytest.mark.parametrize("method", ["rlrr", "full"])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_no_half_written_file(
    recipe, whole, tmp_path, monkeypatch, method
):
    options = recipe(method=method, epochs=2)
    write = Path.write_bytes
    with monkeypatch.context() as patch:

        def full(path, data):
            if f"checkpoint-{2 * STEPS}" in str(path):
                write(path, data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, data)

        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RLRRError, match="No space left"):
            train(options, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / CHECKPOINTS).iterdir()}
    assert names == {f"checkpoint-{STEPS}"}
    train(options, tmp_path / "run", resume=True)
    assert_same_run(whole(options), tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=24m"
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [20_000, 60_000, 130_000, 250_000, 320_000, 400_000])
def test_a_really_full_disk_is_one_sentence_wherever_it_happens(recipe, small_disk, left):
    options, folder = recipe(method="full", epochs=2), small_disk / "run"

    def fill() -> None:
        with (small_disk / "other").open("wb") as file:
            file.write(bytes(shutil.disk_usage(small_disk).free - left))

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 2, fill)
        with pytest.raises(RLRRError, match=r"No space left on the disk to write .*: free some space"):
            train(options, folder)
    assert not list(small_disk.rglob("*.tmp"))
    saved = list((folder / CHECKPOINTS).glob("*")) if (folder / CHECKPOINTS).exists() else []
    assert saved == [path for path in [last_checkpoint(folder / CHECKPOINTS)] if path]
    (small_disk / "other").unlink()
    assert train(options, folder, resume=True).metrics["epoch"]


def test_the_record_of_a_run_says_what_was_done(recipe, tmp_path, tiny_backbone):
    options = recipe(epochs=1)
    record = train(options, tmp_path / "run")
    assert record == read_record(tmp_path / "run")
    assert record.method == "rlrr"
    assert record.classes == ["blue", "green", "red"]
    assert record.recipe == options.to_dict() == yaml.safe_load((tmp_path / "run" / RECIPE).read_text())
    assert {key: record.data[key] for key in ("train", "val", "test", "skipped")} == {
        "train": 24,
        "val": 9,
        "test": 9,
        "skipped": [],
    }
    assert record.backbone["name"] == tiny_backbone
    assert record.parameters["head"] == 32 * 3 + 3
    assert json.loads((tmp_path / "run" / RECORD).read_text())["format"] == 2


def test_several_processes_are_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RLRRError, match="without torchrun"):
        train(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_weights_are_those_of_the_epoch_that_is_recorded(recipe, tmp_path, monkeypatch):
    script_accuracies(monkeypatch, 0.5, 0.9, 0.9, 0.7)
    seen = {}
    save = ClassificationTrainer._save

    def watch(self, output_dir=None, state_dict=None):
        save(self, output_dir, state_dict)
        seen[round(self.state.epoch)] = read_tensors(Path(output_dir) / TENSORS)

    monkeypatch.setattr(ClassificationTrainer, "_save", watch)
    record = train(recipe(epochs=4), tmp_path / "run")
    kept = read_tensors(tmp_path / "run" / TENSORS)
    assert record.metrics["epoch"] == 3
    assert all(torch.equal(kept[name], tensor) for name, tensor in seen[3].items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in seen[2].items())


def test_the_recorded_test_accuracy_is_measured_as_evaluate_does_also_after_bf16(recipe, images, tmp_path):
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        evaluate_split = run.evaluate_split
        patch.setattr(run, "evaluate_split", lambda *args: measured.append(evaluate_split(*args)) or measured[0])
        train(recipe(precision="bf16"), tmp_path / "run")
    again = rlrr.evaluate(tmp_path / "run", images)
    assert (measured[0].confidence == again.confidence).all()


@pytest.mark.parametrize(("device", "words"), [("gpu", "`device` must be auto"), ("cuda:99", "no `device` cuda:99")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(recipe, tmp_path, device, words):
    with pytest.raises(RLRRError, match=words):
        train(recipe(device=device, data="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_line_names_the_device(recipe, tmp_path, caplog):
    with caplog.at_level("INFO", logger="rlrr"):
        record = train(recipe(epochs=1, device="cpu"), tmp_path / "run")
    assert caplog.messages[0].endswith("in fp32 on CPU, threads: 1")
    assert record.metrics["device"] == "CPU, threads: 1"


@pytest.mark.parametrize(("wrong", "words"), [(("folder", "run"), "`recipe` must be Recipe"), ((None, 5), "`recipe`")])
def test_arguments_of_wrong_types_are_one_sentence(recipe, wrong, words):
    with pytest.raises(RLRRError, match=words):
        train(*wrong)
    with pytest.raises(RLRRError, match=r"`output` must be str \| Path, not None"):
        train(recipe(), None)
