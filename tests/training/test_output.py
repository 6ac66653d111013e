"""The folder of a run: what may be written to, and which checkpoint is whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlrr.adapters.record import RECORD, TENSORS
from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.files import write_recipe
from rlrr.recipes.recipe import Recipe
from rlrr.training.output import (
    CHECKPOINTS,
    METRICS,
    check_output,
    check_space,
    checkpoint_epoch,
    last_checkpoint,
    read_metrics,
    remove_incomplete,
    remove_run,
)

FILES = (TENSORS, "optimizer.pt", "scheduler.pt", "objective.pt", "rng_state.pth", "trainer_state.json")


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(5)}, path / TENSORS)
    for name in FILES[1:5]:
        torch.save({"state": torch.ones(5)}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"epoch": step / 10}))
    return path


@pytest.fixture
def recipe():
    return Recipe("my data", method="linear", epochs=3)


@pytest.fixture
def a_run(tmp_path, recipe):
    folder = tmp_path / "run"
    write_recipe(recipe, folder)
    return folder


def test_a_new_or_empty_folder_will_do(tmp_path, recipe):
    check_output(tmp_path / "new", recipe, resume=False, overwrite=False)
    check_output(tmp_path, recipe, resume=False, overwrite=True)


def test_a_name_that_is_no_text_is_refused(tmp_path, recipe):
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        check_output(tmp_path / "caf\udce9", recipe, resume=False, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_refused(tmp_path, recipe, overwrite):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(RLRRError, match="holds something else") as caught:
        check_output(tmp_path, recipe, resume=False, overwrite=overwrite)
    assert isinstance(caught.value, UsageError)
    assert (tmp_path / "photo.jpg").exists()


def test_a_file_is_refused(tmp_path, recipe):
    (tmp_path / "run").write_text("")
    with pytest.raises(RLRRError, match="is a file"):
        check_output(tmp_path / "run", recipe, resume=False, overwrite=True)


def test_a_folder_that_cannot_be_is_refused(tmp_path, recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(RLRRError, match=r"file is a file: give another `output`\.$"):
        check_output(tmp_path / "file" / "run", recipe, resume=False, overwrite=False)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_without_permission_is_not_called_a_full_disk(recipe, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/proc")  # root may write anywhere, it is told
    with pytest.raises(RLRRError, match=r"^/proc cannot be written to"):
        check_output(Path("/proc/run"), recipe, resume=False, overwrite=False)


def test_a_run_is_refused_unless_it_is_resumed_or_overwritten(a_run, recipe):
    with pytest.raises(RLRRError, match=r"resume.*overwrite"):
        check_output(a_run, recipe, resume=False, overwrite=False)
    check_output(a_run, recipe, resume=True, overwrite=False)
    check_output(a_run, recipe, resume=False, overwrite=True)
    with pytest.raises(RLRRError, match="give one of them"):
        check_output(a_run, recipe, resume=True, overwrite=True)


def test_resuming_needs_a_run_with_the_same_options(tmp_path, a_run):
    with pytest.raises(RLRRError, match=r"no run in .* to resume"):
        check_output(tmp_path / "new", Recipe("my data"), resume=True, overwrite=False)
    with pytest.raises(RLRRError, match=r"method: linear -> rlrr; epochs: 3 -> 30.*to train on, merge it") as caught:
        check_output(a_run, Recipe("my data"), resume=True, overwrite=False)
    assert "\n" not in str(caught.value)


def test_only_a_run_is_deleted_with_its_recipe_last(a_run, monkeypatch):
    for name in (METRICS, RECORD, TENSORS, "holiday.jpg"):
        (a_run / name).write_text("")
    (a_run / CHECKPOINTS / "checkpoint-3").mkdir(parents=True)
    (a_run / "train").mkdir()
    remove_run(a_run)
    assert {path.name for path in a_run.iterdir()} == {"holiday.jpg", "train"}
    remove_run(a_run / "nowhere")


def test_a_link_in_a_run_is_deleted_and_not_what_it_leads_to(a_run, tmp_path):
    elsewhere = checkpoint(tmp_path / "big disk", 3)
    (a_run / CHECKPOINTS).symlink_to(elsewhere.parent)
    remove_run(a_run)
    assert elsewhere.exists()
    assert not (a_run / CHECKPOINTS).is_symlink()


def test_a_full_disk_is_refused_beforehand(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    model = torch.nn.Linear(1024, 1024)  # 4 MiB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=59 << 20))
    with pytest.raises(RLRRError, match="has 59 MiB free and the run needs about 60 MiB"):
        check_space(tmp_path / "new" / "run", model)
    check_space(tmp_path / "new" / "run", model.requires_grad_(False))


def test_the_newest_checkpoint_is_the_one_of_the_last_step(tmp_path):
    for step in (9, 10, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path).name == "checkpoint-100"
    assert checkpoint_epoch(last_checkpoint(tmp_path)) == 10.0
    assert last_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [None, 0.0, 0.5, 0.95])
def test_a_checkpoint_with_a_file_missing_or_cut_short_is_passed_over(tmp_path, name, keep):
    for step in (1, 2):
        checkpoint(tmp_path, step)
    file = tmp_path / "checkpoint-2" / name
    content = file.read_bytes()
    file.unlink()
    if keep is not None:
        file.write_bytes(content[: int(keep * len(content))])
    if (name, keep) != ("rng_state.pth", None):  # under another name where there are many processes
        assert last_checkpoint(tmp_path).name == "checkpoint-1"
        remove_incomplete(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("content", [None, "{", "[]", "3", '{"epoch": 1}\n{"epo', "\x00"])
def test_metrics_that_are_missing_or_damaged_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / METRICS).write_text(content)
    with pytest.raises(RLRRError, match=METRICS):
        read_metrics(tmp_path / METRICS)


def test_metrics_come_back_in_order(tmp_path):
    (tmp_path / METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert read_metrics(tmp_path / METRICS) == [{"epoch": 1}, {"epoch": 2}]
