"""Many jobs: failures, reuse, and one backbone for all."""

import signal
from dataclasses import replace

import pytest

from rlrr.adapters.record import read_record
from rlrr.compare import protocol
from rlrr.compare.plan import Plan
from rlrr.compare.runner import Job, run_jobs
from rlrr.errors import RLRRError, Stopped
from rlrr.interop.timm_folder import write_timm_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def jobs(recipe, tmp_path):
    plan = Plan(recipe, seeds=(0,), rates=(1.0,))
    broken = replace(plan, recipe=replace(recipe, data=str(tmp_path / "nothing")))
    plans = {"one": plan, "broken": broken, "two": plan}
    return [Job(name, its, tmp_path / "out" / name) for name, its in plans.items()]


def test_a_job_that_fails_does_not_stop_the_others_and_is_named_at_the_end(jobs, trained):
    said = []
    outcomes = run_jobs(jobs, say=said.append)
    assert list(outcomes.results) == ["one", "two"]
    assert list(outcomes.failures) == ["broken"]
    assert "broken: failed; the others go on" in said
    with pytest.raises(RLRRError, match=r"(?s)1 failed.*broken: .*nothing"):
        outcomes.raise_failures()
    run_jobs(jobs)
    assert len(trained) == 2


def test_jobs_in_processes_give_the_same(jobs, tmp_path):
    run_jobs(jobs[:1])
    run_jobs([Job(name, jobs[0].plan, tmp_path / "beside" / name) for name in ("one", "two")], 2, print)
    folders = (tmp_path / "out" / "one", tmp_path / "beside" / "one", tmp_path / "beside" / "two")
    assert len({read_record(folder / "seed-0").tensors_sha256 for folder in folders}) == 1


def test_a_folder_that_does_not_fit_fails_for_itself(jobs, trained):
    run_jobs(jobs[:1])
    other = replace(jobs[0], plan=replace(jobs[0].plan, seeds=(1,)))
    outcomes = run_jobs([other, jobs[2]])
    assert list(outcomes.results) == ["two"]
    assert "seeds: 0 -> 1" in outcomes.failures["one"]


def test_what_is_not_asked_for_is_neither_run_nor_a_failure(jobs, trained):
    assert list(run_jobs(jobs, only=["one"]).results) == ["one"]
    other = [replace(job, plan=replace(job.plan, seeds=(1,))) for job in jobs]
    assert list(run_jobs(other, only=["two"]).results) == ["two"]  # and not one, which is of another plan
    assert list(run_jobs([*other[:2], jobs[0]], only=["broken"]).results) == ["one"]
    assert len(trained) == 2


def test_ctrl_c_is_no_failure_of_a_job(jobs, monkeypatch):
    def interrupted(recipe, folder, **options):
        raise Stopped("Stopped: as `train` says it.", signal.SIGTERM)

    monkeypatch.setattr(protocol, "train", interrupted)
    with pytest.raises(Stopped, match="run the same command again") as caught:
        run_jobs(jobs)
    assert caught.value.signal == signal.SIGTERM


def test_a_finished_result_of_other_weights_is_refused(jobs, trained, tmp_path, tiny_backbone):
    import timm

    run_jobs(jobs[:1])
    model = timm.create_model(f"local-dir:{tiny_backbone}")
    config = timm.data.resolve_model_data_config(model)
    write_timm_folder(model.apply(_negated), tmp_path / "other", ["a", "b"], config)
    weights = str(tmp_path / "other" / "model.safetensors")
    other = [replace(job, plan=replace(job.plan, recipe=replace(job.plan.recipe, weights=weights))) for job in jobs[:1]]
    with pytest.raises(RLRRError, match=r"one: .*weights of the backbone"):
        run_jobs(other)
    assert len(trained) == 1


def _negated(module):
    for parameter in module.parameters(recurse=False):
        parameter.data.neg_()


def test_no_jobs_at_a_time_is_refused(jobs):
    with pytest.raises(RLRRError, match="must be 1 or more, not 0"):
        run_jobs(jobs, 0)
