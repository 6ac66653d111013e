"""The run of many plans, in turn or several at a time; a plan that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from rlrr.backbones import load_backbone
from rlrr.compare.folder import find_result, shown_result
from rlrr.compare.plan import Plan, Result
from rlrr.compare.protocol import check_evidence, measure
from rlrr.errors import RLRRError, Stopped, UsageError
from rlrr.threads import worker_settings

_STOPPED = "Stopped: run the same command again to go on."


@dataclass(frozen=True)
class Job:
    """A plan under a unique name, and the folder for its result."""

    name: str
    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Outcomes:
    """The results and failures of jobs, by name.

    Attributes:
        results: The results, in the order of the jobs.
        failures: A sentence for each job that failed.
        preprocessing: The backbone's own preprocessing, in timm's words; recipes may put another in its place.
    """

    results: dict[str, Result]
    failures: dict[str, str]
    preprocessing: dict[str, Any]

    def raise_failures(self) -> None:
        """Refuse to go on if a job failed.

        Raises:
            RLRRError: a job failed; the message has a line for each.
        """
        if self.failures:
            lines = "\n".join(f"  {name}: {sentence}" for name, sentence in self.failures.items())
            raise RLRRError(f"{len(self.failures)} failed; run the same command again once mended:\n{lines}")


def run_jobs(
    jobs: Sequence[Job],
    processes: int = 1,
    say: Callable[[str], None] = lambda text: None,
    only: Collection[str] | None = None,
) -> Outcomes:
    """Measure all jobs that have no result yet.

    Args:
        jobs: The jobs, all on one backbone and by one protocol.
        processes: Number of jobs that run at a time; above 1, each in a process with one thread.
        say: Told of each run before it starts, and of each job that fails; it must pickle if `processes` is above 1.
        only: Names of the jobs to run; for other jobs a finished result is taken where it is of the same plan.

    Raises:
        Stopped: Ctrl-C or a signal stopped the jobs.
        RLRRError: the backbone cannot be loaded, or there is no result since all jobs failed.
    """
    if processes < 1:
        raise UsageError(f"The number of `jobs` at a time must be 1 or more, not {processes}.")
    recipe = jobs[0].plan.recipe
    backbone = load_backbone(recipe.model, num_classes=0, image_size=recipe.image_size, weights=recipe.weights)
    fingerprint, preprocessing = backbone.fingerprint, backbone.data_config
    del backbone
    results: dict[str, Result] = {}
    failures: dict[str, str] = {}
    pending = []
    for job in jobs:
        is_wanted = only is None or job.name in only
        try:
            result = (find_result if is_wanted else shown_result)(job.plan, fingerprint, job.folder)
            if result:
                check_evidence(result, job.plan, job.folder)
        except RLRRError as error:
            failures[job.name] = str(error)
            continue
        if result:
            results[job.name] = result
        elif is_wanted:
            pending.append(job)
    processes = min(processes, len(pending)) or 1
    parallel = Parallel(n_jobs=processes, return_as="generator_unordered", **worker_settings())
    try:
        for name, outcome in parallel(delayed(_outcome)(job, fingerprint, say) for job in pending):
            if isinstance(outcome, Result):
                results[name] = outcome
            else:
                failures[name] = outcome
    except KeyboardInterrupt as interrupt:
        raise Stopped.by(interrupt, _STOPPED) from None
    except Stopped as stopped:
        raise Stopped(_STOPPED, stopped.signal) from None
    except TerminatedWorkerError:
        raise RLRRError(
            "A process was killed, likely for want of memory: run the same command again with fewer `jobs` at a time."
        ) from None
    names = [job.name for job in jobs]
    outcomes = Outcomes(
        {name: results[name] for name in names if name in results},
        {name: failures[name] for name in names if name in failures},
        preprocessing,
    )
    if not results:  # of which no table can be made
        outcomes.raise_failures()
    return outcomes


def _outcome(job: Job, fingerprint: str, say: Callable[[str], None]) -> tuple[str, Result | str]:
    """Run one job: its name, and its result or the sentence that says why it failed."""
    try:
        return job.name, measure(job.name, job.plan, fingerprint, job.folder, say)
    except Stopped:
        raise
    except RLRRError as error:
        sentence = str(error)
    except torch.OutOfMemoryError:
        sentence = "The GPU has too little memory: run again with fewer `jobs` at a time, or a smaller `batch_size`."
    say(f"{job.name}: failed; the others go on")
    return job.name, sentence
