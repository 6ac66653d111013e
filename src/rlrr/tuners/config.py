"""Settings that every tuner of ours has: which modules of a backbone it adapts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, get_type_hints

from peft import PeftConfig

from rlrr.errors import RLRRError, did_you_mean
from rlrr.hints import expected, fits
from rlrr.tuners.registration import TunerType


@dataclass
class TunerConfig(PeftConfig):
    """Settings of a tuner for vision backbones. With no argument the whole backbone is adapted.

    Args:
        target_modules: Modules to adapt: a regex, a list of name endings, or None for the default of the model's
            family.
        exclude_modules: Modules to leave out, written in the same way.
        modules_to_save: Modules to train whole. None is the model's classifier if `target_modules` is None too.
        parts: Parts of the default targets to adapt, None for all; the method's own page names them.
        layers_to_transform: Indices of the blocks to adapt. With default targets, modules outside the blocks are
            adapted all the same, unless `parts` leaves them out.
        layers_pattern: Name of the list of blocks, for `layers_to_transform` with a list of `target_modules`.
        backbone_sha256: Fingerprint of the backbone that the adapter was trained on, written by `rlrr train`. Loading
            the adapter on other weights warns.

    Raises:
        RLRRError: the settings do not go together.
    """

    method: ClassVar[str]
    """Name of the method's folder."""

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    parts: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    backbone_sha256: str | None = field(default=None, metadata={"recorded": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = self.tuner_type()
        if isinstance(self.parts, str):
            self.parts = [self.parts]
        self._check_types()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            check_regex(name, value)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        if self.parts is not None and self.target_modules is not None:
            raise RLRRError("parts chooses among the default targets: leave out target_modules, or parts.")
        if self.parts == []:
            raise RLRRError("parts is empty: name at least one part, or leave it out for all.")
        of_layers = (self.layers_to_transform, self.layers_pattern)
        if isinstance(self.target_modules, str) and of_layers != (None, None):
            raise RLRRError(
                "layers_to_transform and layers_pattern cannot be used with a regex in target_modules: "
                "name the blocks in the regex, as in 'blocks\\.(0|1)\\..*'."
            )
        if self.layers_to_transform == []:
            raise RLRRError("layers_to_transform is empty: name at least one block, or leave it out for all.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise RLRRError("layers_pattern needs layers_to_transform: give the indices of the blocks too.")

    def _check_types(self) -> None:
        """Refuse values of another type; a choice of words is checked by the method, which names the nearest."""
        hints = get_type_hints(type(self))
        for name in {one.name for one in fields(self)} - {one.name for one in fields(PeftConfig)}:
            if not (expected(hints[name])[1] or fits(getattr(self, name), hints[name])):
                raise RLRRError(f"{name} must be {expected(hints[name])[0]}, not {getattr(self, name)!r}.")

    @classmethod
    def tuner_type(cls) -> StrEnum:
        """Give PEFT's name of the method; a method outside this package has a string enum of its own."""
        return TunerType(cls.method.upper())

    @property
    def stacking(self) -> tuple[Any, ...]:
        """Settings that two adapters must share for their tensors, of equal shape, to be stacked in one batch.

        By default all that the method adds to the settings of every tuner, but for the start. A method may give fewer.
        """
        names = {one.name for one in fields(self)} - {one.name for one in fields(TunerConfig)}
        return tuple((name, repr(getattr(self, name))) for name in sorted(names - {"init_weights"}))

    def to_dict(self) -> dict[str, Any]:
        """List all settings, sets as sorted lists: two runs with the same settings write the same file."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value of a setting that is none of its choices.

    Raises:
        RLRRError: naming the setting, its choices and the nearest of them.
    """
    if value not in (choices := tuple(choices)):
        words = [str(choice) for choice in choices]
        raise RLRRError(f"{name} must be one of {', '.join(words)}, not {value!r}.{did_you_mean(str(value), words)}")


def check_regex(name: str, value: Any) -> None:
    """Refuse text that is not a regex.

    Raises:
        RLRRError: naming the setting and the reason.
    """
    try:
        re.compile(value if isinstance(value, str) else "")
    except re.error as error:
        raise RLRRError(f"{name} must be a regex of module names, and {value!r} is none: {error}.") from error


def check_factor(name: str, value: float) -> None:
    """Refuse a fixed factor with which nothing could be learned.

    Raises:
        RLRRError: it is 0, or no finite number.
    """
    if not value or not math.isfinite(value):
        raise RLRRError(f"{name} must be a finite number other than 0, not {value!r}.")


def check_number(name: str, value: float, least: float, most: float | None = None) -> None:
    """Refuse a number of a setting that is too small or too large.

    Raises:
        RLRRError: naming the setting and its bounds.
    """
    if not value >= least or (most is not None and not value <= most):  # NaN is neither
        bounds = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
        raise RLRRError(f"{name} must be {bounds}, not {value!r}.")
