"""Numbers edited by hand, and runs in the place of others, are noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlrr.compare.folder import find_result, read_result
from rlrr.compare.plan import Plan
from rlrr.compare.protocol import check_evidence, measure
from rlrr.compare.runner import Job, run_jobs
from rlrr.errors import RLRRError
from rlrr.training.output import METRICS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(kitti, tiny_backbone, fingerprint, tmp_path_factory):
    """Plans by protocol, each with the folder of its result. Read only."""
    from rlrr.recipes.recipe import Recipe

    recipe = Recipe(data=str(kitti), model=tiny_backbone, epochs=2, batch_size=4, precision="fp32")
    plans = {"honest": Plan(recipe, seeds=(0, 1), rates=(1.0, 2.0)), "paper": Plan(recipe, "paper", (42,), (1.0,))}
    made = {}
    for name, plan in plans.items():
        folder = tmp_path_factory.mktemp(name) / "kitti"
        measure("kitti", plan, fingerprint, folder)
        made[name] = plan, folder
    return made


@pytest.fixture
def copied(measured, tmp_path):
    """A plan, and a copy of its folder to edit."""

    def copy(protocol: str) -> tuple[Plan, Path]:
        plan, folder = measured[protocol]
        return plan, Path(shutil.copytree(folder, tmp_path / protocol))

    return copy


def edit(path: Path, *keys, value) -> None:
    """Put a value into a JSON file as a person would; a checksum in it goes."""
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("protocol", ["honest", "paper"])
def test_an_untouched_result_is_taken(copied, fingerprint, protocol):
    plan, folder = copied(protocol)
    result = find_result(plan, fingerprint, folder)
    check_evidence(result, plan, folder)
    assert measure("kitti", plan, fingerprint, folder) == result


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["accuracies"], [0.99, 0.99]),
        (["mean"], 0.99),
        (["deviation"], 0.5),
        (["candidates", 0, "val_accuracy"], 0.99),
        (["rate"], 2.5),
        (["learning_rate"], 1.0),
        (["images", "test"], 1),
        (["label"], "the best of all"),
        (["parameters", "adapter"], 1),
        (["seconds"], 0.1),
        (["device"], "an abacus"),
    ],
)
def test_an_edited_result_is_refused(copied, fingerprint, keys, value):
    plan, folder = copied("honest")
    edit(folder / "result.json", *keys, value=value)
    with pytest.raises(RLRRError, match=rf"result\.json is not what the runs beside it give \(.*{keys[0]}: "):
        measure("kitti", plan, fingerprint, folder)


@pytest.mark.parametrize(
    ("protocol", "run", "name"),
    [
        ("honest", "seed-1", "test_accuracy"),
        ("honest", "rate-1", "val_accuracy"),
        ("honest", "rate-1", "epoch"),
        ("paper", "paper-42", "best_test_accuracy"),
    ],
)
@pytest.mark.parametrize("result_is_there", [True, False])
def test_an_edited_record_of_a_run_is_refused(copied, fingerprint, protocol, run, name, result_is_there):
    plan, folder = copied(protocol)
    edit(folder / run / "rlrr.json", "metrics", name, value=0.99)
    if not result_is_there:
        (folder / "result.json").unlink()
    with pytest.raises(RLRRError, match=rf"{run}/rlrr\.json has .*0\.99.*{METRICS}"):
        measure("kitti", plan, fingerprint, folder)


def test_an_edited_log_is_refused(copied, fingerprint):
    plan, folder = copied("paper")
    log = folder / "paper-42" / METRICS
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**line, "eval_accuracy": 0.99}) + "\n" for line in lines))
    with pytest.raises(RLRRError, match=METRICS):
        measure("kitti", plan, fingerprint, folder)


def test_a_run_in_the_place_of_another_is_refused(copied, fingerprint):
    plan, folder = copied("honest")
    shutil.rmtree(folder / "seed-1")
    shutil.copytree(folder / "seed-0", folder / "seed-1")
    for _ in range(2):  # with its result, and without it
        with pytest.raises(RLRRError, match="seed-1 holds a run of another recipe"):
            measure("kitti", plan, fingerprint, folder)
        (folder / "result.json").unlink(missing_ok=True)


def test_a_result_whose_runs_were_deleted_is_compared_with_the_rest(copied):
    plan, folder = copied("honest")
    result = read_result(folder)
    shutil.rmtree(folder / "seed-0")
    check_evidence(result, plan, folder)
    with pytest.raises(RLRRError, match="accuracies"):
        check_evidence(replace(result, accuracies=[0.5, 0.99]), plan, folder)


def test_data_and_machine_may_be_others_by_now(copied, kitti, tmp_path, fingerprint):
    plan, folder = copied("honest")
    shutil.copytree(kitti, tmp_path / "moved" / "kitti")
    moved = replace(plan, recipe=replace(plan.recipe, data=str(tmp_path / "moved" / "kitti"), threads=1))
    assert measure("kitti", moved, fingerprint, folder) == read_result(folder)


def test_a_run_of_before_the_test_was_logged_is_taken(copied, fingerprint):
    plan, folder = copied("honest")
    for log in folder.glob(f"*/{METRICS}"):
        log.write_text("".join(line for line in log.read_text().splitlines(True) if "test_accuracy" not in line))
    for record in folder.glob("*/rlrr.json"):  # an older one, which knows no checksum of its log
        edit(record, "files_sha256", value={}) if "files_sha256" in record.read_text() else None
    assert measure("kitti", plan, fingerprint, folder)


@pytest.mark.parametrize("only", [["kitti"], ["other"]])
def test_an_edited_result_is_a_failure_also_where_it_is_only_shown(copied, recipe, tmp_path, only):
    plan, folder = copied("honest")
    edit(folder / "result.json", "accuracies", value=[0.99, 0.99])
    jobs = [Job("kitti", plan, folder), Job("other", Plan(recipe, seeds=(0,), rates=(1.0,)), tmp_path / "other")]
    outcomes = run_jobs(jobs, only=[*only, "other"])
    assert list(outcomes.results) == ["other"]
    assert "is not what the runs beside it give" in outcomes.failures["kitti"]
