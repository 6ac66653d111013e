"""Methods as PEFT tuners, one folder each; importing this registers them with PEFT."""

from peft import mapping

from rlrr.errors import RLRRError
from rlrr.tuners.rlrr import RLRRConfig, RLRRModel, RLRRType, frozen_norms


def _register() -> None:
    registered = mapping.PEFT_TYPE_TO_CONFIG_MAPPING.get(RLRRType.RLRR)
    if registered not in (None, RLRRConfig):
        raise RLRRError("This PEFT has an RLRR of its own: install peft<0.22, or use PEFT's.")
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[RLRRType.RLRR] = RLRRConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[RLRRType.RLRR] = RLRRModel
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[RLRRType.RLRR] = RLRRModel.prefix


_register()

__all__ = ["RLRRConfig", "RLRRModel", "frozen_norms"]
