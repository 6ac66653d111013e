"""Methods as PEFT tuners, one folder each, on the bases in this folder; importing this registers all with PEFT."""

from importlib import import_module

from rlrr.tuners.base import frozen_norms
from rlrr.tuners.registration import METHODS

for _name in METHODS:
    import_module(f"rlrr.tuners.{_name}")

from rlrr.tuners.rlrr import RLRRConfig, RLRRModel  # noqa: E402

__all__ = ["RLRRConfig", "RLRRModel", "frozen_norms"]
