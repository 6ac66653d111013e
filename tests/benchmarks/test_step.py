"""The benchmark of a training step: what it compares computes the same, and its table says what was measured."""

# ruff: noqa: RUF001 - spreads have a dash

import json
import os
from functools import partial

import pytest
import timm
import torch
from torch.nn import functional as F

from rlrr.errors import RLRRError
from rlrr.methods.apply import apply_method

pytestmark = pytest.mark.slow


@pytest.fixture
def step(script):
    return script("step")


@pytest.fixture
def measure(script):
    return script("measure")


def tiny_vit() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes).double()
    for parameter in model.parameters():  # biases too, and norms that are not 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def gradients(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(images)
    F.cross_entropy(logits, torch.arange(len(images)) % 5).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def to_form(name: str, tensor: torch.Tensor, form: str) -> dict[str, torch.Tensor]:
    """The name and shape of one of our vectors, or of its gradient, in a form; of qkv three."""
    path, _, leaf = name.removeprefix("base_model.model.").removesuffix(".default").rpartition(".")
    if path.startswith("head"):
        return {f"head.{leaf}": tensor}
    leaf = leaf.removeprefix("rlrr_")
    if form == "autograd":
        return {f"{path}.{leaf}": tensor if leaf != "scale_in" or tensor.ndim == 3 else tensor[None]}
    if path.endswith(".qkv"):
        parts = tensor if leaf == "scale_in" else tensor.chunk(3)
        return {f"{path.removesuffix('qkv')}{part}.{leaf}": one for part, one in zip("qkv", parts, strict=True)}
    return {f"{'patch_embed.norm' if path == 'patch_embed.proj' else path}.{leaf}": tensor}


@pytest.mark.parametrize("form", ["official", "autograd"])
def test_a_form_written_out_computes_the_logits_and_gradients_of_ours(step, form):
    ours, theirs = apply_method(tiny_vit(), "rlrr").double(), step.CASES[form](tiny_vit()).double()
    vectors = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    vectors = {key: v for name, p in vectors.items() for key, v in to_form(name, p.detach(), form).items()}
    assert vectors.keys() == {name for name, p in theirs.named_parameters() if p.requires_grad}
    theirs.load_state_dict(vectors, strict=False)

    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    (our_logits, our_gradients), (their_logits, their_gradients) = gradients(ours, images), gradients(theirs, images)

    torch.testing.assert_close(their_logits, our_logits, rtol=1e-9, atol=1e-12)
    for name, gradient in our_gradients.items():
        for key, expected in to_form(name, gradient, form).items():
            assert expected.abs().max() > 0, name
            torch.testing.assert_close(their_gradients[key], expected, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("case", ["lora", "ia3", "full", "linear", "bound"])
def test_a_case_trains_the_classifier_and_what_it_says(step, case):
    model = step.build(case, "vit_tiny_patch16_224", 32)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    head = [name for name in trained if "head." in name]
    of_qkv = [name for name in trained if ".qkv." in name]

    assert len(head) == 2
    assert len(of_qkv) == 12 * {"lora": 2, "ia3": 1, "full": 2}.get(case, 0)
    if case in ("linear", "bound"):
        assert [name for name in trained if name not in head] == ["patch_embed.proj.bias"] * (case == "bound")


def test_gradients_flow_through_all_blocks_of_the_bound(step):
    model = step.build("bound", "vit_tiny_patch16_224", 32)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.patch_embed.proj.bias.grad.abs().max() > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cases_take_turns_and_their_parts_make_up_a_step(step, precision):
    options = {"image_size": 32, "turns": 3, "warmup": 1, "device": "cpu", "threads": 1}
    seconds = step.measure_times("vit_tiny_patch16_224", 2, precision, ["linear", "rlrr"], **options)
    assert [(case, len(turns)) for case, turns in seconds.items()] == [("linear", 3), ("rlrr", 3)]
    for turn in (turn for turns in seconds.values() for turn in turns):
        assert turn["step"] == pytest.approx(turn["forward"] + turn["backward"] + turn["optimiser"])


def test_full_fine_tuning_takes_the_memory_of_its_gradients_and_moments(step, measure):
    # in a process of its own, as it is run: in this one, what earlier tests have freed would be used again unseen
    memory = partial(step.measure_memory, image_size=32, device="cpu", threads=1)
    full = measure.in_new_process(memory, "vit_tiny_patch16_224", 2, "fp32", "full")
    assert full["trained"] > 5e6
    assert full["peak_mib"] > 3 * 4 * full["trained"] / 2**20


def synthetic(case: str, seconds: list[float], mib: float, precision: str = "fp32") -> dict:
    times = [{"forward": one / 4, "backward": one / 2, "optimiser": one / 4, "step": one} for one in seconds]
    setting = {"model": "vit", "batch_size": 8, "precision": precision, "case": case}
    return {**setting, "seconds": times, "peak_mib": mib}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_ratio_is_between_steps_of_one_turn(step):
    # the machine is half as fast in the second turn, which shows in no ratio
    runs = [synthetic("official", [4.0, 8.0], 1000), synthetic("rlrr", [3.0, 6.0], 550)]
    columns, _, official, ours = cells(step.summary(runs))
    assert columns == [
        *("model", "batch_size", "precision", "case", "forward, ms", "backward, ms", "optimiser, ms"),
        *("step, ms", "step ratio", "of the fastest", "peak memory, MiB", "memory ratio"),
    ]
    assert official[:4] == ["vit", "8", "fp32", "official"]
    assert official[8] == "1.00 (1.00–1.00)"
    assert ours[4:8] == ["1125 (750–1500)", "2250 (1500–3000)", "1125 (750–1500)", "4500 (3000–6000)"]
    assert ours[8:] == ["0.750 (0.750–0.750)", "0.750", "550", "0.550"]


def test_a_setting_without_the_official_form_has_no_ratio(step):
    runs = [synthetic("official", [4.0], 1000), synthetic("rlrr", [3.0], 500, "bf16")]
    assert [cells(step.summary(runs))[-1][column] for column in (8, 9, 11)] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([4.85, 5.2, 4.8], "4.85 (4.80–5.20)"),
        ([1234.5, 1300, 999], "1234 (999–1300)"),
        ([0.01234, 0.02], "0.0162 (0.0123–0.0200)"),
        ([0.0, 0.0], "0.00 (0.00–0.00)"),
        ([64.26], "64.3"),
    ],
)
def test_a_spread_has_the_decimals_of_its_median(measure, values, text):
    assert measure.spread(values) == text


def test_results_are_written_as_numbers_and_as_a_table_with_the_machine(measure, tmp_path):
    results = {"machine": measure.machine(), "runs": [1.5]}
    measure.write_results(tmp_path / "bench", "step", results, measure.markdown_table(["a", "b"], [["1", "two"]]))
    assert json.loads((tmp_path / "bench" / "step.json").read_text()) == results
    head, _, *table = (tmp_path / "bench" / "step.md").read_text().splitlines()
    assert head.startswith(results["machine"]["cpu"])
    assert head.endswith(f"torch {torch.__version__}")
    assert table == ["| a | b   |", "| - | --- |", "| 1 | two |"]


def test_a_process_of_its_own_hands_back_its_result_and_its_death(measure):
    assert measure.in_new_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        measure.in_new_process(divmod, 1, 0)
    with pytest.raises(RLRRError, match="measured 3 died"):
        measure.in_new_process(os._exit, 3)


def test_peak_memory_counts_from_its_start(measure):
    memory = measure.PeakMemory(torch.device("cpu"))
    torch.ones(16 << 20, dtype=torch.uint8)
    assert 15 < memory.above_start() < 32


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [({"cases": ["oficial"]}, "official"), ({"models": ["vit_base_patch16_24"]}, "vit_base_patch16_224")],
)
def test_a_mistaken_name_is_answered_with_the_nearest(step, tmp_path, mistake, meant):
    with pytest.raises(RLRRError, match=f"Did you mean {meant}"):
        step.main(**mistake, output=tmp_path)
