"""Devices by their names, and the precision of each."""

from types import SimpleNamespace

import pytest
import torch

from rlrr.errors import UsageError
from rlrr.inference.devices import autocast, describe_device, resolve_device, resolve_precision, use_threads

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs of NVIDIA, and with or without Apple's."""

    def make(gpus: int = 0, apple: bool = False) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: apple)

    return make


@pytest.mark.parametrize(
    ("gpus", "apple", "name", "device"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, False, "auto", "cuda"),
        (2, False, "cpu", "cpu"),
        (0, True, "cpu", "cpu"),
        (0, False, "cpu:0", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (1, False, "cuda", "cuda"),
        (0, True, "mps", "mps"),
        (1, False, torch.device("cuda", 0), "cuda:0"),
    ],
)
def test_a_device_is_found_by_its_name(machine, gpus, apple, name, device):
    machine(gpus, apple)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "name", "words"),
    [
        (0, "cuda", "torch finds no `device` cuda on this machine, only cpu"),
        (0, "cuda:1", "no `device` cuda:1"),
        (0, "mps", "no `device` mps"),
        (2, "cuda:2", "only cuda:0 to cuda:1 and cpu"),
        (1, "cuda:1", "only cuda and cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(machine, gpus, name, words):
    machine(gpus)
    with pytest.raises(UsageError, match=words):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "CUDA", "cuda:-1", None, torch.device("meta")], ids=str)
def test_what_is_no_device_is_refused_with_the_names_that_are(name):
    with pytest.raises(UsageError, match="`device` must be auto, cpu, cuda, a GPU by number such as cuda:1, or mps"):
        resolve_device(name)


def test_a_near_name_is_proposed():
    with pytest.raises(UsageError, match="Did you mean cuda"):
        resolve_device("cude")


def test_a_device_is_described_in_words(monkeypatch):
    assert describe_device(CPU) == "CPU, threads: 1"
    assert describe_device(torch.device("mps")) == "Apple's GPU (mps)"
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"NVIDIA {device}")
    assert describe_device(torch.device("cuda:1")) == "NVIDIA cuda:1"


def test_precision_on_a_cpu():
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("auto", CPU) in ("bf16", "fp32")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        resolve_precision("fp16", CPU)


@pytest.mark.skipif(torch.version.hip is not None, reason="AMD has no compute capability")
@pytest.mark.parametrize(("capability", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_precision_on_a_gpu_goes_by_its_compute_capability(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    assert resolve_precision("auto", torch.device("cuda")) == precision


def test_auto_precision_on_apples_gpu_is_fp32():
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_model_is_computed_in_a_precision(precision, dtype):
    with autocast(CPU, precision):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype


def test_threads_are_set_or_left():
    use_threads(2)
    assert torch.get_num_threads() == 2
    use_threads(None)
    assert torch.get_num_threads() == 2
    with pytest.raises(UsageError, match="`threads` must be 1 or more"):
        use_threads(0)
