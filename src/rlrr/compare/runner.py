"""Many plans, one after the other or some at a time; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from rlrr.backbones import load_backbone
from rlrr.compare.protocol import RESULT, Plan, Result, find_result, measure, read_result
from rlrr.errors import RLRRError


@dataclass(frozen=True)
class Job:
    """A plan under a name that is like no other's, and the folder for it."""

    name: str
    plan: Plan
    folder: Path


@dataclass(frozen=True)
class Outcomes:
    """What came out of jobs, by their names: the results, and a sentence for each that failed."""

    results: dict[str, Result]
    failures: dict[str, str]

    def raise_failures(self) -> None:
        """Say what failed, if anything did.

        Raises:
            RLRRError: with a line for each.
        """
        if self.failures:
            lines = "\n".join(f"  {name}: {sentence}" for name, sentence in self.failures.items())
            total = len(self.results) + len(self.failures)
            raise RLRRError(f"{len(self.failures)} of {total} failed; run the same command again once mended:\n{lines}")


def run_jobs(jobs: Sequence[Job], processes: int = 1, say: Callable[[str], None] = lambda text: None) -> Outcomes:
    """Measure what has no result yet.

    Args:
        jobs: All on one backbone, by one protocol.
        processes: How many jobs run at a time; the cores are shared out among them.
        say: Told of each run before it starts, and of each job that fails; it must pickle if `processes` is above 1.

    Raises:
        RLRRError: results that are there are of another plan, backbone or protocol; or all was stopped by Ctrl-C.
    """
    if processes < 1:
        raise RLRRError(f"--jobs must be 1 or more, not {processes}.", usage=True)
    found = {job.name: find_result(job.plan, job.folder) for job in jobs}
    results = {name: result for name, result in found.items() if result}
    pending = [job for job in jobs if job.name not in results]
    failures: dict[str, str] = {}
    if pending:
        recipe = pending[0].plan.recipe
        backbone = load_backbone(recipe.model, num_classes=0, image_size=recipe.image_size, weights=recipe.weights)
        check_one_backbone(results, backbone.fingerprint)
        del backbone
        parallel = Parallel(n_jobs=min(processes, len(pending)), return_as="generator_unordered")
        try:
            for name, outcome in parallel(delayed(_outcome)(job, say) for job in pending):
                if isinstance(outcome, Result):
                    results[name] = outcome
                else:
                    failures[name] = outcome
        except KeyboardInterrupt:
            raise RLRRError("Stopped: run the same command again to go on.") from None
        except TerminatedWorkerError:
            raise RLRRError(
                "A process was killed, likely for want of memory: run the same command again with fewer --jobs."
            ) from None
    check_one_backbone(results)
    ordered = [job.name for job in jobs]
    return Outcomes(
        {name: results[name] for name in ordered if name in results},
        {name: failures[name] for name in ordered if name in failures},
    )


def check_one_backbone(results: dict[str, Result], fingerprint: str | None = None) -> None:
    """Refuse results of different weights, which no table should hold.

    Raises:
        RLRRError: naming two of them, or one and the weights at hand.
    """
    prints = {result.fingerprint: name for name, result in results.items()}
    if fingerprint:
        prints.setdefault(fingerprint, "the backbone at hand")
    if len(prints) > 1:
        (one, its), (other, others) = list(prints.items())[:2]
        raise RLRRError(
            f"{its} and {others} are of different backbone weights ({one[:12]} and {other[:12]}): give another "
            "--output.",
            usage=True,
        )


def check_one_protocol(folder: Path, plan: Plan) -> None:
    """Refuse a folder with results of another protocol.

    Raises:
        RLRRError: naming one of them.
    """
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if (made := read_result(path.parent)).protocol != plan.protocol:
            raise RLRRError(
                f"{path.parent} was made by the protocol {made.protocol}, not {plan.protocol}: give another --output.",
                usage=True,
            )


def _outcome(job: Job, say: Callable[[str], None]) -> tuple[str, Result | str]:
    try:
        return job.name, measure(job.name, job.plan, job.folder, say)
    except RLRRError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # which `train` puts into words
            raise KeyboardInterrupt from None
        sentence = str(error)
    except torch.OutOfMemoryError:
        sentence = "The GPU has too little memory: run again with fewer --jobs, or a smaller --batch_size."
    say(f"{job.name}: failed; the others go on")
    return job.name, sentence
