"""Every packaged recipe of the paper's tasks takes two steps on a small tree in the task's own layout."""

from dataclasses import replace

import pytest

from rlrr.data.benchmarks.fgvc import find_set
from rlrr.data.pipeline import BatchTransform
from rlrr.recipes.files import load_recipe, packaged_recipes
from rlrr.training.run import train

NAMES = [name for name in packaged_recipes() if name != "demo"]


@pytest.fixture(scope="module")
def trees(make_vtab, make_fgvc, tmp_path_factory):
    """All 19 tasks and all 5 sets."""
    root = tmp_path_factory.mktemp("trees")
    return {"vtab1k": make_vtab(root / "vtab-1k"), "fgvc": make_fgvc(root / "fgvc"), "fgvc_aug": root / "fgvc"}


def test_there_are_19_tasks_and_5_sets_of_which_each_has_a_variant():
    kinds = [name.split("/")[0] for name in NAMES]
    assert {kind: kinds.count(kind) for kind in kinds} == {"vtab1k": 19, "fgvc": 5, "fgvc_aug": 5}


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name, trees, tiny_backbone, tmp_path, monkeypatch):
    kind, task = name.split("/")
    data = trees[kind] / task if kind == "vtab1k" else find_set(trees[kind], task)
    shapes = []
    transform = BatchTransform.__call__

    def watch(self, images, augment=False):
        found = transform(self, images, augment)
        if augment:
            shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(BatchTransform, "__call__", watch)
    small = {"model": tiny_backbone, "image_size": 32, "epochs": 1, "cooldown": 0, "batch_size": 2}
    record = train(replace(load_recipe(name), data=str(data), test=False, precision="fp32", **small), tmp_path / "run")
    assert shapes == [(2, 3, 32, 32)] * 2
    assert record.metrics["epoch"] == 1
    assert tuple(record.preprocessing["mean"]) == (0.5, 0.5, 0.5)
    assert record.preprocessing["crop_mode"] == "squash"
