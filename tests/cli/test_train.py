"""`rlrr train`: from a folder of images to a finished run, and what it says to each mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rlrr.files import read_sealed

pytestmark = pytest.mark.slow

QUICK = ("--epochs", 1, "--batch-size", 8, "--precision", "fp32")


@pytest.fixture
def own(images, tmp_path) -> Path:
    """A copy of `images` to spoil."""
    return Path(shutil.copytree(images, tmp_path / "own"))


def test_a_run_says_what_came_out_and_what_is_next(rlrr, images, tiny_backbone, tmp_path):
    run = tmp_path / "run"
    result = rlrr("train", images, "--model", tiny_backbone, "--output", run, *QUICK)
    assert result.code == 0, result.err
    assert "rlrr: 24 training images, 3 classes" in result.out
    assert "of 9 images, read once" in result.out
    assert f"rlrr merge {run} --output {run}-merged" in result.out
    assert {"rlrr.json", "recipe.yaml", "metrics.jsonl", "adapter_model.safetensors"} <= {p.name for p in run.iterdir()}
    again = rlrr("train", images, "--model", tiny_backbone, "--output", run, *QUICK)
    assert again.code == 2
    assert again.err.startswith(f"rlrr: {run} already holds a run: go on with it (--resume), delete it (--overwrite)")


@pytest.mark.parametrize("method", ["linear", "full", "lora"])
def test_every_method_goes_from_images_to_predictions_and_a_plain_model(rlrr, images, tiny_backbone, tmp_path, method):
    run, merged = tmp_path / "run", tmp_path / "merged"
    trained = rlrr("train", images, "--model", tiny_backbone, "--output", run, "--method", method, "--json", *QUICK)
    assert trained.code == 0, trained.err
    record = json.loads(trained.out)
    assert record["method"] == method
    assert record["data"]["test"] == 9

    evaluated = json.loads(rlrr("evaluate", run, images, "--json").out)
    assert evaluated["accuracy"] == pytest.approx(record["metrics"]["test_accuracy"])
    predicted = json.loads(rlrr("predict", run, images / "test" / "red" / "0.png", "--json").out)
    assert {one["class"] for one in predicted[0]["top"]} == {"red", "green", "blue"}
    assert rlrr("merge", run, "--output", merged).code == 0
    assert (merged / "model.safetensors").exists()


def test_a_packaged_recipe_is_taken_by_its_name(rlrr, refused, images, tiny_backbone, tmp_path):
    run = tmp_path / "run"
    options = ("--model", tiny_backbone, "--image-size", 32, "--cooldown", 0, *QUICK)
    trained = rlrr("train", images, "--config", "vtab1k/cifar", "--output", run, *options)
    assert trained.code == 0, trained.err
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["schedule"], recipe["crop_mode"], recipe["data"]) == ("paper", "squash", str(images))
    assert "Did you mean vtab1k/cifar" in refused("train", images, "--config", "vtab1k/cifra", code=2)


def test_a_packaged_recipe_of_another_task_or_not_of_the_method_is_remarked_on(
    rlrr, make_vtab, tiny_backbone, tmp_path
):
    root = make_vtab(tmp_path, "kitti")
    options = ("--model", tiny_backbone, "--image-size", 32, "--test", "false", *QUICK)
    remark = "rlrr: vtab1k/cifar is the recipe of cifar, and the data is kitti\n"
    for name, method in (("cifar", "rlrr"), ("kitti", "lora")):
        more = ("--cooldown", 0) if method == "rlrr" else ()
        run = tmp_path / f"{name} run"
        config = ("--config", f"vtab1k/{name}", "--method", method)
        trained = rlrr("train", root / "kitti", *config, "--output", run, *options, *more)
        assert trained.code == 0, trained.err
        assert (remark in trained.err) is (name == "cifar")
        assert ("lora has no published hyper-parameters for vtab1k" in trained.err) is (method == "lora")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["crop_mode"], recipe["flip"]) == ("squash", True)
    assert (recipe["drop_path"], recipe["weight_decay"], recipe["schedule"]) == (0.0, 1e-4, "cosine")


def test_settings_stand_in_the_recipe_and_run_again(rlrr, images, tiny_backbone, tmp_path):
    run = tmp_path / "run"
    options = ("--model", tiny_backbone, "--set", "rank=2", "parts=[attn]", *QUICK)
    trained = rlrr("train", images, "--output", run, *options)
    assert trained.code == 0, trained.err
    assert yaml.safe_load((run / "recipe.yaml").read_text())["settings"] == {"rank": 2, "parts": ["attn"]}
    assert json.loads((run / "adapter_config.json").read_text())["rank"] == 2
    again = rlrr("train", "--config", run / "recipe.yaml", "--set", "rank=1", "--output", tmp_path / "again", "--json")
    assert json.loads(again.out)["recipe"]["settings"] == {"rank": 1, "parts": ["attn"]}


def test_a_wrong_setting_in_a_file_is_refused_with_the_name_of_the_file(refused, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: flowers\nsettings: {rank: two}")
    said = refused("train", "--config", recipe, "--output", tmp_path / "run", code=2)
    assert said.startswith(f"{recipe}: rank of rlrr must be a whole number")


def test_a_recipe_of_before_the_settings_is_refused_naming_them(refused, finished_run, tmp_path):
    recipe = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({**recipe, "rank": None, "sides": "both"}))
    said = refused("train", "--config", tmp_path / "old.yaml", "--output", tmp_path / "run", code=2)
    assert "there is no option 'rank'" in said
    assert "settings" in said


def test_a_run_of_before_the_settings_is_still_evaluated(rlrr, finished_run, images, tmp_path):
    old = Path(shutil.copytree(finished_run, tmp_path / "old"))
    record = read_sealed(old / "rlrr.json")
    del record["recipe"]["settings"], record["recipe"]["objective"]
    record["recipe"] |= {"rank": None, "sides": "both", "frozen": "fp32", "warn_deviation": None, "random_crop": 0.5}
    (old / "rlrr.json").write_text(json.dumps(record))
    (old / "recipe.yaml").write_text(yaml.safe_dump(record["recipe"]))
    assert rlrr("evaluate", old, images).code == 0
    assert rlrr("predict", old, images / "test" / "red" / "0.png").code == 0
    assert rlrr("merge", old, "--output", tmp_path / "merged").code == 0


def test_resume_alone_goes_on_by_the_runs_own_recipe(rlrr, refused, finished_run, tmp_path):
    stopped = Path(shutil.copytree(finished_run, tmp_path / "stopped"))
    (stopped / "rlrr.json").unlink()
    assert "epochs: 4 -> 9" in refused("train", "--output", stopped, "--resume", "--epochs", 9, code=2)
    resumed = rlrr("train", "--output", stopped, "--resume")
    assert resumed.code == 0, resumed.err
    name = "adapter_model.safetensors"
    assert (stopped / name).read_bytes() == (finished_run / name).read_bytes()
    assert "There is no recipe" in refused("train", "--output", tmp_path / "none", "--resume", code=1)


def test_a_run_goes_on_and_is_repeated_from_another_folder(rlrr, images, tiny_backbone, tmp_path, monkeypatch):
    shutil.copytree(images, tmp_path / "home" / "flowers")
    shutil.copytree(tiny_backbone, tmp_path / "home" / "tiny")
    monkeypatch.chdir(tmp_path / "home")
    assert rlrr("train", "flowers/", "--model", "tiny", "--output", "run", *QUICK).code == 0
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    again = rlrr("train", "--config", "../home/run/recipe.yaml", "--output", "again")
    assert again.code == 0, again.err
    name = "adapter_model.safetensors"
    assert Path("again", name).read_bytes() == Path("../home/run", name).read_bytes()
    Path("../home/run/rlrr.json").unlink()
    for data in ([], ["../home/flowers"]):
        resumed = rlrr(
            "train",
            *data,
            "--output",
            "../home/run",
            "--resume",
            *(("--model", "../home/tiny") if data else ()),
            *(QUICK if data else ()),
        )
        assert resumed.code == 0, resumed.err


def test_a_recipe_runs_again_and_the_command_line_changes_it(rlrr, finished_run, flat_images, tmp_path):
    recipe = finished_run / "recipe.yaml"
    again = rlrr("train", "--config", recipe, "--output", tmp_path / "again")
    assert again.code == 0, again.err
    assert (tmp_path / "again" / "recipe.yaml").read_bytes() == recipe.read_bytes()
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        finished_run / "adapter_model.safetensors"
    ).read_bytes()

    other = tmp_path / "other"
    assert rlrr("train", flat_images, "--epochs", 1, "--config", recipe, "--output", other).code == 0
    changed = yaml.safe_load((other / "recipe.yaml").read_text())
    assert changed == {**yaml.safe_load(recipe.read_text()), "data": str(flat_images), "epochs": 1}


def test_paths_may_have_spaces_and_letters_of_any_language(rlrr, make_images, tiny_backbone, tmp_path):
    folder, run = tmp_path / "mes fleurs d'été", tmp_path / "läuft 実行"
    make_images(folder, 4, classes=("réd rose", "青"))
    result = rlrr("train", folder, "--model", tiny_backbone, "--output", run, *QUICK)
    assert result.code == 0, result.err
    image = folder / "青" / "0.png"
    predicted = rlrr("predict", run, image)
    assert predicted.out.startswith(f"{image}: ")
    assert "réd rose" in predicted.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no data to train on: "),
        (
            ["{images}", "--method", "rllr"],
            "--method must be one of rlrr, linear, full, bitfit",
        ),
        (["{images}", "--model", "vit_small_focu"], "There is no backbone 'vit_small_focu'"),
        (["{images}", "--epochs", "0"], "--epochs must be 1 or more, not 0."),
        (["{images}", "--learning-rate", "nan"], "--learning-rate must be above 0, not nan."),
        (["{images}", "--set", "rnak=2"], "rlrr has no setting rnak. Did you mean rank"),
        (["{images}", "--set", "rank=two"], "rank of rlrr must be a whole number, not 'two'"),
        (["{images}", "--method", "linear", "--set", "rank=2"], "linear has no settings"),
        (["{images}", "--objective", "weight=1"], "--objective does not go with the method rlrr"),
        (["{images}", "--image-size", "33"], "--image-size 33 does not fit"),
        (["{images}", "--resume"], "There is no run in"),
        (["{images}", "--resume", "--overwrite"], "--resume goes on with a run and --overwrite deletes it"),
        (["{images}", "--weights", "none.pth"], "There are no weights at none.pth"),
    ],
)
def test_wrong_use_is_refused_in_one_sentence(refused, images, tiny_backbone, tmp_path, arguments, message):
    arguments = [argument.format(images=images) for argument in arguments]
    model = [] if "--model" in arguments else ["--model", tiny_backbone]
    said = refused("train", *arguments, *model, "--output", tmp_path / "run", code=2)
    assert said.startswith(message)
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_the_old_name_of_the_papers_is_met_with_the_two_exact_ones(refused, images, tmp_path):
    said = refused("train", images, "--model", "vit_base_patch16_224_in21k", "--output", tmp_path / "run", code=2)
    assert "vit_base_patch16_224.augreg_in21k" in said
    assert "vit_base_patch16_224.orig_in21k" in said


def test_an_unknown_model_is_met_with_near_names(refused, images, tmp_path):
    said = refused("train", images, "--model", "vit_base_patch16_225", "--output", tmp_path / "run", code=2)
    assert "Did you mean vit_base_patch16_22" in said
    assert "`rlrr backbones`" in said


def _missing(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _one_class(folder: Path) -> None:
    for part in folder.iterdir():
        shutil.rmtree(part / "red")
        shutil.rmtree(part / "blue")


def _single_images(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    for file in (folder / "train").glob("*/[1-9].png"):
        file.unlink()


def _file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, "There is no folder {own}."),
        (_empty, "{own} holds no images."),
        (_file, "{own} is a file, not a folder of images."),
        (_one_class, "own has one class only ('green')"),
        (_single_images, "own has a single image of each class"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(refused, own, tiny_backbone, tmp_path, spoil, message):
    spoil(own)
    said = refused("train", own, "--model", tiny_backbone, "--output", tmp_path / "run", code=1)
    assert said.startswith(message.format(own=own))
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_all_bad_images_are_named_in_one_error_or_skipped_and_counted(rlrr, own, tiny_backbone, tmp_path):
    whole = (own / "train" / "red" / "0.png").read_bytes()
    bad = {"red/0.png": whole[:200], "red/1.png": b"", "green/2.png": b"just text", "blue/3.png": b"GIF89a"}
    for name, content in bad.items():
        (own / "train" / name).write_bytes(content)
    (own / "test" / "red" / "0.png").write_bytes(b"")
    arguments = ("train", own, "--model", tiny_backbone, "--output", tmp_path / "run", *QUICK)

    refused = rlrr(*arguments)
    assert refused.code == 1
    assert refused.err.startswith("rlrr: 4 of the 24 images of train cannot be read:\n")
    assert all(name in refused.err for name in bad)
    assert "--bad-images skip" in refused.err
    assert not (tmp_path / "run").exists()

    skipped = rlrr(*arguments, "--bad-images", "skip")
    assert skipped.code == 0, skipped.err
    assert "20 training images" in skipped.out
    assert "skipped    5 images" in skipped.out
    record = json.loads((tmp_path / "run" / "rlrr.json").read_text())
    assert len(record["data"]["skipped"]) == 5
    assert record["data"]["test"] == 8


def test_a_folder_that_holds_something_else_is_left_alone(refused, images, tiny_backbone, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        said = refused("train", images, "--model", tiny_backbone, "--output", tmp_path / "run", *more, code=2)
        assert said == f"{tmp_path / 'run'} exists and holds something else: give another --output."
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"
