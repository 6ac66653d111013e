"""Peak memory of a training."""

import mmap
from pathlib import Path

import pytest
import torch

from rlrr.training.memory import forget_peak, peak_memory

SIZE, CPU = 256, torch.device("cpu")  # MiB


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_a_peak_is_seen_and_forgotten():
    forget_peak(CPU)
    before = peak_memory(CPU)
    with mmap.mmap(-1, SIZE << 20) as held:  # which goes back to the system when it is closed, as freed memory may not
        held[:] = b"x" * len(held)
        seen = peak_memory(CPU)
    forget_peak(CPU)
    assert seen >= before + SIZE
    assert peak_memory(CPU) < before + SIZE // 2
