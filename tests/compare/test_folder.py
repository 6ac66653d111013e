"""The folder of a result: taken where it fits, refused where it does not, and not touched by looking."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
from filelock import FileLock

from rlrr.compare.folder import adopt, find_result, shown_result
from rlrr.compare.plan import Plan
from rlrr.compare.protocol import measure
from rlrr.errors import RLRRError

pytestmark = pytest.mark.slow


@pytest.fixture
def half_done(recipe, kitti, tmp_path, fingerprint):
    """The plan of a folder with a run that has only begun, and the same on data that were moved."""
    plan, folder = Plan(recipe, seeds=(0,), rates=(1.0,)), tmp_path / "out"
    adopt(plan, fingerprint, folder)
    (folder / "seed-0").mkdir()
    (folder / "seed-0" / "recipe.yaml").write_text("")
    shutil.copytree(kitti, tmp_path / "moved" / "kitti")
    return folder, replace(plan, recipe=replace(recipe, data=str(tmp_path / "moved" / "kitti")))


def test_looking_for_a_result_deletes_nothing(half_done, fingerprint):
    folder, moved = half_done
    assert find_result(moved, fingerprint, folder) is None
    assert (folder / "seed-0").exists()
    adopt(moved, fingerprint, folder)
    assert not (folder / "seed-0").exists()


def test_a_result_is_shown_wherever_its_data_are_and_left_out_where_it_does_not_fit(
    make_result, recipe, tmp_path, fingerprint
):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    adopt(plan, fingerprint, tmp_path)
    assert shown_result(plan, fingerprint, tmp_path) is None
    result = make_result(50.0, plan=plan, fingerprint=fingerprint)
    (tmp_path / "result.json").write_text(json.dumps(asdict(result)))
    gone = replace(plan, recipe=replace(recipe, data="nowhere"))
    assert shown_result(gone, fingerprint, tmp_path) == result
    assert shown_result(replace(plan, seeds=(1,)), fingerprint, tmp_path) is None
    assert shown_result(plan, "ab" * 32, tmp_path) is None
    assert shown_result(plan, fingerprint, tmp_path / "nothing") is None
    (tmp_path / "result.json").write_text("{}")
    assert shown_result(plan, fingerprint, tmp_path) is None


@pytest.mark.parametrize("early", [False, True])
def test_a_folder_of_other_weights_is_refused(make_result, recipe, tmp_path, fingerprint, early):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    adopt(plan, fingerprint, tmp_path)
    if early:  # whose options did not say
        options = json.loads((tmp_path / "options.json").read_text())
        result = make_result(50.0, plan=plan, fingerprint=fingerprint)
        (tmp_path / "result.json").write_text(json.dumps(asdict(result)))
        del options["fingerprint"], options["sha256"]
        (tmp_path / "options.json").write_text(json.dumps(options))
        assert find_result(plan, fingerprint, tmp_path) == result
    with pytest.raises(RLRRError, match=f"weights of the backbone: {fingerprint[:12]} -> abababababab"):
        find_result(plan, "ab" * 32, tmp_path)


def test_a_finished_result_is_taken_without_looking_at_the_data(recipe, kitti, tmp_path, trained, fingerprint):
    shutil.copytree(kitti, tmp_path / "kitti data")
    plan = Plan(replace(recipe, data=str(tmp_path / "kitti data")), seeds=(0,), rates=(1.0,))
    first = measure("kitti", plan, fingerprint, tmp_path / "out")
    shutil.rmtree(tmp_path / "kitti data")
    assert measure("kitti", plan, fingerprint, tmp_path / "out") == first
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
def test_a_folder_of_other_options_is_refused_naming_them(recipe, tmp_path, change, named, fingerprint):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    measure("kitti", plan, fingerprint, tmp_path / "kitti")
    if "recipe" in change:
        change = {"recipe": replace(recipe, **change["recipe"])}
    with pytest.raises(RLRRError, match="was made with other options") as error:
        measure("kitti", replace(plan, **change), fingerprint, tmp_path / "kitti")
    assert named in str(error.value)
    assert "output" in str(error.value)


def test_threads_and_workers_make_no_other_result(recipe, tmp_path, trained, fingerprint):
    first = measure("kitti", Plan(recipe, seeds=(0,), rates=(1.0,)), fingerprint, tmp_path / "kitti")
    changed = Plan(replace(recipe, threads=1, workers=0), seeds=(0,), rates=(1.0,))
    assert measure("kitti", changed, fingerprint, tmp_path / "kitti") == first


def test_data_may_move_but_not_change(recipe, kitti, tmp_path, make_vtab, fingerprint):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    first = measure("kitti", plan, fingerprint, tmp_path / "out")
    shutil.copytree(kitti, tmp_path / "moved" / "kitti")
    moved = replace(plan, recipe=replace(recipe, data=str(tmp_path / "moved" / "kitti")))
    assert measure("kitti", moved, fingerprint, tmp_path / "out") == first
    make_vtab(tmp_path / "other", "kitti", train=5, test=8)
    other = replace(plan, recipe=replace(recipe, data=str(tmp_path / "other" / "kitti")))
    with pytest.raises(RLRRError, match=r"had other images than .* has now"):
        measure("kitti", other, fingerprint, tmp_path / "out")


def test_two_processes_do_not_work_in_one_folder(recipe, tmp_path, fingerprint):
    (tmp_path / "kitti").mkdir()
    with FileLock(tmp_path / "kitti" / ".lock"), pytest.raises(RLRRError, match="Another process works in"):
        measure("kitti", Plan(recipe), fingerprint, tmp_path / "kitti")


@pytest.mark.parametrize("file", ["options.json", "result.json"])
def test_a_damaged_file_is_named(recipe, tmp_path, file, fingerprint):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    measure("kitti", plan, fingerprint, tmp_path / "kitti")
    (tmp_path / "kitti" / file).write_text("{}")
    with pytest.raises(RLRRError, match=f"{file} is damaged"):
        measure("kitti", plan, fingerprint, tmp_path / "kitti")
