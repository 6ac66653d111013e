"""Whole comparisons from Python."""

import json

import pytest

import rlrr
from rlrr.compare.run import plan_fields


@pytest.mark.slow
def test_an_ablation_is_run_and_written(tiny_backbone, images, tmp_path, capfd):
    options = {"model": tiny_backbone, "epochs": 1, "batch_size": 8, "precision": "fp32"}
    document = rlrr.ablate(images, tmp_path / "out", tables=["table11"], seeds=[0], **options)
    assert (tmp_path / "out" / "results.md").read_text() == document.text == document._repr_markdown_()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["heading"] == document.content["heading"]
    assert repr(document) == f"Document({document.content['heading']})"
    said = capfd.readouterr().err
    assert f"rlrr: {images.name}, no-weight: seed 0, 1 of 1\n" in said
    assert "epoch 1 of 1" not in said


@pytest.mark.slow
def test_a_benchmark_is_run_and_written_and_its_failures_are_raised_in_the_end(tiny_backbone, make_vtab, tmp_path):
    root = make_vtab(tmp_path / "vtab", "kitti", "dsprites_loc")
    options = {"model": tiny_backbone, "epochs": 1, "cooldown": 0, "batch_size": 4, "image_size": 32}
    plan = {"seeds": [0], "rates": [1.0], "tasks": ["kitti"]}
    document = rlrr.reproduce("vtab1k", root, tmp_path / "out", **plan, **options, precision="fp32")
    assert list(document.content["results"]) == ["kitti"]
    (root / "dsprites_loc" / "images" / "test" / "000000.jpg").write_bytes(b"")
    plan["tasks"] = ["kitti", "dsprites_loc"]
    with pytest.raises(rlrr.RLRRError, match=r"1 failed.*\n  dsprites_loc: "):
        rlrr.reproduce("vtab1k", root, tmp_path / "out", **plan, **options, precision="fp32")
    assert "kitti" in (tmp_path / "out" / "results.json").read_text()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rlrr.reproduce("vtab", "root"), "`benchmark` must be one of vtab1k, fgvc"),
        (lambda: rlrr.reproduce("vtab1k", "nowhere"), "There is no folder nowhere"),
        (lambda: rlrr.reproduce("vtab1k", "root", tasks=["cifra"]), "has no task 'cifra'"),
        (lambda: rlrr.reproduce("vtab1k", "root", epoch=3), "epoch is no option .* Did you mean epochs"),
        (lambda: rlrr.reproduce("vtab1k", "root", seed=3), "seed is no option"),
        (lambda: rlrr.reproduce("vtab1k", "root", seeds=3), "`seeds` must be Sequence"),
        (lambda: rlrr.ablate("sample:digits", tables=["table7"]), "There is no table 'table7'"),
        (lambda: rlrr.ablate(5), "`data` must be str"),
    ],
)
def test_a_wrong_call_is_one_sentence(call, words):
    with pytest.raises(rlrr.RLRRError, match=words):
        call()


def test_the_paper_has_one_seed_and_one_rate():
    assert plan_fields("paper", None, None, (1, 3)) == {"protocol": "paper", "seeds": (42,), "rates": (1.0,)}
    assert plan_fields("honest", None, None, (1, 3)) == {"protocol": "honest", "seeds": (0, 1, 2), "rates": (1, 3)}
    for given in ({"seeds": [1], "rates": None}, {"seeds": None, "rates": [1.0]}):
        with pytest.raises(rlrr.RLRRError, match=r"Leave `(seeds|rates)` out with `protocol` paper"):
            plan_fields("paper", **given, default_rates=(1,))
