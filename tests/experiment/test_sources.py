"""Networks from files measure as the modules that they were made from, and files that will not do are refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli.artifacts.digests import digest_file
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.config.loading import load_config
from recon_cli.errors import ReconError
from recon_cli.experiment.sources import Network, load_network
from recon_cli.gradients.engine import GramEngine
from recon_cli.layers.discovery import discover_layers
from recon_cli.profiling.cosines import cosines
from recon_cli.zoo import resnet18
from tests import networks
from tests.conftest import Result, read_scores
from tests.experiment.programs import WRITERS, export, quietly, script, write

CPU = torch.device("cpu")
CONSENT = "--allow-torchscript"
IMAGES = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def profile(recon, config: Path, *, consent: bool = True) -> Result:
    """Run `recon profile` in the config's folder, so that messages name files as people do."""
    return recon("profile", config.name, "-o", "s.json", *([CONSENT] if consent else []))


def opened(config, source: dict[str, str]) -> Network:
    return load_network(load_config(config(model=source)), CPU, allow_code=True)


def measured(model: nn.Module, x: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines of every layer in some steps of joint training, and which tasks reach it."""
    engine = GramEngine(model, discover_layers(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for _ in range(steps):
        with engine.watching():
            outputs = model(x).values()
        losses = [(output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs]
        grams = engine.backward(losses)
        found.append(cosines(grams.grams))
        engine.combine(torch.full((len(losses),), 1 / len(losses), dtype=torch.float64))
        optimizer.step()
    return torch.stack(found), grams.reached


PAPERS_INPUT = torch.rand(2, 1, 36, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def papers_network() -> nn.Module:
    torch.manual_seed(0)
    return resnet18().double()


@pytest.fixture(scope="module")
def papers_cosines() -> tuple[torch.Tensor, torch.Tensor]:
    return measured(papers_network(), PAPERS_INPUT, 2)


@pytest.mark.parametrize("how", WRITERS)
def test_the_papers_network_has_the_same_layers_and_cosines_whatever_it_comes_from(
    how, tmp_path, config, papers_cosines
):
    model = papers_network()
    network = opened(config, write(how, model, (PAPERS_INPUT,), tmp_path))
    assert network.warnings == ()
    layers = discover_layers(network.module)
    assert [(layer.name, layer.type) for layer in layers] == [
        (layer.name, layer.type) for layer in discover_layers(model)
    ]
    assert len([layer for layer in layers if not layer.name.startswith("heads.")]) == 41
    # TorchScript would optimise the network from its second call on.
    found, reached = measured(network.module, PAPERS_INPUT, 2)
    assert torch.equal(reached, papers_cosines[1])
    torch.testing.assert_close(found, papers_cosines[0], rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("how", WRITERS)
def test_the_command_writes_the_same_scores_whatever_the_network_comes_from(how, recon, config, checkpoint):
    target = {"target": "tests.networks:two_tasks", "checkpoint": checkpoint.name}
    recon("profile", config(model=target), "-o", "target.json").succeeds()
    torch.manual_seed(3)
    source = write(how, networks.two_tasks(), (IMAGES,), Path())
    recon("profile", config(model=source), "-o", "file.json", CONSENT).succeeds()
    target, file = (json.loads(Path(f"{name}.json").read_text()) for name in ("target", "file"))
    assert file.pop("model_digest") == digest_file(Path(*source.values()))
    assert (target.pop("model_digest"), file.pop("checkpoint_digest")) == (None, None)
    for scores in (target, file):
        scores.pop("config_digest")
    target.pop("checkpoint_digest")
    assert file == target


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (networks.Frozen, torch.rand(4, 1, 5, 5)),
        (networks.Tied, torch.randint(5, (3, 4))),
        (networks.Attention, torch.rand(2, 4, 8)),
        (networks.Recurrent, torch.rand(2, 5, 3)),
        (networks.Reused, torch.rand(5, 4)),
    ],
)
def test_layers_keep_names_aliases_and_whether_they_train(how, network, inputs, tmp_path, config):
    if (how, network) == ("scripted", networks.Reused):
        pytest.skip("TorchScript does not compile it")
    model = network()
    found = discover_layers(opened(config, write(how, model, (inputs,), tmp_path)).module)
    expected = discover_layers(model)
    assert [(x.name, x.aliases, list(x.parameters), x.trainable) for x in found] == [
        (x.name, x.aliases, list(x.parameters), x.trainable) for x in expected
    ]
    # A graph does not record the modules whose parameters were used from outside.
    types = [(x.type, y.type) for x, y in zip(found, expected, strict=True) if x.type != "Module"]
    assert all(own == other for own, other in types)
    assert len(types) >= len(found) - (how == "exported")


@pytest.mark.parametrize("how", WRITERS)
def test_tied_weights_train_as_one(how, tmp_path, config):
    model = networks.Tied().double()
    tokens = torch.randint(5, (3, 4))
    found, _ = measured(opened(config, write(how, model, (tokens,), tmp_path)).module, tokens, 3)
    expected, _ = measured(model, tokens, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("how", WRITERS)
def test_a_checkpoint_goes_into_the_network_of_a_file(how, recon, config, checkpoint):
    torch.manual_seed(4)
    source = write(how, networks.two_tasks(), (IMAGES,), Path())
    target = {"target": "tests.networks:two_tasks"}
    for name, model in (("file", source), ("target", target)):
        arguments = ["profile", config(model=model), "-o", f"{name}.json", "--checkpoint", checkpoint, CONSENT]
        recon(*arguments).succeeds()
    file, target = read_scores(Path("file.json")), read_scores(Path("target.json"))
    assert file.layers == target.layers
    assert file.checkpoint_digest == digest_file(checkpoint)
    assert file.model_digest == digest_file(Path(*source.values()))


class InEvaluation(networks.TwoTasks):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.eval()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(self.drop(x))


def test_a_scripted_network_saved_in_evaluation_mode_is_trained(tmp_path, config):
    model = networks.TwoTasks()
    network = opened(config, write("scripted", copy.deepcopy(model).eval(), (IMAGES,), tmp_path))
    assert network.warnings == ()
    network.module(IMAGES)
    model(IMAGES)
    assert torch.equal(network.module.norm.running_mean, model.norm.running_mean)


@pytest.mark.parametrize(("how", "word"), [("traced", "traced"), ("exported", "exported")])
def test_a_mode_that_is_fixed_in_evaluation_is_warned_of(how, word, recon, config):
    source = write(how, InEvaluation(), (IMAGES,), Path())
    result = profile(recon, config(model=source)).succeeds()
    assert result.err.count("warning: ") == 1
    assert "keeps 2 BatchNorm or dropout operations in evaluation mode" in result.err
    assert f"call `model.train()` before it is {word}" in result.err


def test_a_functional_program_in_evaluation_mode_trains_and_is_warned_of(tmp_path, config):
    with quietly():
        program = torch.export.export(networks.TwoTasks().eval(), (IMAGES,)).run_decompositions({})
        torch.export.save(program, tmp_path / "net.pt2")
    network = opened(config, {"exported": "net.pt2"})
    assert "keeps 1 BatchNorm or dropout operation in" in network.warnings[0]
    sum(output.sum() for output in network.module(IMAGES).values()).backward()


def test_a_functional_program_in_training_mode_is_refused(tmp_path, config):
    with quietly():
        program = torch.export.export(networks.TwoTasks(), (IMAGES,)).run_decompositions({})
        torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ReconError, match="`run_decompositions` made it functional"):
        opened(config, {"exported": "net.pt2"})


class Evil:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trace",)


def test_nothing_in_a_file_is_run_unasked(recon, config):
    export(networks.TwoTasks(), (IMAGES,), Path("good.pt2"))
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("net.pt2", "w") as bad:
        for name in good.namelist():
            # PyTorch unpickles these without any limit if it cannot do so safely.
            evil = name.endswith("sample_inputs/model.pt")
            bad.writestr(name, pickle.dumps(Evil()) if evil else good.read(name))
    result = profile(recon, config(model={"exported": "net.pt2"}), consent=False)
    result.refuses("the exported program `net.pt2` is not opened unasked", "can run code", "--allow-exported")
    script(networks.TwoTasks(), (IMAGES,), Path("net.pt"))
    result = profile(recon, config(model={"torchscript": "net.pt"}), consent=False)
    result.refuses("the TorchScript file `net.pt` is not opened unasked", "can run code", "--allow-torchscript")
    assert not Path("trace").exists()
    assert not Path("s.json").exists()


def frozen(path: Path) -> None:
    with quietly():
        torch.jit.freeze(torch.jit.script(networks.TwoTasks().eval())).save(str(path))


def truncated(path: Path) -> None:
    script(networks.TwoTasks(), (IMAGES,), path)
    path.write_bytes(path.read_bytes()[:-400])


def without(member: str):
    """A file whose archive lacks the content of a member."""

    def make(path: Path) -> None:
        (export if "json" in member else script)(networks.TwoTasks(), (IMAGES,), path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, b"" if name.endswith(member) else content)

    return make


FILES = {
    "missing": (lambda _: None, "there is no {kind} `net.bin`"),
    "folder": (lambda path: path.mkdir(), "`net.bin` is a folder"),
    "empty": (lambda path: path.touch(), "the {kind} `net.bin` is empty"),
    "text": (lambda path: path.write_text("a network"), "`net.bin` is not a"),
    "weights": (lambda path: torch.save(networks.TwoTasks().state_dict(), path), "name it under `model.checkpoint`"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({})), "name it under `model.checkpoint`"),
    "safetensors": (
        lambda path: save_state_dict(networks.TwoTasks().state_dict(), path),
        "name it under `model.checkpoint`",
    ),
    "other archive": (lambda path: zipfile.ZipFile(path, "w").writestr("a/b", "c"), "`net.bin` is not a"),
    "truncated": (truncated, "the {kind} `net.bin` is damaged"),
}


@pytest.mark.parametrize("made", FILES)
@pytest.mark.parametrize(("key", "kind"), [("torchscript", "TorchScript file"), ("exported", "exported program")])
def test_files_of_other_kinds_are_refused(made, key, kind, recon, config):
    make, words = FILES[made]
    make(Path("net.bin"))
    profile(recon, config(model={key: "net.bin"})).refuses(words.format(kind=kind))


@pytest.mark.parametrize(
    ("key", "make", "words"),
    [
        ("exported", lambda path: script(networks.TwoTasks(), (IMAGES,), path), "name it under `model.torchscript`"),
        ("torchscript", lambda path: export(networks.TwoTasks(), (IMAGES,), path), "name it under `model.exported`"),
        ("torchscript", frozen, "has no parameters"),
        ("torchscript", without("data.pkl"), "cannot be opened"),
        ("torchscript", without(".py"), "cannot be opened"),
        ("exported", without("models/model.json"), "cannot be opened"),
        ("exported", without("weights_config.json"), "cannot be opened"),
    ],
)
def test_programs_that_will_not_do_are_refused(key, make, words, recon, config):
    make(Path("net.bin"))
    profile(recon, config(model={key: "net.bin"})).refuses("`net.bin`", words)


def test_the_file_of_the_network_is_never_overwritten(recon, config):
    source = write("scripted", networks.TwoTasks(), (IMAGES,), Path())
    before = Path("net.pt").read_bytes()
    recon("profile", config(model=source), "-o", "net.pt", "--force", CONSENT).refuses("net.pt` is the input")
    assert Path("net.pt").read_bytes() == before


def test_inputs_that_a_file_does_not_take_are_told_with_the_reason(recon, config):
    data = {"target": "tests.networks:two_task_data", "batch_size": 5}
    source = write("exported", networks.TwoTasks(), (IMAGES,), Path())
    result = profile(recon, config(model=source, data=data))
    result.refuses("the model failed: AssertionError: Guard failed", "size()[0] == 8")
    source = write("scripted", InOtherShape(), (torch.rand(8, 7),), Path())
    result = profile(recon, config(model=source, data=data))
    result.refuses("the model failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied")


class InOtherShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"left": self.layer(x), "right": self.layer(x)}


def test_a_program_with_a_free_batch_size_takes_any(recon, config):
    batch = torch.export.Dim("batch")
    with quietly():
        program = torch.export.export(networks.TwoTasks(), (IMAGES,), dynamic_shapes=({0: batch},))
        torch.export.save(program, "net.pt2")
    data = {"target": "tests.networks:two_task_data", "batch_size": 5}
    profile(recon, config(model={"exported": "net.pt2"}, data=data)).succeeds()


class WithConstants(networks.Tied):
    """Makes tensors on a device that an exported program fixes."""

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = super().forward(tokens)
        return {**outputs, "kind": outputs["kind"] + torch.ones(2, device=tokens.device) + torch.tensor([1.0, 2.0])}


def test_an_exported_program_moves_to_another_device_as_a_whole(tmp_path, config):
    # `meta` is the one other device that every machine has.
    tokens = torch.randint(5, (3, 4))
    export(WithConstants(), (tokens,), tmp_path / "net.pt2")
    path = config(model={"exported": "net.pt2"})
    module = load_network(load_config(path), torch.device("meta"), allow_code=True).module
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert {output.device.type for output in module(tokens.to("meta")).values()} == {"meta"}
    assert discover_layers(module)[0].aliases == ("decode",)


def test_torchscript_is_refused_on_a_python_that_it_does_not_support(tmp_path, config, monkeypatch):
    source = write("traced", networks.TwoTasks(), (IMAGES,), tmp_path)
    path = config(model=source)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(ReconError, match=r"does not support TorchScript on Python 3\.14") as caught:
        load_network(load_config(path), CPU, allow_code=True)
    assert "exported program" in str(caught.value.hint)
