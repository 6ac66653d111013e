"""Registration of our tuners with PEFT, which has no plug-ins: its three tables are filled from outside.

PEFT's own enum cannot be extended, so that all our methods share one of ours. Its members are the folders beside this
file: a new method needs no line here.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from peft import PeftConfig, mapping
from peft.tuners.tuners_utils import BaseTuner

from rlrr.errors import RLRRError

METHODS = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")))
"""Names of the folders that hold a method."""

TunerType = StrEnum("TunerType", {name.upper(): name.upper() for name in METHODS}, module=__name__)  # type: ignore[misc]
"""PEFT's `peft_type` of our methods: "RLRR" for the folder rlrr."""


def register(config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Register a method with PEFT.

    Args:
        config: Class of the method's settings, a `TunerConfig`, which names the method.
        model: Class of the method's tuner; its prefix is the method's name and an underscore.

    Raises:
        RLRRError: PEFT has another method of that name.
    """
    peft_type = config.tuner_type()
    if mapping.PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type, config) is not config:
        raise RLRRError(f"This PEFT has a method {peft_type} of its own: install peft<0.22, or use PEFT's.")
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = config
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = model
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = model.prefix
