"""Recipes as YAML: the packaged ones by name, and the one reader and writer of all."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from rlrr.errors import RLRRError, UsageError, did_you_mean
from rlrr.files import at_line, atomic
from rlrr.recipes.recipe import Recipe

RECIPE = "recipe.yaml"
_FOLDER = Path(str(files(__package__)))


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
        raise UsageError(f"There is no packaged recipe {name!r}.{did_you_mean(bare, names)}")
    return _FOLDER / f"{bare}.yaml"


def load_recipe(name: str) -> Recipe:
    """Read a packaged recipe; its `data` is where the images are by custom, to be replaced by where they are.

    Raises:
        RLRRError: no recipe is called that.
    """
    return read_recipe(recipe_path(name))


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.yaml`, from which `rlrr train --config` runs again."""
    with atomic(folder / RECIPE) as temporary:
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML; one that names no data, for a command that does, has none.

    Raises:
        RLRRError: it is missing, or has a key or value that no recipe has.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise RLRRError(f"There is no recipe {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RLRRError(f"{path} is not a recipe: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise RLRRError(f"{path} is not a recipe: each line is an option, such as `epochs: 20`.")
    hints = get_type_hints(Recipe)
    if unknown := [key for key in content if key not in hints]:
        near = did_you_mean(str(unknown[0]), hints)
        raise RLRRError(f"{at_line(path, text, str(unknown[0]))}: there is no option {unknown[0]!r}.{near}")
    numbers: dict[str, Any] = {
        key: float(value) for key, value in content.items() if _is_number(value) and float in _kinds(hints[key])
    }
    try:
        return Recipe(**{"data": ""} | content | numbers)
    except RLRRError as error:
        named = re.match(r"--(\w+)", str(error))
        raise RLRRError(f"{at_line(path, text, named[1] if named else '')}: {error}") from error


def _kinds(hint: Any) -> tuple[Any, ...]:
    return (hint, *get_args(hint))


def _is_number(value: Any) -> bool:
    """Whether a text is a number: YAML takes 1e-3 for text, since it has no point."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value) is not None
