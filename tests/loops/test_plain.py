"""A plain loop, as docs/loops.md has it, and what the document says of all loops."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import recon_cli
from recon_cli.profiling.profiler import ConflictProfiler
from tests.loops.examples import assert_trained_alike, python_blocks, run


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 3), "b": nn.Linear(8, 3)})

    def forward(self, x):
        x = checkpoint(self.trunk, x, use_reentrant=False)
        return {task: head(x) for task, head in self.heads.items()}


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(7)
    return TwoHeads().to(dtype)


def train(backward, *, dtype: torch.dtype = torch.float64, scaler: torch.amp.GradScaler | None = None):
    """Train for some steps: `backward` is called with the network and the losses of each."""
    model = make_model(torch.float64 if dtype == torch.float64 else torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profiler = ConflictProfiler(model, ["a", "b"], every=2)
    for _ in range(6):
        images = torch.randn(4, 5, dtype=model.trunk[0].weight.dtype)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float64):
            outputs = model(images)
            losses = {task: F.cross_entropy(outputs[task], torch.randint(3, (4,))) for task in outputs}
        optimizer.zero_grad()
        backward(profiler, losses)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return model, profiler


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(*python_blocks("A plain loop"))
    assert recon_cli.Scores.read(tmp_path / "scores.json").iterations == 7


def test_weighted_sums_train_as_the_document_says():
    weight = {"a": 0.3, "b": 2.0}
    plain, _ = train(lambda _, losses: sum(weight[task] * loss for task, loss in losses.items()).backward())
    profiled, profiler = train(
        lambda profiler, losses: profiler.backward(
            {task: len(losses) * weight[task] * loss for task, loss in losses.items()}
        )
    )
    assert_trained_alike(make_model(torch.float64), plain, profiled)
    assert profiler.scores().iterations == 3


def test_losses_scaled_for_fp16_train_as_they_do_without_the_profiler():
    one, two = (torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2))
    plain, _ = train(
        lambda _, losses: one.scale(sum(losses.values()) / len(losses)).backward(), dtype=torch.float16, scaler=one
    )
    profiled, profiler = train(
        lambda profiler, losses: profiler.backward({task: two.scale(loss) for task, loss in losses.items()}),
        dtype=torch.float16,
        scaler=two,
    )
    # The joint backward pass rounds the sum of the tasks' gradients to half precision, the separate ones each of them.
    assert_trained_alike(make_model(), plain, profiled, within=1e-3)
    assert all(stage.non_finite == 0 and stage.pairs == 3 for stage in profiler.scores().trunk)


def test_steps_that_overflow_are_skipped_and_counted_as_not_finite():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    model, profiler = train(
        lambda profiler, losses: profiler.backward({task: scaler.scale(loss) for task, loss in losses.items()}),
        dtype=torch.float16,
        scaler=scaler,
    )
    assert all(map(torch.equal, model.parameters(), make_model().parameters()))
    assert scaler.get_scale() == 2.0**94
    (stage,) = profiler.scores().trunk
    assert (stage.pairs, stage.non_finite, set(stage.conflicts)) == (0, 3, {0})


def test_bfloat16_trains_as_it_would_without_but_for_rounding():
    plain, _ = train(lambda _, losses: (sum(losses.values()) / len(losses)).backward(), dtype=torch.bfloat16)
    profiled, profiler = train(lambda profiler, losses: profiler.backward(losses), dtype=torch.bfloat16)
    assert_trained_alike(make_model(), plain, profiled, within=1e-2)
    assert profiler.scores().trunk[0].pairs == 3
