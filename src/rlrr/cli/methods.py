"""`rlrr methods`."""

from __future__ import annotations

import re
import textwrap
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from rlrr.cli.parser import Parser
from rlrr.errors import UsageError
from rlrr.methods.table import METHODS, UNSUITED, find_method

if TYPE_CHECKING:
    from peft import PeftConfig

USAGE = "[NAME] [options]"
EXAMPLE = "rlrr methods rlrr"
_MODEL = "vit_base_patch16_224"
_ABILITIES = {
    "can_merge": "merge into the weights, at no cost at inference (rlrr merge)",
    "can_mix": "mix several adapters in one batch, one for each image",
    "can_combine": "combine several runs into one, by weights (rlrr combine)",
    "can_split": "give its update of an output apart from the backbone's own output",
}


def add_arguments(parser: Parser) -> None:
    """Take the method to explain, and the form of the output."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=str, default=None, help="Method to explain; all are listed by default."
    )
    parser.add_argument("--json", type=bool, default=False, help="Print JSON.")


def run(options: Any) -> None:
    """List the methods, or explain one."""
    from rlrr.cli.show import print_json

    if options.name is None:
        listed = overview()
        if options.json:
            print_json(listed)
        else:
            _print_overview(listed)
        return
    explained = explain(options.name)
    if options.json:
        print_json(explained)
    else:
        _print(explained)


def overview() -> dict[str, dict[str, Any]]:
    """Describe every method: its row of the table, parameters on ViT-B/16, abilities, and whether it starts there."""
    from rlrr.methods.abilities import abilities, starts_at_pretraining

    return {
        name: asdict(method)
        | {
            "parameters": _parameters(name),
            "abilities": abilities(name),
            "starts_at_pretraining": starts_at_pretraining(name),
        }
        for name, method in METHODS.items()
    }


def explain(name: str) -> dict[str, Any]:
    """Describe a method: its row of the table, settings, parameters on ViT-B/16, and abilities."""
    from rlrr.methods.abilities import abilities
    from rlrr.methods.apply import config_type

    kind = config_type(name)
    return asdict(find_method(name)) | {
        "settings": _settings(name, kind) if kind else {},
        "parameters": _parameters(name),
        "abilities": abilities(name),
    }


def _settings(name: str, kind: type[PeftConfig]) -> dict[str, dict[str, Any]]:
    """List the settings of a config by name, each with its type, default and meaning."""
    from docstring_parser import parse

    from rlrr.hints import expected
    from rlrr.methods.apply import setting_hints

    hints = setting_hints(kind)
    documented = [parameter for base in reversed(kind.__mro__) for parameter in parse(base.__doc__ or "").params]
    meanings = {parameter.arg_name: parameter.description or "" for parameter in documented}
    settings = {}
    for field in fields(kind):
        if field.name in hints:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            settings[field.name] = {
                "type": expected(hints[field.name])[0],
                "default": find_method(name).defaults.get(field.name, default),
                "meaning": _text(meanings.get(field.name) or field.metadata.get("help", "")),
            }
    return settings


def _text(meaning: str | tuple[str, ...]) -> str:
    """Put a meaning into one line; some of PEFT's are tuples of lines."""
    return " ".join(("".join(meaning) if isinstance(meaning, tuple) else meaning).split())


def _parameters(name: str) -> int:
    """Count the parameters that a method trains in ViT-B/16 beside the classifier.

    The model has no memory, unless a method of PEFT looks at the numbers in its weights.
    """
    import timm
    import torch

    from rlrr.methods.apply import apply_method
    from rlrr.methods.trainable import parameter_counts

    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                return parameter_counts(apply_method(timm.create_model(_MODEL, num_classes=10), name))["adapter"]
        except UsageError:
            if device == "cpu":
                raise
    raise AssertionError("one of the two devices has returned or raised")


def _print_overview(listed: dict[str, dict[str, Any]]) -> None:
    from rlrr.cli.show import print_table

    rows = [
        [
            name,
            find_method(name).citation or "-",
            f"{row['parameters']:,}",
            *("yes" if row["abilities"][ability] else "no" for ability in ("can_merge", "can_mix")),
            "yes" if row["starts_at_pretraining"] else "no",
        ]
        for name, row in listed.items()
    ]
    print_table(["method", "paper", "parameters", "merges", "mixes", "starts at pre-training"], rows)
    print(
        "\nparameters: of ViT-B/16, without the classifier, by default settings. mixes: a batch may hold images of "
        "several\nadapters. `rlrr methods NAME` says what is trained, and lists the settings, which `rlrr train --set "
        "name=value`\nchanges. peft:TYPE is any other method of PEFT that takes the linears of a ViT, as peft:loha, "
        f"but not\n{', '.join(sorted(UNSUITED))}."
    )


def _print(explained: dict[str, Any]) -> None:
    print(f"{explained['title']}: {explained['summary']}")
    if explained["paper"]:
        print(f"\npaper          {explained['paper']}")
    print(f"learning rate  {explained['learning_rate']:g}, if none is given")
    print(f"parameters     {explained['parameters']:,} on ViT-B/16, and the classifier")
    for ability, text in _ABILITIES.items():
        print(f"{'can' if explained['abilities'][ability] else 'cannot':<14} {text}")
    compared = "weights and features" if explained["abilities"]["can_merge"] else "features alone"
    print(f"rlrr analyze   compares {compared} with those of pre-training")
    if not explained["settings"]:
        print("\nIt has no settings.")
        return
    print("\nsettings, as --set name=value; values are YAML, such as [0, 1] for a list:")
    for name, setting in explained["settings"].items():
        default = "none" if setting["default"] is None else str(setting["default"])
        if isinstance(setting["default"], bool):
            default = default.lower()
        print(f"  {name}: {setting['type']} (default: {default})")
        if setting["meaning"]:
            meaning = re.sub(r"\[([^]]*)\]\([^)]*\)|<[^>]*>", r"\1", setting["meaning"])  # Markdown's links and HTML
            # PEFT's own texts fill pages; --json has the whole
            lines = 2 if explained["config"].startswith("peft:") else 8
            print(textwrap.indent(textwrap.fill(meaning, 94, max_lines=lines, placeholder=" …"), " " * 6))
