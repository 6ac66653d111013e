"""What an option that does not exist was meant to be."""

from __future__ import annotations

import pytest

from rlrr.cli.guesses import _PLACES, _SYNONYMS, guess
from rlrr.cli.main import COMMANDS, command_module
from rlrr.cli.parser import Parser


def parser_of(command: str) -> Parser:
    parser = Parser(prog=f"rlrr {command}")
    command_module(command).add_arguments(parser)
    return parser


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--LR", "--learning-rate"),
        ("train", "--bs", "--batch-size"),
        ("train", "--wd", "--weight-decay"),
        ("train", "--out", "--output"),
        ("train", "--output_dir", "--output"),
        ("train", "--num-train-epochs", "--epochs"),
        ("train", "--img-size", "--image-size"),
        ("train", "--num_workers", "--workers"),
        ("train", "--patience", "--early-stop"),
        ("train", "--amp", "--precision"),
        ("merge", "--out", "--output"),
        ("combine", "--type", "--combination"),
        ("predict", "--topk", "--top-k"),
        ("reproduce", "--bs", "--batch-size"),
        ("train", "--epohs", "--epochs"),
    ],
)
def test_the_words_of_other_libraries_are_understood(refused, command, word, meant):
    said = refused(command, word, "3", code=2)
    assert said.startswith(f"There is no option {word}. Did you mean {meant}?")
    assert "--set" not in said


@pytest.mark.parametrize("word", ["--lora_alpha", "--lora-alpha", "--rank", "--sides"])
def test_a_setting_of_a_method_is_met_with_the_way_to_give_it(refused, word):
    assert f"--set {word[2:].replace('-', '_')}=VALUE" in refused("train", "flowers", word, "3", code=2)


def test_a_place_that_is_given_as_an_option_is_met_with_its_place(refused):
    assert "Give DATA alone" in refused("train", "--data", "flowers", code=2)
    assert "Give RUN alone" in refused("merge", "--adapter", "run", code=2)


def test_nothing_near_is_no_guess():
    assert guess("--zzz", ["--epochs", "data"]) == ""


def test_every_synonym_is_of_an_option_and_none_is_an_option_itself():
    arguments = {command: set(parser_of(command).hints) for command in COMMANDS}
    everywhere = set().union(*arguments.values())
    assert set(_SYNONYMS) - {"--device"} <= everywhere
    assert set(_PLACES) <= everywhere
    for options in arguments.values():
        for option in options & _SYNONYMS.keys():
            assert not options & {f"--{word}" for word in _SYNONYMS[option].split()}
