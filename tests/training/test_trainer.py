"""The steps of training: what a loss is made of, how steps add up, and the schedule of the learning rate."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from rlrr.errors import RLRRError
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.recipes.recipe import Recipe
from rlrr.training import trainer as trainer_module
from rlrr.training.callbacks import Progress
from rlrr.training.images import training_images
from rlrr.training.run import build, load_data, set_seed
from rlrr.training.trainer import make_trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def trainer(tiny_backbone, images, tmp_path):
    def make(**options):
        recipe = Recipe(**{"data": str(images), "model": tiny_backbone, "epochs": 1, "precision": "fp32"} | options)
        data = load_data(recipe.data)
        set_seed(0)
        backbone, model = build(recipe, 3)
        chosen = training_images(recipe, data, backbone.data_config)
        return make_trainer(recipe, tmp_path / "run", model, 3, chosen, Progress())

    return make


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", ["rlrr", "linear", "full", "lora"])
def test_two_half_batches_make_the_step_of_a_whole_one(trainer, method):
    gradients = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))

    for options in ({"batch_size": 24}, {"batch_size": 12, "accumulate": 2}):
        one = trainer(method=method, learning_rate=1e-3, **options)
        one.add_callback(Keep())
        one.train()
        assert one.state.global_step == 1
    whole, halves = gradients
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-6)


def test_more_steps_to_add_up_than_an_epoch_has_are_remarked_on(trainer, caplog):
    assert trainer(batch_size=8, accumulate=3).args.gradient_accumulation_steps == 3
    assert "accumulate" not in caplog.text
    assert trainer(batch_size=24, accumulate=100).args.gradient_accumulation_steps == 1
    assert "`accumulate` is 100, and an epoch has 1 batch:" in caplog.text


def test_the_logged_loss_of_accumulated_steps_is_a_mean_too(trainer):
    losses = []
    for options in ({"batch_size": 24}, {"batch_size": 12, "accumulate": 2}):
        one = trainer(**options)
        one.train()
        losses.append(next(record["loss"] for record in one.state.log_history if "loss" in record))
    assert losses[0] == pytest.approx(math.log(3), rel=1e-5)  # the classifier starts at zero
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_learning_rate_rises_then_falls_by_a_cosine(trainer):
    one = trainer(epochs=5, batch_size=6, learning_rate=0.4, warmup=0.2)
    rates = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            rates.append({group["lr"] for group in optimizer.param_groups})

    one.add_callback(Keep())
    one.train()
    steps, rising = 20, 4
    expected = [
        0.4 * (step / rising if step < rising else 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising))))
        for step in range(steps)
    ]
    assert all(len(rate) == 1 for rate in rates)
    assert [rate.pop() for rate in rates] == pytest.approx(expected)


def test_a_step_is_adamw_on_cross_entropy_without_clipping(trainer):
    one = trainer(method="linear", batch_size=24, learning_rate=0.01, warmup=0, weight_decay=0.5)
    reference = build(Recipe("x", model=one.model.name_or_path, method="linear"), 3)[1]
    head = reference.head
    optimizer = torch.optim.AdamW(
        [{"params": [head.weight], "weight_decay": 0.5}, {"params": [head.bias], "weight_decay": 0.0}], lr=0.01
    )
    samples = [one.train_dataset[i] for i in range(24)]
    images = torch.stack([sample["pixel_values"] for sample in samples])
    labels = torch.tensor([sample["labels"] for sample in samples])
    F.cross_entropy(reference.train()(one._transform(images)), labels).backward()
    optimizer.step()
    after = trained(one)
    torch.testing.assert_close(after["head.weight"], head.weight.detach(), rtol=1e-4, atol=1e-6)
    # the bias is not compared: its gradient is zero here but for rounding, and AdamW scales that up


def test_labels_are_smoothed_in_training_only(trainer):
    one = trainer(label_smoothing=0.3)
    torch.nn.init.normal_(one.model.get_base_model().head.modules_to_save["default"].weight)
    inputs = one.data_collator([one.train_dataset[i] for i in range(8)])
    losses = {}
    for mode in (True, False):
        one.model.train(mode)
        losses[mode] = one.compute_loss(one.model, inputs).item()
    logits = one.model(one._transform(inputs["pixel_values"]))
    assert losses[True] == pytest.approx(F.cross_entropy(logits, inputs["labels"], label_smoothing=0.3).item())
    assert losses[False] == pytest.approx(F.cross_entropy(logits, inputs["labels"]).item())
    assert losses[True] != pytest.approx(losses[False], rel=1e-3)


def test_mixing_is_for_training_only(trainer, monkeypatch):
    one = trainer(mixup=1.0, batch_size=8)
    inputs = one.data_collator([one.train_dataset[i] for i in range(8)])
    calls = []
    mix = one._objective.mixup
    monkeypatch.setattr(one._objective, "mixup", lambda *args: calls.append(args) or mix(*args))
    one.compute_loss(one.model.eval(), inputs)
    assert not calls
    one.compute_loss(one.model.train(), inputs)
    assert len(calls) == 1


def test_mixing_drops_a_last_batch_that_is_not_full(trainer):
    assert len(trainer(mixup=1.0, batch_size=10).get_train_dataloader()) == 2
    assert len(trainer(batch_size=10).get_train_dataloader()) == 3


def test_a_batch_larger_than_the_data_cannot_be_mixed(trainer):
    with pytest.raises(RLRRError, match="`batch_size` must be at most 24"):
        trainer(mixup=1.0, batch_size=26)


def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy(trainer):
    one = trainer(method="full")
    with torch.no_grad():
        one.model.patch_embed.proj.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RLRRError, match=r"The loss became nan at step 1 .*lower `learning_rate`"):
        one.train()


def test_losses_that_are_not_looked_at_at_once_are_before_anything_is_logged_or_saved(trainer, monkeypatch):
    one = trainer(method="full", batch_size=4)
    one._most_unchecked = 50  # as on a GPU
    steps = []
    step = one.training_step

    def breaking(model, *args, **kwargs):
        steps.append(len(steps) + 1)
        if steps[-1] == 3:
            with torch.no_grad():
                model.patch_embed.proj.weight[0, 0, 0, 0] = torch.nan
        return step(model, *args, **kwargs)

    monkeypatch.setattr(one, "training_step", breaking)
    with pytest.raises(RLRRError, match=r"The loss became nan at step 3 "):
        one.train()
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not one.state.log_history
    assert not list(Path(one.args.output_dir).glob("checkpoint-*"))


def test_evaluation_takes_more_images_at_a_time_than_training(trainer):
    assert trainer(batch_size=4).args.eval_batch_size == (256 if torch.cuda.is_available() else 64)
    assert trainer(batch_size=200).args.eval_batch_size == 400


@pytest.mark.parametrize(("device", "current"), [("cuda:1", 1), ("cuda", None), ("mps", None)])
def test_trainer_takes_the_device_of_the_recipe(monkeypatch, tmp_path, images, device, current):
    chosen = []
    monkeypatch.setattr(trainer_module, "resolve_device", torch.device)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: chosen.append(torch.device(device).index))
    recipe = Recipe(str(images), device=device, precision="fp32", select="last")
    batch = SimpleNamespace(train=[0] * 24, watched=None)
    arguments = trainer_module._arguments(recipe, tmp_path, batch)
    assert not arguments.use_cpu
    assert chosen == ([] if current is None else [current])
    if current is not None:
        assert arguments.device == torch.device(device)


def test_trainer_stays_on_the_cpu_if_the_recipe_says_so(trainer):
    one = trainer(device="cpu")
    assert one.args.use_cpu
    assert one.args.device == torch.device("cpu")


def test_methods_have_learning_rates_of_their_own(trainer):
    assert [trainer(method=method).args.learning_rate for method in ("rlrr", "linear", "full", "lora")] == [
        5e-3,
        3e-2,
        5e-5,
        1e-3,
    ]


def test_accumulating_more_steps_than_an_epoch_has_is_one_step_an_epoch(trainer):
    one = trainer(batch_size=12, accumulate=99, epochs=2)
    one.train()
    assert one.state.global_step == 2


def test_a_frozen_batch_norm_keeps_its_statistics(images, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    write_timm_folder(model, tmp_path / "resnet", ["a", "b"], timm.data.resolve_model_data_config(model))
    options = {"method": "linear", "image_size": 32, "epochs": 1, "precision": "fp32"}
    recipe = Recipe(str(images), model=str(tmp_path / "resnet"), **options)
    backbone, probe = build(recipe, 3)
    before = {name: value.clone() for name, value in probe.named_buffers()}
    chosen = training_images(recipe, load_data(recipe.data), backbone.data_config)
    make_trainer(recipe, tmp_path / "run", probe, 3, chosen, Progress()).train()
    assert before
    assert all(torch.equal(value, before[name]) for name, value in probe.named_buffers())


def test_all_images_are_measured_also_where_training_drops_the_last_batch(trainer, monkeypatch):
    measured = []
    accuracy = trainer_module._accuracy
    monkeypatch.setattr(
        trainer_module, "_accuracy", lambda result: measured.append(len(result.label_ids)) or accuracy(result)
    )
    trainer(mixup=0.5, batch_size=10).train()
    assert measured == [9]
