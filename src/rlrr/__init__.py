"""rlrr: fine-tune any Vision Transformer with 0.3 % of its parameters.

Importing it is quick: nothing heavy is loaded before a name is used. PEFT learns of our tuners as soon as both
are imported, in either order, so that PEFT and transformers load our adapters.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from rlrr.adapters.combine import combine
    from rlrr.errors import RLRRError
    from rlrr.inference.evaluate import evaluate
    from rlrr.inference.predict import load
    from rlrr.interop.merge import merge
    from rlrr.recipes.recipe import Recipe
    from rlrr.spectral.analyze import analyze
    from rlrr.training.run import train
    from rlrr.tuners import RLRRConfig, RLRRModel

__all__ = ["RLRRConfig", "RLRRError", "RLRRModel", "Recipe", "analyze", "combine", "evaluate", "load", "merge", "train"]
_HOME = {
    "RLRRConfig": "rlrr.tuners",
    "RLRRError": "rlrr.errors",
    "RLRRModel": "rlrr.tuners",
    "Recipe": "rlrr.recipes.recipe",
    "analyze": "rlrr.spectral.analyze",
    "combine": "rlrr.adapters.combine",
    "evaluate": "rlrr.inference.evaluate",
    "load": "rlrr.inference.predict",
    "merge": "rlrr.interop.merge",
    "train": "rlrr.training.run",
}


@wrapt.when_imported("peft")
def _register_tuners(peft: Any) -> None:
    import_module("rlrr.tuners")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
