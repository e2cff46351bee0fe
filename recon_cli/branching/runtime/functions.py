"""What is known of torch's functions, and of the circumstances that they are called in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

BACKWARD = frozenset({torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward})
"""Functions that go back through what computes a tensor, and free it."""

OPEN: frozenset[object] = frozenset({
    torch.Tensor.register_hook, vars(torch._C.TensorBase)["grad_fn"].__get__,
    vars(torch._C.TensorBase)["data"].__set__, torch.Tensor.numpy, torch.Tensor.__array__,
})  # fmt: skip
"""Functions behind which a tensor can be changed, or its gradient, without a call that tells of it."""


CONTROL_FLOW: frozenset[object] = frozenset({
    torch.ops.higher_order.cond, torch.ops.higher_order.while_loop, torch.ops.higher_order.map_impl,
})  # fmt: skip
"""Operations that run functions of the network's, which PyTorch traces for them."""

VALUELESS = frozenset({
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
    "element_size", "storage_offset", "type", "get_device", "__len__", "__hash__", "is_tensor",
})  # fmt: skip
"""Functions that tell something of a tensor that does not depend on its values."""


_SHAPED_BY_VALUES = (
    "nonzero", "argwhere", "unique", "masked_select", "repeat_interleave", "bincount", "one_hot", "pack_padded",
    "pad_packed",
)  # fmt: skip


def name_of(func: Callable[..., Any]) -> str:
    """What a function is called."""
    return getattr(func, "__name__", str(func))


def target_of(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The tensor that a call will write to, as far as its name tells."""
    out = kwargs.get("out")
    if isinstance(out, torch.Tensor):
        return out
    name = name_of(func)
    writes = name == "__setitem__" or (name.startswith("__i") and name.endswith("__") and len(name) > 6)
    writes = writes or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") is True
    return args[0] if writes and args and isinstance(args[0], torch.Tensor) else None


def is_shaped_by_values(func: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the shape of what a call gives depends on the values of its arguments."""
    name = name_of(func)
    if name == "__getitem__":
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return (name == "where" and len(tensors) == 1) or any(part in name for part in _SHAPED_BY_VALUES)


def writes_silently(func: Callable[..., Any]) -> bool:
    """Whether a call may write into buffers without counting it, as those of batch normalisation do."""
    name = name_of(func)
    return "norm" in name or "fake_quant" in name


def is_transformed() -> bool:
    """Whether a transform such as `vmap` or `jvp` is under way: what is computed inside ends with it."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def has_hooks_on_saved_tensors() -> bool:
    """Whether something, such as checkpointing, looks at what is saved: then every pass has to save its own."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
