"""A packaged recipe of each shape takes two steps on a small tree in the task's own layout; in soak all of them do."""

from dataclasses import replace

import pytest

from rlrr.data.benchmarks.fgvc import find_set
from rlrr.data.pipeline import BatchTransform
from rlrr.recipes.files import load_recipe, packaged_recipes
from rlrr.training.run import train

NAMES = [name for name in packaged_recipes() if name != "demo"]


# a row of VTAB-1k, and of FGVC one with the paper's schedule, one with restarts, and one with more augmentation
SHAPES = ("vtab1k/dsprites_loc", "fgvc/nabirds", "fgvc/cub", "fgvc_aug/flowers")


def test_there_are_19_tasks_and_5_sets_of_which_each_has_a_variant():
    assert set(SHAPES) <= set(NAMES)
    kinds = [name.split("/")[0] for name in NAMES]
    assert {kind: kinds.count(kind) for kind in kinds} == {"vtab1k": 19, "fgvc": 5, "fgvc_aug": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHAPES else pytest.mark.soak) for name in NAMES]
)
def test_two_steps(name, make_vtab, make_fgvc, tiny_backbone, tmp_path, monkeypatch):
    kind, task = name.split("/")
    data = make_vtab(tmp_path, task) / task if kind == "vtab1k" else find_set(make_fgvc(tmp_path, task), task)
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
