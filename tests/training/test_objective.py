"""Objectives: cross-entropy, and a loss with random draws, stored logits and two heads that survives a kill."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.data import Mixup
from torch import nn
from torch.nn import functional as F

from rlrr.adapters.record import TENSORS
from rlrr.errors import RLRRError, UsageError
from rlrr.methods.table import METHODS
from rlrr.recipes.recipe import Recipe
from rlrr.training import trainer
from rlrr.training.objective import (
    STATE,
    Batch,
    CrossEntropy,
    Objective,
    Outcome,
    load_state,
    make_objective,
    named_objective,
    save_state,
)
from rlrr.training.output import CHECKPOINTS, METRICS, last_checkpoint, read_metrics
from rlrr.training.run import train

pytestmark = pytest.mark.slow

STEPS = 6  # in an epoch: 24 images, 4 in a batch


class Noisy(Objective):
    """Two heads, one of them on noise of a generator of its own, pulled towards the logits of the epoch before."""

    def __init__(self, strength: float = 1.0, samples: int = 24, **others) -> None:
        self.strength = strength
        self.generator = torch.Generator().manual_seed(1)
        self.stored = torch.zeros(samples, 3)
        self.steps = 0
        self.progress: list[float] = []

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> Outcome:
        draw = torch.rand((), generator=self.generator)
        noise = 0.1 * torch.randn(batch.images.shape, generator=self.generator)
        heads = [model(batch.images + noise * draw), model(batch.images)]
        pull = F.mse_loss(heads[-1], self.stored[batch.indices])
        self.stored[batch.indices] = heads[-1].detach()
        self.steps += 1
        self.progress.append(progress)
        loss = sum(F.cross_entropy(logits, batch.targets) for logits in heads) + self.strength * draw * pull
        return Outcome(loss, heads, {"pull": pull, "draw": draw.item()})

    def state_dict(self):
        return {"generator": self.generator.get_state(), "stored": self.stored, "steps": self.steps}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.stored, self.steps = state["stored"], state["steps"]


@pytest.fixture
def recipe(tiny_backbone, images):
    def make(**options) -> Recipe:
        common = {"epochs": 3, "batch_size": 4, "precision": "fp32", "drop_path": 0.3, "flip": True, "test": False}
        return Recipe(**{"data": str(images), "model": tiny_backbone} | common | options)

    return make


@pytest.fixture
def noisy(monkeypatch) -> list[Noisy]:
    """The objectives of the trainings from now, in order."""
    made: list[Noisy] = []
    monkeypatch.setattr(trainer, "make_objective", lambda *args: made.append(Noisy()) or made[-1])
    return made


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    return Batch(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def killed_at(step: int, recipe: Recipe, folder: Path) -> None:
    """Train in a copy of this process that kills itself at a step."""
    if not (child := os.fork()):
        signal.alarm(60)
        try:
            take = trainer.ClassificationTrainer.training_step

            def stepping(self, *args, **kwargs):
                if self.state.global_step + 1 == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return take(self, *args, **kwargs)

            trainer.ClassificationTrainer.training_step = stepping
            train(recipe, folder)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize(
    ("options", "epoch"), [({}, 1), ({"ema": 0.9, "workers": 1}, 2), ({"accumulate": 2, "select": "last"}, 1)], ids=str
)
def test_a_killed_run_resumes_to_the_same_bits_with_the_state_of_its_objective(recipe, noisy, tmp_path, options, epoch):
    options = recipe(**options)
    steps = STEPS // options.accumulate
    train(options, tmp_path / "whole")
    killed_at(epoch * steps + 2, options, tmp_path / "killed")
    train(options, tmp_path / "killed", resume=True)
    assert (tmp_path / "whole" / TENSORS).read_bytes() == (tmp_path / "killed" / TENSORS).read_bytes()
    whole, resumed = noisy
    assert whole.steps == resumed.steps == 3 * STEPS
    assert len(resumed.progress) == (3 - epoch) * STEPS
    assert resumed.progress == whole.progress[epoch * STEPS :]
    assert torch.equal(whole.stored, resumed.stored)
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())


def test_an_objective_sees_every_image_by_its_index_and_the_share_of_steps_done(recipe, noisy, tmp_path, monkeypatch):
    seen: dict[int, set[int]] = {}
    call = Noisy.__call__

    def watch(self, model, batch, progress):
        assert batch.indices.dtype == torch.int64
        for index, target in zip(batch.indices.tolist(), batch.targets.tolist(), strict=True):
            seen.setdefault(index, set()).add(target)
        return call(self, model, batch, progress)

    monkeypatch.setattr(Noisy, "__call__", watch)
    train(recipe(), tmp_path / "run")
    assert sorted(seen) == list(range(24))
    assert [seen[index] for index in range(24)] == [{index // 8} for index in range(24)]
    assert noisy[0].progress == [step / (3 * STEPS) for step in range(3 * STEPS)]


def test_what_an_objective_logs_is_the_mean_of_its_epoch(recipe, noisy, tmp_path, monkeypatch):
    pulls, draws = [], []
    call = Noisy.__call__

    def watch(self, *args):
        outcome = call(self, *args)
        pulls.append(outcome.logs["pull"].item())
        draws.append(outcome.logs["draw"])
        return outcome

    monkeypatch.setattr(Noisy, "__call__", watch)
    train(recipe(log_deviation=True), tmp_path / "run")
    records = [record for record in read_metrics(tmp_path / "run" / METRICS) if "loss" in record]
    for name, values in (("pull", pulls), ("draw", draws)):
        means = [sum(values[epoch * STEPS :][:STEPS]) / STEPS for epoch in range(3)]
        assert [record[name] for record in records] == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "other"])
def test_a_damaged_state_is_passed_over_or_refused(recipe, noisy, tmp_path, damage):
    options = recipe()
    killed_at(2 * STEPS + 2, options, tmp_path / "run")
    checkpoints = tmp_path / "run" / CHECKPOINTS
    file = checkpoints / f"checkpoint-{2 * STEPS}" / STATE
    content = file.read_bytes()
    if damage in ("cut", "missing"):
        file.unlink()
        if damage == "cut":
            file.write_bytes(content[:-20])
        assert last_checkpoint(checkpoints).name == f"checkpoint-{STEPS}"
        return
    if damage == "flipped":
        at = len(content) // 2  # among the stored logits, or the numbers of the generator
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        torch.save({"another": torch.ones(3)}, file)
    fact = "Noisy does not take the state" if damage == "other" else f"{STATE} is missing or damaged"
    with pytest.raises(RLRRError, match=fact):
        train(options, tmp_path / "run", resume=True)


def test_a_state_is_written_and_read_back(tmp_path):
    one, other = Noisy(), Noisy()
    torch.rand(5, generator=one.generator)
    one.stored[3] = 7.0
    save_state(one, tmp_path)
    load_state(other, tmp_path)
    assert torch.equal(one.stored, other.stored)
    assert torch.rand(3, generator=one.generator).equal(torch.rand(3, generator=other.generator))
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_evaluation_is_plain_cross_entropy_of_the_last_head(model, batch):
    plain = F.cross_entropy(model(batch.images), batch.targets)
    for objective in (CrossEntropy(0.3, Mixup(1.0, num_classes=3)), Noisy()):
        outcome = objective.evaluate(model, batch)
        assert torch.equal(outcome.loss, plain)
    two = Noisy().evaluate(lambda images: (torch.zeros(6, 3), model(images)), batch)
    assert torch.equal(two.loss, plain)
    assert torch.equal(two.logits, model(batch.images))


def test_cross_entropy_smooths_labels_or_mixes(model, batch):
    smooth = CrossEntropy(0.3)(model, batch, 0.0)
    assert torch.equal(smooth.loss, F.cross_entropy(model(batch.images), batch.targets, label_smoothing=0.3))
    mixed = CrossEntropy(0.3, lambda images, targets: (images * 2, F.one_hot(targets, 3) / 1.0))(model, batch, 0.0)
    assert torch.equal(mixed.loss, F.cross_entropy(model(batch.images * 2), F.one_hot(batch.targets, 3) / 1.0))


def test_a_method_may_have_an_objective_with_options_in_the_recipe(monkeypatch):
    assert isinstance(make_objective(Recipe("data"), classes=3, samples=7), CrossEntropy)
    monkeypatch.setitem(METHODS, "noisy", replace(METHODS["rlrr"], objective=f"{__name__}:Noisy"))
    made = make_objective(Recipe("data", method="noisy", objective={"strength": 3.0}), classes=3, samples=7)
    assert (type(made).__name__, made.strength, len(made.stored)) == ("Noisy", 3.0, 7)


def test_an_objective_is_made_by_its_import_path():
    made = named_objective(f"{__name__}:Noisy", {"strength": 3.0}, CrossEntropy(), classes=3, samples=7)
    assert (made.strength, len(made.stored)) == (3.0, 7)
    with pytest.raises(UsageError, match="'speed'"):
        named_objective("rlrr.training.objective:CrossEntropy", {"speed": 3}, CrossEntropy(), classes=3, samples=7)
    for path in ("rlrr.nowhere:Noisy", "rlrr.training.objective:Nothing", "no path"):
        with pytest.raises(RLRRError, match="cannot be imported"):
            named_objective(path, {}, CrossEntropy(), classes=3, samples=7)
