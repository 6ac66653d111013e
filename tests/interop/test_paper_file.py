"""The paper's own checkpoints: what its trainer saved becomes a run that gives its logits, and its tensors go back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rlrr
from rlrr.adapters.folder import load_adapter, trained_state
from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS, read_record
from rlrr.errors import RLRRError, UsageError
from rlrr.interop.paper_file import import_official
from rlrr.interop.paper_names import to_official

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = ["vit", "swin"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """What the paper's trainer saved of the two."""
    tensors = load_file(GOLDEN / "official_swin.safetensors")
    trained = {name.removeprefix("trained."): tensor for name, tensor in tensors.items() if name.startswith("trained.")}
    del trained["logits"]
    torch.save(trained, swin := tmp_path_factory.mktemp("trained") / "swin.pth")
    return {"vit": GOLDEN / "official_vit_trained.pth", "swin": swin}


@pytest.fixture(scope="module")
def runs(files, official_backbones, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("imported")
    for kind in KINDS:
        import_official(files[kind], root / kind, model=official_backbones[kind])
    return {kind: root / kind for kind in KINDS}


def official(run: Path) -> dict[str, torch.Tensor]:
    """Give the trained tensors of a run as the paper's trainer saves them."""
    return to_official(trained_state(load_adapter(run)[0]))


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def spoilt(path: Path, folder: Path, change) -> Path:
    tensors = tensors_of(path)
    change(tensors)
    torch.save(tensors, folder / "spoilt.pth")
    return folder / "spoilt.pth"


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_gives_the_logits_of_the_papers_code(kind, runs):
    golden = load_file(GOLDEN / f"official_{kind}.safetensors")
    model, _ = load_adapter(runs[kind])
    with torch.inference_mode():
        logits = model(golden["x"])
    expected = golden["trained.logits"]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_back_to_equal_tensors(kind, runs, files):
    back, given = official(runs[kind]), tensors_of(files[kind])
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) and back[name].dtype == given[name].dtype for name in given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_a_finished_run(kind, runs, images, tmp_path):
    assert {path.name for path in runs[kind].iterdir()} == {TENSORS, PEFT_CONFIG, RECORD}
    record = read_record(runs[kind])
    assert record.classes == ["0", "1", "2", "3", "4"]
    assert "the choice of the epoch is not known" in record.protocol
    assert record.metrics == {}
    assert record.parameters["head"] == 5 * 48 + 5
    assert record.parameters["adapter"] > 0
    assert [len(one.classes) for one in rlrr.load(runs[kind]).predict([images / "test" / "red" / "0.png"])] == [5]
    assert rlrr.merge(runs[kind], tmp_path / "merged", images=[images / "test" / "red" / "0.png"]).images == 1


def test_a_run_of_our_own_goes_there_and_back(finished_run, tiny_backbone, tmp_path):
    torch.save(official(finished_run), tmp_path / "file.pth")
    import_official(tmp_path / "file.pth", tmp_path / "run", model=tiny_backbone)
    ours, back = (load_file(run / TENSORS) for run in (finished_run, tmp_path / "run"))
    assert ours.keys() == back.keys()
    assert all(torch.equal(ours[name], back[name]) for name in ours)


def test_it_can_be_evaluated(files, official_backbones, images, tmp_path):
    names = ["red", "green", "blue", "grey", "pink"]
    run = tmp_path / "run"
    import_official(files["vit"], run, model=official_backbones["vit"], classes=names)
    assert rlrr.evaluate(run, images).images == 9


def test_images_are_prepared_as_in_the_papers_code(runs):
    config = read_record(runs["vit"]).preprocessing
    assert (config["crop_mode"], config["crop_pct"], config["interpolation"]) == ("squash", 1.0, "bicubic")
    assert config["mean"] == config["std"] == [0.5, 0.5, 0.5]


SCALE = "transformer.encoder.layer.1.ffn.fc1.scale_col"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({SCALE: torch.zeros(1, 7)}), rf"its {SCALE} is \(1, 7\), and on .*vit it is \(1, 48\)"),
        (lambda t: t.pop(SCALE), f"does not fit .*: it has no {SCALE}"),
        (lambda t: t.update(stray_scale=torch.zeros(1)), "does not fit .*: it has a stray_scale"),
        (lambda t: [t.pop(name) for name in list(t) if ".query." in name], "it has no .* and 8 more"),
        (lambda t: t.pop("head.weight"), r"lacks the classifier, head\.weight"),
        (lambda t: [t.pop(name) for name in list(t) if "scale_line" in name], "not a checkpoint of the paper's code"),
        (lambda t: t.update(epoch=3), "not a checkpoint of the paper's code"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_naming_the_tensor(files, official_backbones, tmp_path, change, said):
    file = spoilt(files["vit"], tmp_path, change)
    with pytest.raises(RLRRError, match=said):
        import_official(file, tmp_path / "run", model=official_backbones["vit"])
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_a_vit_is_none_of_a_swin(files, official_backbones, tmp_path):
    with pytest.raises(RLRRError, match=r"it has no .* and 68 more. Was it trained on another backbone"):
        import_official(files["vit"], tmp_path / "run", model=official_backbones["swin"])


class Code:
    """Something that torch would have to run code for."""

    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [b"", b"text", "cut", "code"])
def test_what_is_no_file_of_tensors_is_refused(files, official_backbones, tmp_path, content, capsys):
    file = tmp_path / "file.pth"
    if content == "code":
        torch.save({"scale_line": Code()}, file)
    else:
        file.write_bytes(files["vit"].read_bytes()[:20_000] if content == "cut" else content)
    with pytest.raises(RLRRError, match=r"file\.pth is damaged, no \.pth file, or holds more than tensors"):
        import_official(file, tmp_path / "run", model=official_backbones["vit"])
    assert capsys.readouterr().out == ""


def test_a_missing_file_and_wrong_classes_are_refused(files, official_backbones, tmp_path):
    with pytest.raises(RLRRError, match="There is no file"):
        import_official(tmp_path / "none.pth", tmp_path / "run", model=official_backbones["vit"])
    with pytest.raises(RLRRError, match="has 5 classes, and the names given are 2"):
        import_official(files["vit"], tmp_path / "run", model=official_backbones["vit"], classes=["a", "b"])


def test_what_exists_is_not_overwritten(runs, files, official_backbones, tmp_path):
    (tmp_path / "file").write_text("words")
    for call in (
        lambda: import_official(files["vit"], tmp_path / "file", model=official_backbones["vit"]),
        lambda: import_official(files["vit"], tmp_path, model=official_backbones["vit"]),
    ):
        with pytest.raises(RLRRError, match="exists") as caught:
            call()
        assert isinstance(caught.value, UsageError)
    assert json.loads((runs["vit"] / RECORD).read_text())["method"] == "rlrr"
    assert (tmp_path / "file").read_text() == "words"
