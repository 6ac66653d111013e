"""Options as people write them, and one sentence for each mistake."""

from __future__ import annotations

from typing import Literal

import pytest

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError, UsageError


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="rlrr try")
    parser.add_argument("data", metavar="DATA", nargs="?", type=str)
    parser.add_argument("--image_size", type=int | None, default=None)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--flip", type=bool, default=False)
    parser.add_argument("--kind", type=Literal["plain", "fancy"], default="plain")
    parser.add_argument("--config", type=str | None, default=None)
    parser.add_argument("--parts", type=list[str] | None, default=None)
    parser.add_argument("--keep", type=bool, default=True)
    return parser


def refusal(parser: Parser, *arguments: str) -> str:
    with pytest.raises(RLRRError) as caught:
        parser.parse(list(arguments))
    assert isinstance(caught.value, UsageError)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "arguments",
    [["--image-size", "64"], ["--image_size", "64"], ["--image-size=64"], ["--image_size=64"]],
)
def test_hyphens_and_underscores_are_the_same(parser, arguments):
    assert parser.parse(arguments).image_size == 64


@pytest.mark.parametrize(
    ("arguments", "flip", "data"),
    [
        ([], False, None),
        (["--flip"], True, None),
        (["--flip", "images"], True, "images"),
        (["images", "--flip"], True, "images"),
        (["--flip=false"], False, None),
        (["--flip", "false", "images"], False, "images"),
        (["--flip", "True", "images"], True, "images"),
        (["--flip", "--epochs", "3"], True, None),
        (["--", "--flip"], False, "--flip"),
    ],
)
def test_a_switch_stands_alone_or_has_a_value(parser, arguments, flip, data):
    options = parser.parse(arguments)
    assert (options.flip, options.data) == (flip, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epohs", "3"], "There is no option --epohs. Did you mean --epochs?"),
        (["--zzz"], "There is no option --zzz."),
        (["--epo", "3"], "There is no option --epo. Did you mean --epochs?"),
        (["--epochs", "many"], "--epochs must be a whole number, not 'many'."),
        (["--epochs", "2.5"], "--epochs must be a whole number, not '2.5'."),
        (["--image-size", "big"], "--image_size must be a whole number, not 'big'."),
        (["--rate", "fast"], "--rate must be a number, not 'fast'."),
        (["--flip=maybe"], "--flip must be true or false, not 'maybe'."),
        (["--kind", "fancey"], "--kind must be one of plain, fancy, not 'fancey'. Did you mean fancy?"),
        (["--epochs"], "--epochs needs a value."),
        (["my", "flowers"], "Unexpected: flowers. A path with spaces needs quotes."),
        (["-epochs", "3"], "Unexpected: -epochs"),
    ],
)
def test_each_mistake_is_one_sentence(parser, arguments, message):
    assert refusal(parser, *arguments).startswith(message)
    assert refusal(parser, *arguments).endswith("See `rlrr try --help`.")


def test_what_is_missing_is_named_as_the_help_names_it():
    parser = Parser(prog="rlrr try")
    parser.add_argument("run", metavar="RUN", type=str)
    parser.add_argument("--output", type=str, required=True)
    assert refusal(parser).startswith("Missing: RUN, --output. ")
    assert refusal(parser, "run").startswith("Missing: --output. ")


def test_the_command_line_wins_over_the_file_wherever_it_stands(parser, tmp_path):
    file = tmp_path / "résumé.yaml"
    file.write_text("data: theirs\nepochs: 3\nrate: 1e-3\nflip: true\nimage_size: null\n", encoding="utf-8")
    options = parser.parse(["--config", str(file)])
    assert (options.data, options.epochs, options.rate, options.flip) == ("theirs", 3, 1e-3, True)
    for arguments in (
        ["ours", "--epochs", "4", "--flip=false", "--config", str(file)],
        ["--config", str(file), "--flip=false", "--epochs", "4", "ours"],
        ["--epochs", "4", f"--config={file}", "ours", "--flip=false"],
    ):
        options = parser.parse(arguments)
        assert (options.data, options.epochs, options.rate, options.flip) == ("ours", 4, 1e-3, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: plain\nepohs: 3", ", line 2: There is no option 'epohs'. Did you mean epochs?"),
        (b"epochs: many", ", line 1: --epochs must be a whole number, not 'many'."),
        (b"# a comment\nkind: plane", ", line 2: --kind must be one of plain, fancy, not 'plane'. Did you mean plain?"),
        (b"data: [a", ": this is not YAML: "),
        (b"words", ": it holds no options"),
        (b"- a\n- b", ": it holds no options"),
        (b"", ": it holds no options"),
        (b"\xff\xfe\x00", ": it is not a text file"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong_in_it(parser, tmp_path, content, message):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert refusal(parser, "--config", str(file)).startswith(f"{file}{message}")


def test_a_missing_file_is_named(parser, tmp_path):
    missing = tmp_path / "none.yaml"
    assert refusal(parser, "--config", str(missing)).startswith(f"Cannot read {missing}: No such file")
    assert refusal(parser, "--config", str(tmp_path)).startswith(f"Cannot read {tmp_path}: Is a directory")


@pytest.mark.parametrize("arguments", [["--parts", "[attn,mlp]"], ["--parts", "attn,mlp"], ["--parts=attn,mlp", "x"]])
def test_a_list_has_commas_and_may_have_brackets(parser, arguments):
    assert parser.parse(arguments).parts == ["attn", "mlp"]


def test_a_list_of_one_is_a_list(parser):
    assert parser.parse(["--parts", "attn", "images"]).parts == ["attn"]
    assert "--parts must be a list, as A,B" in refusal(parser, "--parts", "[attn,")


def test_the_help_shows_how_lists_and_switches_are_written(parser):
    shown = parser.format_help()
    assert "--parts A,B" in shown
    assert "--keep {true,false}" in shown
    assert "\n  --flip  " in shown
