"""`rlrr export`."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_onnx_file_is_compared_on_the_runs_own_images(rlrr, finished_run, tmp_path):
    file = tmp_path / "mein Modell.onnx"
    result = rlrr("export", finished_run, "--output", file)
    assert (result.code, result.err) == (0, "")
    assert f"ONNX model in {file} (opset " in result.out
    assert "on 9 images (validation images of the run), in batches of 1 and 3:" in result.out
    found = re.search(
        r"largest logit difference (\S+) \((\S+) of the largest logit\), same class for 9 of 9", result.out
    )
    assert float(found[2]) < 1e-4
    assert file.exists()
    assert (tmp_path / "mein Modell.onnx.parity.json").exists()


def test_the_result_as_json(rlrr, finished_run, tmp_path):
    result = json.loads(rlrr("export", finished_run, "--output", tmp_path / "model.onnx", "--json").out)
    written = json.loads((tmp_path / "model.onnx.parity.json").read_text())
    assert result == {"file": str(tmp_path / "model.onnx")} | written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing: --output."),
        (["--output", "x.onnx", "--opset", "new"], "--opset must be a whole number, not 'new'."),
        (["--output", "."], ". exists: give another --output; nothing is overwritten."),
    ],
)
def test_wrong_use_is_refused(refused, finished_run, arguments, said):
    assert refused("export", finished_run, *arguments, code=2).startswith(said)
