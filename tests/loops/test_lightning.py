"""Lightning, with the module of docs/loops.md."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import recon_cli
from tests.loops.examples import BATCHES, TASKS, assert_trained_alike, few_batches, python_blocks, run

L = pytest.importorskip("lightning")
MixedPrecision = pytest.importorskip("lightning.pytorch.plugins").MixedPrecision

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    # Advice about the number of workers and so on.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]

DEFINITION, TRAINING = python_blocks("Lightning")


def make_module(profiled: bool = True, every: int = 1):
    """The module of the document, its network the same every time; not profiled, it has Lightning's own `backward`."""
    names = run(DEFINITION)
    torch.manual_seed(3)
    module = names["TwoTasks"]()
    module.conflicts = recon_cli.ConflictProfiler(module.model, TASKS, every=every)
    if not profiled:
        type(module).backward = L.LightningModule.backward
    return module


def fit(module, *, resume=None, **arguments):
    trainer = L.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, **arguments},
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, few_batches(), ckpt_path=resume)
    return trainer


@pytest.mark.filterwarnings("ignore:.*tensorboardX:UserWarning")
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(DEFINITION, TRAINING)
    assert recon_cli.Scores.read(tmp_path / "scores.json").iterations == 7


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"accumulate_grad_batches": 4}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}],
    ids=["plain", "accumulated", "clipped"],
)
def test_the_network_trains_as_it_would_without(arguments, every):
    plain, profiled = make_module(profiled=False), make_module(every=every)
    fit(plain, precision="64-true", **arguments)
    fit(profiled, precision="64-true", **arguments)
    assert_trained_alike(make_module(), plain, profiled)
    assert profiled.conflicts.scores().iterations == -(-BATCHES // every)


def test_the_scores_are_those_of_a_plain_loop():
    module, plain = make_module(), make_module().model.double()
    fit(module, precision="64-true")
    profiler = recon_cli.ConflictProfiler(plain, TASKS, every=1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for images, labels in few_batches():
        outputs = plain(images.double())
        optimizer.zero_grad()
        profiler.backward({task: F.cross_entropy(outputs[task], labels[task]) for task in outputs})
        optimizer.step()
    assert module.conflicts.scores().layers == profiler.scores().layers


def test_losses_that_are_sent_backward_by_hand_are_measured_as_well():
    class ByHand(run(DEFINITION)["TwoTasks"]):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    torch.manual_seed(3)
    by_hand, automatic = ByHand(), make_module()
    by_hand.conflicts = recon_cli.ConflictProfiler(by_hand.model, TASKS, every=1)
    fit(by_hand, precision="64-true")
    fit(automatic, precision="64-true")
    assert_trained_alike(make_module(), automatic, by_hand, within=0)
    assert by_hand.conflicts.scores() == automatic.conflicts.scores()


def test_a_run_that_was_stopped_and_resumed_ends_in_the_same_file(tmp_path):
    whole, first, second = (make_module(every=4) for _ in range(3))
    fit(whole, max_epochs=2)
    fit(first).save_checkpoint(tmp_path / "run.ckpt")
    fit(second, max_epochs=2, resume=tmp_path / "run.ckpt")
    assert_trained_alike(make_module(), whole, second, within=0)
    assert first.conflicts.scores().iterations == 2
    assert second.conflicts.scores().iterations == 3
    assert whole.conflicts.scores().to_bytes() == second.conflicts.scores().to_bytes()


def test_a_step_in_bfloat16_is_the_one_without_the_profiler_but_for_rounding():
    plain, profiled = make_module(profiled=False), make_module()
    for module in (plain, profiled):
        fit(module, precision="bf16-mixed", max_steps=1)
    assert_trained_alike(make_module(), plain, profiled, within=0.02)
    assert all(stage.pairs == 1 for layer in profiled.conflicts.scores().layers for stage in layer.stages)


def test_the_factor_of_the_gradient_scaler_is_passed_on():
    plain, profiled = make_module(profiled=False), make_module()
    for module in (plain, profiled):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        fit(module, plugins=[plugin], accumulate_grad_batches=2, max_steps=1)
    assert_trained_alike(make_module(), plain, profiled, within=0.005)
    assert all(stage.pairs == 2 for layer in profiled.conflicts.scores().layers for stage in layer.stages)
