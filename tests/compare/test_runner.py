"""Many jobs: failures, reuse, and one backbone for all."""

from dataclasses import replace

import pytest

from rlrr.compare import protocol
from rlrr.compare.protocol import Plan
from rlrr.compare.runner import Job, check_one_backbone, check_one_protocol, run_jobs
from rlrr.errors import RLRRError
from rlrr.interop.timm_folder import write_timm_folder


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
    with pytest.raises(RLRRError, match=r"(?s)1 of 3 failed.*broken: .*nothing"):
        outcomes.raise_failures()
    run_jobs(jobs)
    assert len(trained) == 2


def test_jobs_in_processes_give_the_same(jobs, tmp_path):
    alone = run_jobs(jobs[:1])
    beside = run_jobs([Job(name, jobs[0].plan, tmp_path / "beside" / name) for name in ("one", "two")], 2, print)
    assert [result.accuracies for result in beside.results.values()] == [alone.results["one"].accuracies] * 2


def test_ctrl_c_is_no_failure_of_a_job(jobs, monkeypatch):
    def interrupted(recipe, folder, **options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RLRRError("Stopped: as `train` says it.") from None

    monkeypatch.setattr(protocol, "train", interrupted)
    with pytest.raises(RLRRError, match="Stopped: run the same command again"):
        run_jobs(jobs)


def test_a_backbone_with_other_weights_is_refused_before_anything_runs(jobs, trained, tmp_path, tiny_backbone):
    import timm

    run_jobs(jobs[:1])
    model = timm.create_model(f"local-dir:{tiny_backbone}")
    config = timm.data.resolve_model_data_config(model)
    write_timm_folder(model.apply(_negated), tmp_path / "other", ["a", "b"], config)
    weights = str(tmp_path / "other" / "model.safetensors")
    other = [replace(job, plan=replace(job.plan, recipe=replace(job.plan.recipe, weights=weights))) for job in jobs]
    with pytest.raises(RLRRError, match="one and the backbone at hand are of different backbone weights"):
        run_jobs(other)
    assert len(trained) == 1


def _negated(module):
    for parameter in module.parameters(recurse=False):
        parameter.data.neg_()


def test_results_of_two_backbones_are_in_no_one_table(make_result):
    one, other = make_result(50.0), make_result(60.0, fingerprint="cd" * 32)
    check_one_backbone({"a": one, "b": one})
    with pytest.raises(RLRRError, match="a and b are of different backbone weights"):
        check_one_backbone({"a": one, "b": other})


def test_results_of_two_protocols_are_in_no_one_folder(jobs, recipe):
    run_jobs(jobs[:1])
    check_one_protocol(jobs[0].folder.parent, jobs[0].plan)
    with pytest.raises(RLRRError, match="made by the protocol honest, not paper"):
        check_one_protocol(jobs[0].folder.parent, Plan(recipe, "paper", (42,), (1.0,)))


def test_no_jobs_at_a_time_is_refused(jobs):
    with pytest.raises(RLRRError, match="--jobs must be 1 or more, not 0"):
        run_jobs(jobs, 0)
