"""Options as people write them, and one sentence for each mistake."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from rlrr.cli.parser import Parser
from rlrr.errors import RLRRError, UsageError
from rlrr.recipes.files import read_options


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="rlrr try")
    parser.add_argument("data", metavar="DATA", nargs="?", type=str)
    parser.add_argument("--image_size", type=int | None, default=None)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--flip", type=bool, default=False)
    parser.add_argument("--kind", type=Literal["plain", "fancy"], default="plain")
    parser.add_argument("--set", type=dict[str, Any], default=None)
    parser.add_argument("--parts", type=list[str] | None, default=None)
    parser.add_argument("--keep", type=bool, default=True)
    parser.add_argument("--place", type=str | None, default=None)
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


@pytest.mark.parametrize("number", ["-1", "-0.5", "-1e-3", "-1E3", "-.5e2", "-inf"])
def test_a_negative_number_is_no_option(parser, number):
    assert parser.parse(["--rate", number]).rate == float(number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epohs", "3"], "There is no option --epohs. Did you mean --epochs?"),
        (["--zzz"], "There is no option --zzz."),
        (["--epo", "3"], "There is no option --epo. Did you mean --epochs?"),
        (["--epochs", "many"], "--epochs must be a whole number, not 'many'."),
        (["--epochs", "2.5"], "--epochs must be a whole number, not '2.5'."),
        (["--image_size", "big"], "--image-size must be a whole number, not 'big'."),
        (["--rate", "fast"], "--rate must be a number, not 'fast'."),
        (["--flip=maybe"], "--flip must be true or false, not 'maybe'."),
        (["--epochs", "-1e3"], "--epochs must be a whole number, not '-1e3'."),
        (["--flip=yes"], "--flip must be true or false, not 'yes'."),
        (["--flip", "yes"], "--flip must be true or false, not 'yes'."),
        (["images", "--keep", "off"], "--keep must be true or false, not 'off'."),
        (["images", "--keep", "maybe"], "--keep must be true or false, not 'maybe'."),
        (["https://host/images"], "DATA must be on this machine, not 'https://host/images': download it first."),
        (["--place", "s3://bucket"], "--place must be on this machine, not 's3://bucket': download it first."),
        (["--kind", "fancey"], "--kind must be one of plain, fancy, not 'fancey'. Did you mean fancy?"),
        (["--epochs"], "--epochs expected one argument."),
        (["--set", "rank"], "--set takes name=value, not 'rank'."),
        (["--set", "rank=[1"], "--set takes values in YAML, not '[1'."),
        (["my", "flowers"], "Unexpected: flowers. A path with spaces needs quotes."),
        (["-epochs", "3"], "Unexpected: -epochs"),
    ],
)
def test_each_mistake_is_one_sentence(parser, arguments, message):
    assert refusal(parser, *arguments).startswith(message)
    assert refusal(parser, *arguments).endswith("See `rlrr try --help`.")


def test_an_unknown_option_comes_before_a_missing_one():
    parser = Parser(prog="rlrr try")
    parser.add_argument("run", metavar="RUN", type=str)
    parser.add_argument("--output", type=str, required=True)
    assert refusal(parser).startswith("Missing: RUN, --output. ")
    assert refusal(parser, "run", "--ouput", "x").startswith("There is no option --ouput. Did you mean --output?")


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], None),
        (["--set", "rank=4", "sides=in"], {"rank": 4, "sides": "in"}),
        (
            ["--set", "rank=4", "--set", "rank=5", "layers_to_transform=[0, 1]"],
            {"rank": 5, "layers_to_transform": [0, 1]},
        ),
        (
            ["--set", "alpha=1e-3", "shift=false", "parts=", "regex=.*(a=b)"],
            {"alpha": 1e-3, "shift": False, "parts": None, "regex": ".*(a=b)"},
        ),
    ],
)
def test_settings_are_names_with_values_in_yaml(parser, arguments, settings):
    assert parser.parse(arguments).set == settings


@pytest.mark.parametrize(
    "arguments", [["--set", "rank=4", "sides=in", "flowers/"], ["--set=rank=4", "sides=in", "flowers/"]]
)
def test_what_is_no_pair_after_settings_is_the_commands_own_argument(parser, arguments):
    options = parser.parse([*arguments, "--flip"])
    assert (options.set, options.data, options.flip) == ({"rank": 4, "sides": "in"}, "flowers/", True)


def test_null_leaves_an_option_out_where_it_may_be(parser):
    assert parser.parse(["--image-size", "null"]).image_size is None
    assert "must be a whole number" in refusal(parser, "--epochs", "null")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("image_size must be 1.", option="image_size"), "--image-size must be 1."),
        (
            UsageError("r.yaml, line 2: image_size must be 1.", option="image_size"),
            "r.yaml, line 2: image_size must be 1.",
        ),
        (UsageError("Give `image_size` or `rlrr train` or `speed`."), "Give --image-size or `rlrr train` or `speed`."),
        (
            RLRRError("Either epochs or image_size, not image_size 3."),
            "Either epochs or --image-size, not --image-size 3.",
        ),
        (
            UsageError("epochs does not go with image_size 64: leave `flip` out.", option="epochs"),
            "--epochs does not go with --image-size 64: leave --flip out.",
        ),
        (
            RLRRError("Cannot read image_size/x.jpg, image_size.pth, 'image_size' or image_size=3."),
            "Cannot read image_size/x.jpg, image_size.pth, 'image_size' or image_size=3.",
        ),
    ],
)
def test_an_error_of_the_library_names_options_where_they_are_options_here(parser, error, sentence):
    assert parser.in_options(error) == sentence


def test_an_error_of_a_recipe_file_has_the_names_of_the_file(parser, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("image_siz: 64")
    with pytest.raises(UsageError) as caught:
        read_options(file)
    assert "Did you mean image_size" in parser.in_options(caught.value)


@pytest.mark.parametrize("arguments", [["--parts", "[attn,mlp]"], ["--parts", "attn,mlp"], ["--parts=attn,mlp", "x"]])
def test_a_list_has_commas_and_may_have_brackets(parser, arguments):
    assert parser.parse(arguments).parts == ["attn", "mlp"]


def test_a_list_of_one_is_a_list(parser):
    assert parser.parse(["--parts", "attn", "images"]).parts == ["attn"]
    parser.add_argument("--layers", type=list[int] | None, default=None)
    assert parser.parse(["--layers", "[0, 1]", "images"]).layers == [0, 1]
    assert "--layers must be a list, not '0,b'" in refusal(parser, "--layers", "0,b")


def test_the_help_shows_how_lists_and_switches_are_written(parser):
    shown = parser.format_help()
    assert "--parts A,B" in shown
    assert "--keep {true,false}" in shown
    assert "--set NAME=VALUE" in shown
    assert "\n  --flip" in shown
