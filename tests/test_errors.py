"""The one exception, and the nearest names."""

import pickle
import signal

import pytest

from rlrr.errors import RLRRError, Stopped, UsageError, did_you_mean


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
