"""Results as if measured, a task of VTAB-1k to measure on, and what is trained, counted."""

from pathlib import Path
from statistics import fmean, stdev

import pytest

from rlrr.backbones import load_backbone
from rlrr.compare import protocol
from rlrr.compare.plan import Plan, Result
from rlrr.recipes.recipe import Recipe


@pytest.fixture
def make_result():
    """A result with these accuracies, in percent."""

    def make(*percent: float, name: str = "task", plan: Plan | None = None, fingerprint: str = "ab" * 32) -> Result:
        plan = plan or Plan(Recipe(data="x"), seeds=tuple(range(len(percent))))
        accuracies = [value / 100 for value in percent]
        return Result(
            name=name,
            label=plan.label,
            **plan.options(),
            recipe_sha256=plan.recipe.digest(),
            backbone=plan.recipe.model,
            fingerprint=fingerprint,
            data_sha256=["0"] * len(percent),
            test_sha256=["1"] * len(percent),
            accuracies=accuracies,
            mean=fmean(accuracies),
            deviation=stdev(accuracies) if len(accuracies) > 1 else None,
            candidates=[],
            rate=1.0,
            learning_rate=5e-3,
            images={"train": 1000, "val": 200, "test": 500},
            parameters={"adapter": 1234, "head": 5},
            versions={"rlrr": "0"},
            device="CPU, 2 threads",
            seconds=90.0,
            peak_memory_mb=100,
        )

    return make


@pytest.fixture(scope="session")
def kitti(tmp_path_factory, make_vtab) -> Path:
    """One task of VTAB-1k, with 8 test images. Read only."""
    return make_vtab(tmp_path_factory.mktemp("vtab"), "kitti", test=8) / "kitti"


@pytest.fixture(scope="session")
def fingerprint(tiny_backbone) -> str:
    """Of the tiny backbone's weights."""
    return load_backbone(tiny_backbone, num_classes=0).fingerprint


@pytest.fixture
def recipe(kitti, tiny_backbone) -> Recipe:
    """An epoch of the tiny backbone on that task."""
    return Recipe(data=str(kitti), model=tiny_backbone, epochs=1, batch_size=4, precision="fp32")


@pytest.fixture
def trained(monkeypatch) -> list[Recipe]:
    """The recipes of all trainings that end, or go on, from now."""
    seen: list[Recipe] = []
    train = protocol.train

    def counted(recipe, folder, **options):
        record = train(recipe, folder, **options)
        seen.append(recipe)
        return record

    monkeypatch.setattr(protocol, "train", counted)
    return seen
