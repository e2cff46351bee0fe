"""What the compiler makes of checkpointed regions and of an `autograd.Function`, run as the network's code would.

It keeps both as operations on graphs of their own, meant for its usual backends. Run as they are, a region would save
buffers that it changes itself, and a function would hold what it saves until Python's garbage collector runs, and could
not be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import checkpoint


class ChosenSavingError(Exception):
    """A checkpointed region chooses what it saves."""


def run_as_written(module: GraphModule, state: Collection[Node]) -> None:
    """Let the operations of a graph that run graphs do so as the network's code would.

    :param state: the inputs of the graph that are parameters and buffers.
    :raises ChosenSavingError: if a checkpointed region chooses what it saves.
    """
    for node in module.graph.nodes:
        bodies = [source for source in node.all_input_nodes if source.op == "get_attr"]
        graphs: list[Any] = [getattr(module, str(body.target), None) for body in bodies]
        inner: Collection[Node] = ()
        if node.target is torch.ops.higher_order.tag_activation_checkpoint:
            if set(node.kwargs) - {"use_reentrant", "preserve_rng_state", "determinism_check"}:
                raise ChosenSavingError
            held = tuple(at for at, value in enumerate(node.args[1:]) if value in state)
            inputs = [each for each in graphs[0].graph.nodes if each.op == "placeholder"]
            inner = {inputs[at] for at in held}
            node.kwargs = {**node.kwargs, "held": held}
            node.target = _checkpointed
        elif node.target is torch.ops.higher_order.autograd_function_apply:
            _differentiate_again(graphs[1])
            node.target = _applied
        for graph in graphs:
            if isinstance(graph, GraphModule):
                run_as_written(graph, inner)
    module.recompile()


def _checkpointed(body: GraphModule, *args: Any, held: Collection[int], use_reentrant: bool = False, **_: Any) -> Any:
    """Run a checkpointed region.

    :param held: the positions of parameters and buffers, which the network's code reads and does not hand over.
    """
    state = {at: args[at] for at in held}
    given = [value for at, value in enumerate(args) if at not in state]
    count = len(args)

    def run(*given: Any) -> Any:
        rest = iter(given)
        return body(*(state[at] if at in state else next(rest) for at in range(count)))

    return checkpoint(run, *given, use_reentrant=use_reentrant, preserve_rng_state=True)


def _differentiate_again(backward: GraphModule) -> None:
    """Leave it to the backward pass whether it is differentiated itself; the compiler has it switched off."""
    toggles = [node for node in backward.graph.nodes if node.target is torch._C._set_grad_enabled]
    if toggles and toggles[0].args == (False,) and toggles[-1].args == (True,):
        for node in (toggles[0], toggles[-1]):
            backward.graph.erase_node(node)


def _applied(forward: GraphModule, backward: GraphModule, *args: Any, **marks: Any) -> Any:
    return _Applied.apply(forward, backward, marks, *args)  # type: ignore[no-untyped-call]  # torch has no type for it


class _Applied(torch.autograd.Function):
    """A function given by the graphs of its two passes.

    The forward graph returns the outputs and what is saved; the backward graph takes the gradients and that.
    """

    @staticmethod
    def forward(ctx: Any, forward: GraphModule, backward: GraphModule, marks: dict[str, Any], *args: Any) -> Any:
        outputs, saved = forward(*args)
        through_autograd = set(marks["saved_for_backward_idx"])
        ctx.run = backward
        ctx.kept = [None if at in through_autograd else value for at, value in enumerate(saved)]
        ctx.through_autograd = sorted(through_autograd)
        ctx.save_for_backward(*(saved[at] for at in ctx.through_autograd))
        ctx.mark_dirty(*_at(outputs, marks.get("dirty_idx", ())))
        ctx.mark_non_differentiable(*_at(outputs, marks["non_differentiable_idx"]))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        saved = list(ctx.kept)
        for at, value in zip(ctx.through_autograd, ctx.saved_tensors, strict=True):
            saved[at] = value
        return None, None, None, *ctx.run(*gradients, *saved)


def _at(outputs: Sequence[Any], positions: Collection[int]) -> list[Any]:
    return [outputs[at] for at in positions]
