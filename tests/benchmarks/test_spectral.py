"""The page of the spectral view: its statements say what the numbers say."""

from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model

from rlrr import RLRRConfig
from rlrr.backbones import load_backbone

pytestmark = pytest.mark.slow


@pytest.fixture
def spectral(script):
    return script("spectral")


@pytest.fixture
def render(spectral):
    """The page of runs that are all alike but for what is given by case and measure."""

    def call(**given: dict[str, float]) -> str:
        alike = dict.fromkeys(spectral.MEASURES, 0.5) | {"trained": 1000, "weights": 73}
        found = {case: {k: [v, v] for k, v in (alike | given.get(case, {})).items()} for case in spectral.CASES}
        return spectral.render(found, {}, {"samples": ["mnist", "digits"], "epochs": 6, "image_size": 56})

    return call


@pytest.mark.parametrize(
    ("statement", "confirmed", "not_confirmed"),
    [
        ("A probe and shifts", {"linear": {"change": 0}, "shift": {"change": 0}}, {"linear": {"change": 0}}),
        ("SSF acts on one side", {"ssf": {"left": 1.0, "right": 0.1}}, {"ssf": {"left": 0.9, "right": 0.1}}),
        ("SSF leaves the other", {"ssf": {"in_angle": 1, "out_angle": 5}}, {"ssf": {"in_angle": 4, "out_angle": 5}}),
        ("RLRR needs both", {"rlrr": {"both": 1.0, "left": 0.1, "right": 0.1}}, {"rlrr": {"both": 1.0, "left": 0.9}}),
        ("The residual anchors", {"rlrr": {"change": 0.1}}, {"rlrr": {"change": 0.6}}),
        ("The same, when RLRR too", {"identity": {"change": 0.1}}, {"identity": {"change": 0.6}}),
        ("LoRA is weak", {"lora": {"change": 0.1}}, {"lora": {"change": 0.3}}),
        ("RLRR stays nearer", {"identity": {"change": 0.1}}, {"identity": {"change": 0.6}}),
        (
            "With the residual",
            {"rlrr": {"out_orthogonality": 0.1, "in_orthogonality": 0.1}},
            {"rlrr": {"out_orthogonality": 0.1, "in_orthogonality": 0.6}},
        ),
        ("RLRR's ΔW is of high rank", {"lora": {"rank": 0.05}}, {"lora": {"rank": 0.4}}),
        ("What full fine-tuning and LoRA", {"full": {"both": 0.01}, "lora": {"both": 0.02}}, {"lora": {"both": 0.02}}),
        ("LoRA brings intruders", {"lora": {"intruders": 1}}, {"lora": {"intruders": 0}}),
    ],
)
def test_a_statement_is_confirmed_by_the_numbers_alone(render, statement, confirmed, not_confirmed):
    for given, verdict in ((confirmed, "**Confirmed.**"), (not_confirmed, "**Not confirmed.**")):
        (line,) = (line for line in render(**given).splitlines() if f"*{statement}" in line)
        assert line.startswith(f"- {verdict}")


def test_numbers_have_their_range(spectral):
    assert spectral.text([0.1, 0.3], scale=100, unit=" %") == "20.0 % (10.0–30.0)"  # noqa: RUF001
    assert spectral.text([0.2, 0.2], decimals=2) == "0.20"
    assert spectral.text([]) == "-"


def test_shifts_alone_leave_the_scales_untrained(spectral, tiny_backbone):
    model = get_peft_model(load_backbone(tiny_backbone, num_classes=3).model, RLRRConfig(init_weights="identity"))
    spectral._check_and_hold_scales(model, torch.zeros(1, 3, 32, 32))
    trained = {name.split(".")[-2] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "rlrr_shift" in trained
    assert not trained & {"rlrr_scale", "rlrr_scale_in", "rlrr_scale_out"}


def test_the_share_of_the_spectrum_of_constant_vectors_is_whole(spectral):
    vectors = {"fc1": {"scale_out": torch.full((4, 1), 0.3), "scale_in": torch.full((1, 8), 0.2)}}
    assert spectral._predicted_spectrum(SimpleNamespace(vectors=vectors)) == pytest.approx(1 + 1 / 8)
