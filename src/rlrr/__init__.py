"""rlrr: fine-tune any Vision Transformer with 0.3 % of its parameters.

Importing it is quick: nothing heavy is loaded before a name is used. `__init__.pyi` lists the names and their homes.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

import lazy_loader
import wrapt

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return version(__name__) if name == "__version__" else _find(name)


@wrapt.when_imported("peft")  # PEFT and transformers load our adapters as soon as both packages are imported
def _register_tuners(peft: Any) -> None:
    import_module("rlrr.tuners")
