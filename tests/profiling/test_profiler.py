"""Profiling in somebody's own loop."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._functorch.config
from torch import nn
from torch.nn import functional as F

import recon_cli
from recon_cli.errors import ReconError
from recon_cli.profiling.profiler import ConflictProfiler
from tests.profiling.test_agreement import (
    ITERATIONS,
    LAYERS,
    LEARNING_RATE,
    make_batches,
    make_model,
    reference_cosines,
)

TASKS = ["a", "b", "c"]
SEVERITIES = (0.0, -0.1, -0.3)


def losses_of(model: nn.Module, batch) -> dict[str, torch.Tensor]:
    outputs = model(batch.inputs)
    return {task: F.cross_entropy(outputs[task], batch.targets[task]) for task in TASKS}


def train(model: nn.Module, profiler: ConflictProfiler | None, batches=None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for batch in batches or make_batches():
        losses = losses_of(model, batch)
        optimizer.zero_grad()
        if profiler is None:
            (sum(losses.values()) / len(losses)).backward()
        else:
            profiler.backward(losses)
        optimizer.step()


def test_the_counts_are_those_of_an_independent_computation():
    model = make_model()
    profiler = ConflictProfiler(model, TASKS, steps=ITERATIONS, severities=SEVERITIES)
    train(model, profiler)
    scores, reference = profiler.scores(), reference_cosines()
    assert scores.complete
    assert scores.stage_iterations == (3, 3, 3, 3)
    assert [layer.name for layer in scores.layers] == list(LAYERS)
    for layer in scores.layers:
        for severity in SEVERITIES:
            expected = sum(cosine < severity for step in reference for cosine in step[layer.name].values())
            assert scores.conflicts(layer, severity) == expected


def test_norms_are_those_of_the_losses_where_backward_passes_are_scaled():
    profilers = {}
    for scale in (1.0, 2.0**10):
        model = make_model()
        profilers[scale] = ConflictProfiler(model, TASKS, steps=1, features=["body"])
        profilers[scale].backward(losses_of(model, make_batches()[0]), scale=scale)
    plain, scaled = (profiler.scores() for profiler in profilers.values())
    assert scaled.layers == plain.layers
    assert scaled.features == plain.features


@pytest.mark.parametrize("every", [1, 3, 100])
def test_the_network_trains_as_it_would_without(every):
    plain, profiled = make_model(), make_model()
    train(plain, None)
    profiler = ConflictProfiler(profiled, TASKS, every=every)
    train(profiled, profiler)
    for (name, one), two in zip(plain.state_dict().items(), profiled.state_dict().values(), strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12), name
    assert profiler.scores().iterations == -(-ITERATIONS // every)


def test_what_is_measured_without_being_told():
    model = make_model()
    for arguments, measured in (({}, 2), ({"steps": ITERATIONS}, 12), ({"steps": ITERATIONS, "samples": 5}, 5)):
        profiler = ConflictProfiler(model, TASKS, **arguments)
        train(model, profiler)
        scores = profiler.scores()
        assert (scores.iterations, scores.iterations_requested) == (measured, measured)
        assert (scores.steps, scores.steps_requested, scores.complete) == (12, 12, True)


def test_spread_samples_are_the_steps_of_the_definition():
    model = make_model()
    profiler = ConflictProfiler(model, TASKS, steps=ITERATIONS, samples=5, severities=SEVERITIES)
    train(model, profiler)
    steps = [reference_cosines()[i * ITERATIONS // 5] for i in range(5)]
    assert profiler.scores().stage_iterations == (2, 1, 1, 1)
    for layer in profiler.scores().layers:
        for severity in SEVERITIES:
            expected = sum(cosine < severity for step in steps for cosine in step[layer.name].values())
            assert profiler.scores().conflicts(layer, severity) == expected


def test_between_samples_the_network_has_no_hooks():
    model = make_model()
    profiler = ConflictProfiler(model, TASKS, every=3)
    for step, batch in enumerate(make_batches()):
        assert bool(model.conv._forward_hooks) == (step % 3 == 0)
        profiler.backward(losses_of(model, batch))


def test_other_passes_between_a_step_and_its_backward_disturb_nothing():
    quiet, disturbed = make_model(), make_model()
    for batch in make_batches()[:3]:
        for model in (quiet, disturbed):
            # Running statistics would differ after more passes.
            model.eval()
        expected, found = (ConflictProfiler(one, TASKS, every=1) for one in (quiet, disturbed))
        expected.backward(losses_of(quiet, batch))
        losses = losses_of(disturbed, batch)
        with torch.no_grad():
            disturbed(batch.inputs)
        disturbed(batch.inputs * 2)
        found.backward(losses)
        assert expected.scores().to_bytes() == found.scores().to_bytes()


def test_gradients_add_up_over_batches_as_those_of_backward_do():
    model, batches = make_model(), make_batches()
    expected = copy.deepcopy(model)
    for batch in batches[:2]:
        (sum(losses_of(expected, batch).values()) / 3).backward()
    for every in (1, 2, 5):
        own = copy.deepcopy(model)
        profiler = ConflictProfiler(own, TASKS, every=every)
        for batch in batches[:2]:
            profiler.backward(losses_of(own, batch))
        for one, two in zip(expected.parameters(), own.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("missing", ["left out", "none"])
def test_pairs_count_where_both_tasks_have_labels(missing):
    model = make_model()
    profiler = ConflictProfiler(model, TASKS, every=1, severities=SEVERITIES)
    reference, given = reference_cosines()[0], [("a", "b", "c"), ("a", "c"), ("b",), ("b", "c")]
    for number, present in enumerate(given):
        losses = losses_of(model, make_batches()[0])
        shown = {task: loss if task in present else None for task, loss in losses.items()}
        model.zero_grad()
        profiler.backward({t: v for t, v in shown.items() if v is not None or missing == "none"})
        expected = torch.autograd.grad(
            sum(loss for task, loss in losses_of(model, make_batches()[0]).items() if task in present) / len(present),
            model.body[0].weight,
        )[0]
        assert torch.allclose(model.body[0].weight.grad, expected, rtol=1e-8), number
    for layer in profiler.scores().layers:
        assert sum(stage.pairs for stage in layer.stages) == 3 + 1 + 0 + 1
        pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("a", "c"), ("b", "c")]
        for severity in SEVERITIES:
            expected = sum(reference[layer.name][pair] < severity for pair in pairs)
            assert profiler.scores().conflicts(layer, severity) == expected


def test_a_profile_that_was_saved_and_restored_ends_in_the_same_file(tmp_path):
    whole, halved = make_model(), make_model()
    batches = make_batches()
    one = ConflictProfiler(whole, TASKS, every=2, steps=ITERATIONS)
    train(whole, one, batches)
    two = ConflictProfiler(halved, TASKS, every=2, steps=ITERATIONS)
    train(halved, two, batches[:5])
    torch.save(two.state_dict(), tmp_path / "profiler.pt")
    three = ConflictProfiler(halved, TASKS, every=2, steps=ITERATIONS)
    three.load_state_dict(torch.load(tmp_path / "profiler.pt", weights_only=True))
    assert not three.scores().complete
    train(halved, three, batches[5:])
    one.write(tmp_path / "one.json")
    three.write(tmp_path / "three.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "three.json").read_bytes()


@pytest.mark.parametrize("first", [("a",), ("a", "b"), ("c", "b"), ("a", "b", "c")])
def test_any_tasks_may_come_first(first):
    model = make_model()
    profiler = ConflictProfiler(model, TASKS, every=1)
    for present in (first, ("a", "b", "c"), ("b", "c"), ("a", "b", "c")):
        losses = losses_of(model, make_batches()[0])
        expected = torch.autograd.grad(
            sum(losses[task] for task in present) / len(present), model.conv.weight, retain_graph=True
        )[0]
        model.zero_grad()
        profiler.backward({task: losses[task] for task in present})
        assert torch.allclose(model.conv.weight.grad, expected, rtol=1e-8, atol=1e-12)
    assert profiler.scores().iterations == 4


def test_a_state_of_another_profiler_is_refused():
    model = make_model()
    state = ConflictProfiler(model, TASKS).state_dict()
    with pytest.raises(ReconError, match="has tasks"):
        ConflictProfiler(model, ["b", "a", "c"]).load_state_dict(state)
    with pytest.raises(ReconError, match="has every 10, this profiler 2"):
        ConflictProfiler(model, TASKS, every=2).load_state_dict(state)
    with pytest.raises(ReconError, match="has steps None, this profiler 5"):
        ConflictProfiler(model, TASKS, steps=5).load_state_dict(state)
    spread = ConflictProfiler(model, TASKS, steps=5, samples=3).state_dict()
    with pytest.raises(ReconError, match="has samples 3, this profiler 2"):
        ConflictProfiler(model, TASKS, steps=5, samples=2).load_state_dict(spread)
    with pytest.raises(ReconError, match="is not one of a ConflictProfiler"):
        ConflictProfiler(model, TASKS).load_state_dict({})
    with pytest.raises(ReconError, match="another network: `body.0`"):
        ConflictProfiler(model, TASKS, exclude=["body.0"]).load_state_dict(state)
    with pytest.raises(ReconError, match="other layers, stages or severities"):
        ConflictProfiler(model, TASKS, severities=[0.0]).load_state_dict(state)


def test_the_file_is_one_that_the_command_ranks(recon):
    model = make_model()
    profiler = recon_cli.ConflictProfiler(model, TASKS)
    train(model, profiler)
    profiler.write("scores.json")
    ranking = recon("rank", "scores.json", "-S", "0", "--json").succeeds().document
    assert {layer["name"] for layer in ranking["layers"]} == set(LAYERS)


def test_wrong_use_is_refused_in_a_sentence():
    model = make_model()
    profiler = ConflictProfiler(model, TASKS)
    losses = losses_of(model, make_batches()[0])
    for given, words in (
        ({**losses, "d": losses["a"]}, "name `d`, which is none of the tasks"),
        ({}, "no task has a loss"),
        (list(losses.values()), "a mapping from task to loss is needed"),
        ({**losses, "a": torch.tensor(1.0)}, "task `a` depends on no trainable parameter"),
        ({"a": None}, "no task has a loss"),
        ({**losses, "a": torch.zeros(2)}, "task `a` has the shape"),
        ({**losses, "b": losses["b"] / 0}, "task `b` became inf in iteration 1"),
    ):
        with pytest.raises(ReconError, match=words):
            profiler.backward(given)
    with pytest.raises(ReconError, match="nothing was measured yet"):
        profiler.scores()
    for arguments, words in (
        ({"tasks": ["a"]}, "1 task named"),
        ({"tasks": TASKS, "every": 0}, "`every` is 0, but has to be 1 or more"),
        ({"tasks": TASKS, "every": 2, "samples": 3, "steps": 9}, "contradict each other"),
        ({"tasks": TASKS, "stages": 2}, "2 stages need `steps`"),
        ({"tasks": TASKS, "include": ["none"]}, "no trainable layer is left"),
    ):
        with pytest.raises(ReconError, match=words):
            ConflictProfiler(model, **arguments)


def test_a_network_that_shares_nothing_is_told_when_the_scores_are_asked_for():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    profiler = ConflictProfiler(model, ["a", "b"])
    profiler.backward({task: layer(torch.ones(1, 2)).sum() for task, layer in model.items()})
    with pytest.raises(ReconError, match="no layer is shared by two tasks"):
        profiler.scores()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch._dynamo")
@pytest.mark.parametrize("donated", [True, False])
def test_measured_and_other_steps_of_a_compiled_network(donated):
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"trunk": nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}
    )

    def losses():
        z = network["trunk"](torch.ones(2, 4))
        return {task: network[task](z).square().mean() for task in ("a", "b")}

    run = torch.compile(losses, backend="aot_eager")
    profiler = ConflictProfiler(network, ["a", "b"], every=2)

    def train():
        with torch._functorch.config.patch(donated_buffer=donated):
            for _ in range(4):
                network.zero_grad()
                profiler.backward(run())

    if donated:
        # PyTorch's default; the backward pass of the second step may use up what the third step's need.
        with pytest.raises(ReconError, match="was compiled for a single backward pass") as caught:
            train()
        assert "donated_buffer = False" in caught.value.hint
    else:
        train()
        assert profiler.scores().iterations == 2
