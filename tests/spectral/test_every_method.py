"""The view that each method gets: its weights, or its features where its update is no change of weights."""

import pytest

import rlrr
from rlrr.adapters.folder import load_adapter
from rlrr.methods.capabilities import can_merge
from rlrr.methods.table import METHODS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("peft:")])
def test_it_is_seen_by_its_weights_or_else_by_its_features(method, make_adapter, images, tmp_path, monkeypatch):
    monkeypatch.setattr("rlrr.spectral.analyze.write_page", lambda path, *args: path.write_text(""))
    run = make_adapter(tmp_path / "run", method=method)
    (analysis,) = rlrr.analyze([run], tmp_path / "out", images=images, directions=2)
    model, _ = load_adapter(run)
    assert bool(analysis.rows) == can_merge(model)
    changes = [change["relative_change"] for change in analysis.features]
    assert len(changes) == 2
    if method == "linear":
        assert not any(changes)
    else:
        assert all(change > 0 for change in changes)
    if analysis.rows and method not in ("linear", "bitfit", "ln_tuning"):
        assert analysis.relative_change > 0
