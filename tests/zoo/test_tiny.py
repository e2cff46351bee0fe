"""What holds for all of the paper's networks, in their narrow forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import recon_cli
from recon_cli import ConflictProfiler
from recon_cli.layers.discovery import discover_layers
from tests.zoo.tiny import TINY, Tiny


@pytest.fixture(params=list(TINY))
def tiny(request):
    torch.manual_seed(0)
    return TINY[request.param]


def without_batch_statistics(tiny: Tiny) -> nn.Module:
    """The network in evaluation, with running statistics that are not the initial ones."""
    model = tiny.make()
    model(tiny.images())
    return model.eval()


def test_every_task_has_an_output_of_its_channels(tiny):
    outputs = tiny.make()(tiny.images())
    pixels = () if "Male" in outputs else tiny.image
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        task: (3, channels, *pixels) for task, channels in tiny.channels.items()
    }


def test_images_may_have_any_size(tiny):
    model, image = without_batch_statistics(tiny), (tiny.image[0] + 5, tiny.image[1] + 3)
    for output in model(torch.randn(2, 3, *image)).values():
        assert output.shape[2:] in ((), image)
        assert output.isfinite().all()


@pytest.mark.parametrize("name", ["mtan", "mobilenet_v2"])
def test_normals_alone_have_length_one(name):
    tiny = TINY[name]
    outputs = tiny.make()(tiny.images())
    torch.testing.assert_close(outputs["normals"].norm(dim=1), torch.ones(3, *tiny.image))
    assert outputs["segmentation"].norm(dim=1).std() > 0.01


@pytest.mark.parametrize("way", ["script", "trace", "export"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_and_exported_programs_compute_the_same(tiny, way):
    model, x = without_batch_statistics(tiny), tiny.images()
    program = {
        "script": torch.jit.script,
        "trace": lambda model: torch.jit.trace(model, x, strict=False),
        "export": lambda model: torch.export.export(model, (x,)).module(),
    }[way](model)
    found, expected = program(x), model(x)
    assert {task: torch.equal(found[task], output) for task, output in expected.items()} == dict.fromkeys(
        tiny.channels, True
    )


def test_the_shared_layers_are_those_without_a_tasks_name(tiny):
    model = tiny.make()
    profiler = ConflictProfiler(model, list(tiny.channels), steps=1)
    profiler.backward(tiny.losses(model(tiny.images())))
    assert [layer.name for layer in profiler.scores().layers] == [
        layer.name for layer in discover_layers(model) if not set(layer.name.split(".")) & set(tiny.channels)
    ]


@pytest.mark.parametrize("engine", ["calls", "passes", "graph"])
def test_split_layers_give_each_task_what_a_network_of_its_own_would(tiny, engine):
    model, x = without_batch_statistics(tiny), tiny.images()
    expected = model(x)
    plan = recon_cli.branching_plan(model, tiny.split, list(tiny.channels), x)
    branched = recon_cli.branch(copy.deepcopy(model), plan, engine)
    for task, output in branched(x).items():
        assert torch.equal(output, expected[task])
    with torch.no_grad():
        for name, parameter in branched.named_parameters():
            if ".tasks." in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    outputs = branched(x)
    state = branched.state_dict()
    for task in tiny.channels:
        alone = copy.deepcopy(model)
        branch = plan.layers[0].branch_of(task)
        alone.load_state_dict({key: state[plan.copies.get(key, {}).get(branch, key)] for key in model.state_dict()})
        assert not torch.equal(outputs[task], expected[task])
        torch.testing.assert_close(outputs[task], alone(x)[task])


def test_it_learns(tiny):
    model, x = tiny.make(), tiny.images()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = {task: loss.item() for task, loss in tiny.losses(model(x)).items()}
    for _ in range(15):
        optimizer.zero_grad()
        sum(tiny.losses(model(x)).values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    after = {task: loss.item() for task, loss in tiny.losses(model(x)).items()}
    assert all(after[task] < before[task] for task in before)
