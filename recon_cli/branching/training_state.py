"""What lies beside the weights in a training checkpoint, branched along where it mirrors the parameters.

A moving average of the weights, or an optimizer's moments, follow the tensors that they belong to: each copy of a split
tensor gets a copy of them. All else stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon_cli.artifacts.manifest import CarriedEntry
from recon_cli.branching.order import in_module_order
from recon_cli.branching.plan import BranchingPlan
from recon_cli.checkpoints.pickles.nodes import Call, Path, items_of, path_text
from recon_cli.checkpoints.prefixes import wrapper_prefix
from recon_cli.checkpoints.tensors import TensorInfo
from recon_cli.checkpoints.torch_files.tensor_nodes import NotPlainError, TensorView, as_view, is_tensor
from recon_cli.checkpoints.torch_files.weights import beside, follow
from recon_cli.checkpoints.torch_files.writer import SourceStorages
from recon_cli.errors import quoted
from recon_cli.layers.names import TOKEN, layer_of

_MAX_DEPTH = 50


class TreeBranching:
    """The content of a torch file with its weights branched, and what belongs to them branched along.

    :param plan: in the names of the bare module.
    :param prefix: what all names of the weights begin with in the file.
    :param tensors: the weights, by the names of the bare module.
    :param parameters: the names of those that an optimizer may know, in the module's order.
    :param storages: where the storages of the copies are put down.
    """

    def __init__(
        self,
        plan: BranchingPlan,
        prefix: str,
        tensors: Mapping[str, TensorInfo],
        parameters: Sequence[str],
        storages: SourceStorages,
    ) -> None:
        self._plan = plan
        self._prefix = prefix
        self._tensors = tensors
        self._parameters = list(parameters)
        self._storages = storages
        self._order = in_module_order(plan)
        self._branch_of = {name: branch for copies in plan.copies.values() for branch, name in copies.items()}
        self._done: dict[int, object] = {}
        self._reasons: dict[Path, str] = {}

    def branched(self, root: object, weights: Path) -> tuple[object, list[CarriedEntry]]:
        """The new tree, and what became of each entry beside the weights.

        :param weights: the way to the weights.
        """
        new = self._node(root, ())
        entries = []
        for path in beside(root, weights):
            reasons = [reason for place, reason in self._reasons.items() if place[: len(path)] == path]
            entries.append(
                CarriedEntry(
                    path=path_text(path),
                    treatment="kept" if follow(new, path) is follow(root, path) else "branched",
                    reason=reasons[0] if reasons else None,
                )
            )
        return new, entries

    def _node(self, node: object, path: Path) -> object:
        """A node of the new tree; one that does not change is the old one."""
        if is_tensor(node) or not isinstance(node, (dict, list, tuple, Call)) or len(path) > _MAX_DEPTH:
            return node
        if id(node) not in self._done:
            self._done[id(node)] = self._container(node, path)
        return self._done[id(node)]

    def _container(self, node: object, path: Path) -> object:
        items = items_of(node)
        if items is None:
            return self._sequence(node, path) if isinstance(node, (list, tuple)) else node
        content = dict(items)
        groups = content.get("param_groups")
        if isinstance(groups, list) and items_of(content.get("state")) is not None:
            return self._optimizer(node, groups, path)
        prefix = self._prefix_of(content)
        if prefix is not None:
            return self._mirror(node, items, prefix)
        new = [(key, self._node(value, (*path, key))) for key, value in items]
        return node if all(a is b for (_, a), (_, b) in zip(items, new, strict=True)) else with_items(node, new)

    def _sequence(self, node: list[object] | tuple[object, ...], path: Path) -> object:
        if self._mirrors_parameters(node):
            return [self._copy(node[self._parameters.index(key)], name) for name, key in self._parameter_order()]
        new = [self._node(value, (*path, at)) for at, value in enumerate(node)]
        if all(a is b for a, b in zip(node, new, strict=True)):
            return node
        return new if isinstance(node, list) else tuple(new)

    # Moving averages and other mappings by the parameters' names

    def _prefix_of(self, content: Mapping[object, object]) -> str | None:
        """What the names of a mapping begin with before those of the weights; None if it does not mirror them."""
        names = [key for key in content if isinstance(key, str)]
        best: tuple[int, str] | None = None
        for prefix in dict.fromkeys((self._prefix, "", wrapper_prefix(names), "module.", "_orig_mod.")):
            matches = sum(self._matches(name, content[name], prefix) for name in names)
            if matches and (best is None or matches > best[0]):
                best = (matches, prefix)
        return None if best is None else best[1]

    def _matches(self, name: str, value: object, prefix: str) -> bool:
        tensor = self._tensors.get(name[len(prefix) :]) if name.startswith(prefix) else None
        if tensor is None:
            return False
        if is_tensor(value):
            view = _view(value)
            return view is not None and view.shape == tensor.shape
        return any(is_tensor(inner) for _, inner in items_of(value) or [])

    def _mirror(self, node: object, items: Sequence[tuple[object, object]], prefix: str) -> object:
        content = dict(items)
        matching = {
            name[len(prefix) :]: value
            for name, value in content.items()
            if isinstance(name, str) and self._matches(name, value, prefix)
        }
        new: list[tuple[object, object]] = []
        placed = False
        for name, value in items:
            if not isinstance(name, str) or name[len(prefix) :] not in matching or not name.startswith(prefix):
                new.append((name, value))
            elif not placed:
                placed = True
                new += [
                    (prefix + place, self._copy(matching[key], place)) for place, key in self._order if key in matching
                ]
        if not any(key in self._plan.copies for key in matching):
            return node
        return self._with_versions(with_items(node, new), prefix)

    def _with_versions(self, node: object, prefix: str) -> object:
        """A state dict also says which version of its module each layer was saved from."""
        if not isinstance(node, Call) or not isinstance(node.state, dict):
            return node
        versions = items_of(node.state.get("_metadata"))
        if versions is None:
            return node
        known = dict(versions)
        for key, copies in self._plan.copies.items():
            layer = prefix + layer_of(key)
            for branch, name in copies.items():
                copy_of_layer = f"{layer}.{TOKEN}.{branch}"
                if layer in known and f"{prefix}{name}".startswith(f"{copy_of_layer}."):
                    known[copy_of_layer] = known[layer]
        node.state = {**node.state, "_metadata": with_items(node.state["_metadata"], list(known.items()))}
        return node

    # Lists in the order of the parameters

    def _mirrors_parameters(self, node: Sequence[object]) -> bool:
        if len(node) != len(self._parameters) or not node or not all(is_tensor(value) for value in node):
            return False
        views = [_view(value) for value in node]
        return all(
            view is not None and view.shape == self._tensors[key].shape
            for view, key in zip(views, self._parameters, strict=True)
        )

    def _parameter_order(self) -> list[tuple[str, str]]:
        known = set(self._parameters)
        return [(name, key) for name, key in self._order if key in known]

    # Optimizers

    def _optimizer(self, node: object, old_groups: Sequence[object], path: Path) -> object:
        content = dict(items_of(node) or [])
        state = dict(items_of(content["state"]) or [])
        groups = [dict(items_of(group) or []) for group in old_groups]
        try:
            keys = self._keys_of(groups, state)
        except _UnknownOrderError as problem:
            self._reasons[path] = str(problem)
            return node
        if not any(key in self._plan.copies for key in keys.values()):
            return node
        new_state: list[tuple[object, object]] = []
        new_groups: list[object] = []
        count = 0
        for group, old in zip(groups, old_groups, strict=True):
            ids: list[object] = []
            names: list[object] = []
            own = group["params"]
            assert isinstance(own, list)
            for name, identity in self._in_order(own, keys):
                new_id = self._prefix + name if isinstance(identity, str) else count
                count += 1
                ids.append(new_id)
                names.append(self._prefix + name)
                if identity in state:
                    new_state.append((new_id, self._copy(state[identity], name)))
            changed: dict[object, object] = {
                **group,
                "params": ids,
                **({"param_names": names} if "param_names" in group else {}),
            }
            new_groups.append(with_items(old, list(changed.items())))
        new = {**content, "state": with_items(content["state"], new_state), "param_groups": new_groups}
        return with_items(node, list(new.items()))

    def _keys_of(self, groups: Sequence[Mapping[object, object]], state: Mapping[object, object]) -> dict[object, str]:
        """Which of the weights each of an optimizer's parameters is.

        :raises _UnknownOrderError: saying why that is not known.
        """
        lists = [ids for group in groups if isinstance(ids := group.get("params"), list)]
        if len(lists) < len(groups):
            raise _UnknownOrderError("its groups list no parameters")
        ids = [identity for found in lists for identity in found]
        if not all(isinstance(identity, (int, str)) for identity in ids) or len(set(ids)) < len(ids):
            raise _UnknownOrderError("its groups list parameters twice, or in a form that is not known")
        if set(state) - set(ids):
            raise _UnknownOrderError("it has a state for parameters that its groups do not list")
        named = [name for group in groups if isinstance(own := group.get("param_names"), list) for name in own]
        if len(named) == len(ids):
            names = [str(name) for name in named]
        elif all(isinstance(identity, str) for identity in ids):
            names = [str(identity) for identity in ids]
        elif len(ids) == len(self._parameters):
            names = self._parameters
        else:
            raise _UnknownOrderError(
                f"it has {len(ids)} parameters without names, and the weights {len(self._parameters)}"
            )
        prefix = wrapper_prefix(names)
        bare = [name if name in self._tensors else name[len(prefix) :] for name in names]
        for name, identity in zip(bare, ids, strict=True):
            self._check_fits(name, state.get(identity))
        return dict(zip(ids, bare, strict=True))

    def _check_fits(self, name: str, state: object) -> None:
        if name not in self._tensors:
            raise _UnknownOrderError(f"the weights have no {quoted(name)}")
        shape = self._tensors[name].shape
        for _, value in items_of(state) or []:
            view = _view(value) if is_tensor(value) else None
            if view and len(view.shape) == len(shape) and not _fits_into(view.shape, shape):
                raise _UnknownOrderError("its moments have other shapes than the weights in their order")

    def _in_order(self, ids: Sequence[object], keys: Mapping[object, str]) -> list[tuple[str, object]]:
        """The new parameters of a group, each with the old one that it comes from."""
        old = [(keys[identity], identity) for identity in ids]
        identities = dict(old)
        position = {key: at for at, key in enumerate(self._plan.places)}
        if [position[key] for key, _ in old] == sorted(position[key] for key, _ in old):
            return [(name, identities[key]) for name, key in self._order if key in identities]
        return [(name, identity) for key, identity in old for name in self._plan.places[key]]

    # Copies

    def _copy(self, node: object, name: str) -> object:
        """What belongs to a tensor, for the tensor that is called `name`; what is not split keeps its own."""
        branch = self._branch_of.get(name)
        return node if branch is None else self._copied(node, branch, 0)

    def _copied(self, node: object, branch: str, depth: int) -> object:
        if depth > _MAX_DEPTH:
            return node
        if is_tensor(node):
            view = _view(node)
            return node if view is None else self._copied_tensor(node, view, branch)
        items = items_of(node)
        if items is not None:
            return with_items(node, [(key, self._copied(value, branch, depth + 1)) for key, value in items])
        if isinstance(node, (list, tuple)):
            new = [self._copied(value, branch, depth + 1) for value in node]
            return new if isinstance(node, list) else tuple(new)
        return node

    def _copied_tensor(self, node: object, view: TensorView, branch: str) -> object:
        """The same tensor on a storage of its own; what is tied is tied in each branch."""
        return self._storages.copied(node, view, (*view.identity, branch))


class _UnknownOrderError(Exception):
    """An optimizer does not say which of its moments belong to which weights; the message says why."""


def with_items(node: object, items: Sequence[tuple[object, object]]) -> object:
    """A mapping of the same kind with other content."""
    if isinstance(node, dict):
        return dict(items)
    assert isinstance(node, Call)
    new = Call(node.function, node.arguments if node.full_name == "collections.defaultdict" else (), node.kind)
    new.update(items)
    new.built, new.state = node.built, node.state
    return new


def _fits_into(moments: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether moments belong to a tensor of a shape; some optimizers keep only means over some dimensions."""
    return all(own in (1, size) for own, size in zip(moments, shape, strict=True))


def _view(node: object) -> TensorView | None:
    try:
        return as_view(node)
    except NotPlainError:
        return None
