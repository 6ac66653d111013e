"""The recipes that come with the package: `demo`, and the paper's, one a task, as `vtab1k/cifar` or `fgvc/cub`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from rlrr.errors import RLRRError, did_you_mean

if TYPE_CHECKING:
    from rlrr.training.recipe import Recipe

_FOLDER = Path(str(files(__name__)))


def packaged_recipes() -> list[str]:
    """Their names, in order."""
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.rglob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, by its name with or without `.yaml`.

    Raises:
        RLRRError: no recipe is called that.
    """
    names = packaged_recipes()
    if (bare := name.removesuffix(".yaml")) not in names:
        raise RLRRError(f"There is no packaged recipe {name!r}.{did_you_mean(bare, names)}", usage=True)
    return _FOLDER / f"{bare}.yaml"


def load_recipe(name: str) -> Recipe:
    """Read a packaged recipe; its `data` is where the images are by custom, to be replaced by where they are.

    Raises:
        RLRRError: no recipe is called that.
    """
    from rlrr.training.output import read_recipe  # here, for it brings torch, and `rlrr train --help` is quick

    return read_recipe(recipe_path(name))
