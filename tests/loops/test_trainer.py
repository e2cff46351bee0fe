"""The Trainer of Hugging Face, with the classes of docs/loops.md."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import recon_cli
from tests.loops.examples import BATCHES, TASKS, assert_trained_alike, few_batches, few_images, python_blocks, run

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")

DEFINITION, TRAINING, RESUMING = python_blocks("The Trainer of Hugging Face")
NAMES = run(DEFINITION)


class PlainTrainer(transformers.Trainer):
    """What the Trainer of the document would be without a profiler."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(inputs["images"])
        loss = sum(F.cross_entropy(outputs[task], inputs["labels"][task]) for task in TASKS) / len(TASKS)
        return (loss, outputs) if return_outputs else loss


def make_model():
    torch.manual_seed(3)
    return NAMES["TwoHeads"]()


def make_trainer(kind, model, folder, *, every: int = 1, **arguments):
    dtype = next(model.parameters()).dtype

    def collate(samples):
        inputs = NAMES["collate"](samples)
        return {**inputs, "images": inputs["images"].to(dtype)}

    trainer = kind(
        model,
        transformers.TrainingArguments(
            str(folder),
            **{"save_strategy": "no", "num_train_epochs": 2, **arguments},
            use_cpu=True,
            per_device_train_batch_size=8,
            learning_rate=0.05,
            optim="sgd",
            logging_steps=1,
            disable_tqdm=True,
            label_names=["labels"],
            prediction_loss_only=True,
            report_to="none",
        ),
        train_dataset=few_images(),
        eval_dataset=few_images(),
        data_collator=collate,
    )
    if kind is NAMES["TwoTaskTrainer"]:
        trainer.conflicts = recon_cli.ConflictProfiler(model, TASKS, every=every)
    return trainer


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_example_runs_and_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(DEFINITION, TRAINING)
    whole = recon_cli.Scores.read(tmp_path / "scores.json")
    assert whole.iterations == 7
    run(RESUMING, names=names)
    assert names["trainer"].conflicts.scores().to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(
    "arguments",
    [{"max_grad_norm": 0.0}, {"gradient_accumulation_steps": 4, "max_grad_norm": 0.0}, {"max_grad_norm": 0.1}],
    ids=["plain", "accumulated", "clipped"],
)
def test_the_network_trains_as_it_would_without(tmp_path, arguments, every):
    plain, profiled = make_model().double(), make_model().double()
    one = make_trainer(PlainTrainer, plain, tmp_path, **arguments)
    two = make_trainer(NAMES["TwoTaskTrainer"], profiled, tmp_path, every=every, **arguments)
    for trainer in (one, two):
        trainer.train()
    assert_trained_alike(make_model(), plain, profiled)
    assert logged(one, "loss") == pytest.approx(logged(two, "loss"), rel=1e-6)
    assert logged(one, "grad_norm") == pytest.approx(logged(two, "grad_norm"), rel=1e-6)
    assert one.evaluate()["eval_loss"] == pytest.approx(two.evaluate()["eval_loss"], rel=1e-6)
    assert two.conflicts.scores().iterations == -(-2 * BATCHES // every)


def test_the_scores_are_those_of_a_plain_loop(tmp_path):
    model, plain = make_model().double(), make_model().double()
    trainer = make_trainer(
        NAMES["TwoTaskTrainer"], model, tmp_path, num_train_epochs=1, lr_scheduler_type="constant", max_grad_norm=0.0
    )
    # In the order of the plain loop.
    trainer._get_train_sampler = lambda *_: None
    trainer.train()
    profiler = recon_cli.ConflictProfiler(plain, TASKS, every=1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for images, labels in few_batches():
        outputs = plain(images.double())
        optimizer.zero_grad()
        profiler.backward({task: F.cross_entropy(outputs[task], labels[task]) for task in outputs})
        optimizer.step()
    assert trainer.conflicts.scores().layers == profiler.scores().layers


def test_bfloat16_trains_as_it_would_without_but_for_rounding(tmp_path):
    plain, profiled = make_model(), make_model()
    for kind, model in ((PlainTrainer, plain), (NAMES["TwoTaskTrainer"], profiled)):
        trainer = make_trainer(kind, model, tmp_path, every=5, bf16=True)
        trainer.train()
    assert_trained_alike(make_model(), plain, profiled, within=1e-2)
    assert all(stage.pairs == 3 for layer in trainer.conflicts.scores().layers for stage in layer.stages)


def test_the_factor_of_the_gradient_scaler_is_passed_on(tmp_path):
    plain, profiled = make_model(), make_model()
    arguments = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
    make_trainer(PlainTrainer, plain, tmp_path, **arguments).train()
    trainer = make_trainer(NAMES["TwoTaskTrainer"], profiled, tmp_path, every=5, **arguments)
    # As accelerate has one with fp16, which it refuses on a CPU.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.train()
    assert_trained_alike(make_model(), plain, profiled, within=1e-5)
