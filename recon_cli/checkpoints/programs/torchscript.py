"""The weights of a TorchScript archive, by the paths of the attributes that hold them; none of its code is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import Call, Global
from recon_cli.checkpoints.programs.exported import EXTRA_FILES
from recon_cli.checkpoints.programs.script_classes import ScriptClasses
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.content import MANIFEST, ZipContent, carried_in
from recon_cli.checkpoints.torch_files.source import stored_tensors
from recon_cli.checkpoints.torch_files.tensor_nodes import is_tensor
from recon_cli.checkpoints.torch_files.weights import StateDict, refusals
from recon_cli.errors import ReconError, listed, quoted

MAX_MODULES = 1_000_000
MAX_DEPTH = 1_000

_SCRIPT = "__torch__."
_NATIVE = "__torch__.torch.classes."
_TAGS = frozenset(
    f"torch.jit._pickle.{name}"
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")
)
# A quantised tensor that is no parameter or buffer is no obstacle.
_SCHEMES = frozenset({"torch.per_tensor_affine", "torch.per_channel_affine", "torch.per_channel_affine_float_qparams"})


class TorchScriptSource(CheckpointSource):
    """The parameters and buffers of a TorchScript archive, in the order of its `state_dict()`.

    :ivar others: the tensors that are attributes but no parameters or buffers.
    :raises ReconError: if it has none, or an object whose weights only torch itself could take out.
    """

    FORMAT = "torchscript"

    def __init__(self, path: Path) -> None:
        self._file = InputFile(path)
        try:
            content = ZipContent(self._file)
            foreign = refusals(content.root, quoted(path), _is_known)
            if foreign:
                place = ".".join(str(step) for step in foreign[0].path)
                raise ReconError(
                    f"{quoted(place)} of {quoted(path)} is {foreign[0].reason}, whose weights only torch itself can"
                    " take out, such as those of quantised layers",
                    "save the state dict of the module that it was made from",
                )
            weights, self.others = _state_dict(content, quoted(path))
            self.tensors, self.ties = stored_tensors(weights, content, quoted(path))
            self.metadata: Mapping[str, str] = carried_in(content.archive, EXTRA_FILES + MANIFEST)
        except BaseException:
            self._file.close()
            raise

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _is_known(name: Global) -> bool:
    own = name.full_name.startswith(_SCRIPT) and not name.full_name.startswith(_NATIVE)
    return own or name.full_name in _TAGS or name.full_name in _SCHEMES


def _state_dict(content: ZipContent, what: str) -> tuple[StateDict, tuple[str, ...]]:
    """The parameters and buffers, and the names of other tensors."""
    items: list[tuple[object, object]] = []
    others: list[str] = []
    classes = ScriptClasses(content.archive)
    for prefix, module, attributes in _modules(content.root, classes, what):
        found = classes.find(module)
        missing = [name for name in (*found.parameters, *(found.buffers or ())) if name not in attributes]
        if missing:
            raise ReconError(f"{what} is damaged: its module {quoted(prefix[:-1])} lacks {listed(missing)}")
        parameters = [(name, node) for name, node in attributes.items() if name in found.parameters]
        rest = [(name, node) for name, node in attributes.items() if is_tensor(node) and name not in found.parameters]
        buffers = [(name, node) for name, node in rest if found.buffers is None or name in found.buffers]
        others += [prefix + name for name, _ in rest if found.buffers is not None and name not in found.buffers]
        items += [(prefix + name, node) for name, node in [*parameters, *buffers] if is_tensor(node)]
    if not items:
        raise ReconError(
            f"{what} has no parameters and buffers: a frozen archive keeps its weights without their names",
            "take the archive that `torch.jit.freeze` was applied to, or the state dict of the module",
        )
    return StateDict((), items), tuple(others)


def _modules(root: object, classes: ScriptClasses, what: str) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every module with the prefix of its names, its class and its attributes, each before those within it."""
    count = 0
    waiting: list[tuple[str, object, tuple[int, ...]]] = [("", root, ())]
    while waiting:
        prefix, node, outer = waiting.pop()
        if id(node) in outer or len(outer) > MAX_DEPTH:
            raise ReconError(f"{what} is damaged: its module {quoted(prefix[:-1])} contains itself, or is too deep")
        count += 1
        if count > MAX_MODULES:
            raise ReconError(f"{what} has more than {MAX_MODULES} modules")
        module, attributes = _module(node, prefix, what)
        yield prefix, module, attributes
        inner = [
            (f"{prefix}{name}.", value, (*outer, id(node)))
            for name, value in attributes.items()
            if isinstance(value, Call) and _is_module(value, classes)
        ]
        waiting.extend(reversed(inner))


def _is_module(node: Call, classes: ScriptClasses) -> bool:
    name = node.full_name or ""
    return name.startswith(_SCRIPT) and node.kind == "NEWOBJ" and classes.find(name).is_module


def _module(node: object, prefix: str, what: str) -> tuple[str, dict[str, object]]:
    """A module's class and attributes."""
    name = node.full_name if isinstance(node, Call) else None
    if not isinstance(node, Call) or name is None or not name.startswith(_SCRIPT):
        raise ReconError(f"{what} is no TorchScript archive of a module")
    state = node.state
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ReconError(
            f"{quoted(prefix[:-1])} of {what} is a {quoted(name)}, which saves its state in a way of its own",
            "save the state dict of the module that it was made from",
        )
    return name, state
