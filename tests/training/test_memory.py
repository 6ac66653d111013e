"""Peak memory of a training."""

from pathlib import Path

import numpy as np
import pytest

from rlrr.training.memory import forget_peak, peak_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_a_peak_is_seen_and_forgotten():
    forget_peak()
    before = peak_memory()
    held = np.ones(64 << 17)  # 64 MiB
    assert before + 60 <= peak_memory() < before + 100
    del held
    forget_peak()
    assert peak_memory() < before + 30
