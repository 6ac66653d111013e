"""VTAB-1k and FGVC: which recipe, on which folder."""

from pathlib import Path

import pytest

from rlrr.compare.benchmarks import BENCHMARKS, benchmark_jobs, changes, check_task_folders, recipe_of, without_recipe
from rlrr.errors import RLRRError
from rlrr.recipes.files import load_recipe
from rlrr.recipes.recipe import Recipe

PLAN = {"protocol": "honest", "seeds": (0,), "rates": (1.0,)}


@pytest.mark.parametrize(("name", "variant"), [("vtab1k", None), ("fgvc", None), ("fgvc", "aug")])
def test_every_task_has_the_papers_recipe(tmp_path, name, variant):
    jobs = benchmark_jobs(BENCHMARKS[name], tmp_path, PLAN, {}, Path("out"), variant)
    folder = "fgvc_aug" if variant else name
    for task, job in jobs.items():
        assert job.plan.recipe.digest() == load_recipe(f"{folder}/{task}").digest()
        assert job.folder == Path("out") / task


def test_the_folders_of_both_benchmarks_are_found(make_vtab, make_fgvc, tmp_path):
    vtab, fgvc = make_vtab(tmp_path / "vtab", "kitti", test=4), make_fgvc(tmp_path / "fgvc", "cub")
    kitti = benchmark_jobs(BENCHMARKS["vtab1k"], vtab, PLAN, {}, Path("out"))["kitti"]
    cub = benchmark_jobs(BENCHMARKS["fgvc"], fgvc, PLAN, {}, Path("out"))["cub"]
    assert kitti.plan.recipe.data == str(vtab / "kitti")
    assert cub.plan.recipe.data == str(fgvc / "CUB_200_2011")


def test_missing_folders_are_named_together(make_vtab, tmp_path):
    root = make_vtab(tmp_path, "kitti", test=4)
    jobs = benchmark_jobs(BENCHMARKS["vtab1k"], root, PLAN, {}, Path("out"))
    check_task_folders(BENCHMARKS["vtab1k"], root, {"kitti": jobs["kitti"]})
    with pytest.raises(RLRRError, match="has no folder of cifar, dtd: put"):
        check_task_folders(BENCHMARKS["vtab1k"], root, {name: jobs[name] for name in ("cifar", "dtd", "kitti")})
    with pytest.raises(RLRRError, match="There is no folder"):
        check_task_folders(BENCHMARKS["vtab1k"], root / "nowhere", jobs)


def test_tasks_are_taken_in_the_order_of_the_paper():
    vtab = BENCHMARKS["vtab1k"]
    assert vtab.chosen(["kitti", "cifar"]) == ["cifar", "kitti"]
    assert len(vtab.chosen(None)) == 19
    with pytest.raises(RLRRError, match=r"no task 'kiti'.*Did you mean kitti\?"):
        vtab.chosen(["kiti"])


def test_only_options_that_make_another_recipe_are_said_to():
    assert changes({"model": "x", "weights": "y", "threads": 1, "workers": 0, "method": "rlrr"}) == {}
    assert changes({"epochs": 2, "model": "x"}) == {"epochs": 2}
    assert changes({"method": "linear", "settings": {"r": 2}}) == {"settings": {"r": 2}}
    assert without_recipe("lora", {"epochs": 2}).endswith("lora's own defaults (it has no recipe here), epochs=2")


def test_another_method_takes_nothing_of_rlrrs_recipe_that_is_not_of_the_images():
    vtab = BENCHMARKS["vtab1k"]
    linear = vtab.recipe("cifar", {"method": "linear", "data": "x"})
    plain = Recipe("x", method="linear", epochs=100, crop_mode="squash", crop_pct=1.0, normalization="half")
    assert linear == plain
    assert vtab.recipe("cifar", {"epochs": 2}).learning_rate == load_recipe("vtab1k/cifar").learning_rate


def test_a_variant_that_is_not_there_is_refused():
    with pytest.raises(RLRRError, match="VTAB-1k has no variant 'aug'; it has none"):
        BENCHMARKS["vtab1k"].recipe("cifar", {}, "aug")


def test_a_folder_of_a_benchmark_is_known_by_its_name_and_its_lists(make_vtab, make_fgvc, tmp_path, flat_images):
    vtab, fgvc = make_vtab(tmp_path, "kitti", test=4), make_fgvc(tmp_path, "cub")
    assert recipe_of(str(vtab / "kitti")) == "vtab1k/kitti"
    assert recipe_of(f"{fgvc}/CUB_200_2011/") == "fgvc/cub"
    (vtab / "kitti").rename(vtab / "kitty")
    (tmp_path / "cars").mkdir()
    for data in (vtab / "kitty", tmp_path / "cars", flat_images, "sample:lfw"):
        assert recipe_of(str(data)) is None
