"""What the tests of pickles share: random data, and inert data turned into what Python's own reader gives."""

from __future__ import annotations

import codecs
import collections

from hypothesis import strategies as st

from recon_cli.checkpoints.pickles.nodes import Call

KNOWN = {
    "_codecs.encode": codecs.encode,
    "__builtin__.bytes": bytes, "builtins.bytes": bytes,
    "__builtin__.bytearray": bytearray, "builtins.bytearray": bytearray,
    "__builtin__.set": set, "builtins.set": set,
    "__builtin__.frozenset": frozenset, "builtins.frozenset": frozenset,
    "__builtin__.complex": complex, "builtins.complex": complex,
    "collections.OrderedDict": collections.OrderedDict,
}  # fmt: skip


def made(node):
    """Inert data with the harmless calls of `KNOWN` made."""
    if isinstance(node, Call):
        result = KNOWN[node.full_name](*made(node.arguments))
        result = result if not node.items else type(result)(made(dict(node.items)))
        assert not node.elements and not node.built and not node.keywords
        return result
    if isinstance(node, dict):
        return {made(key): made(value) for key, value in node.items()}
    if isinstance(node, (list, tuple, set, frozenset)):
        return type(node)(made(part) for part in node)
    return node


def same(one, other):
    """Whether two pieces of data are equal in types, order and signs of zero as well; NaN is the same as NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return one == other


texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.booleans() | st.integers() | st.integers(-(2**3000), 2**3000) | st.floats()
keys = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary()
keys = keys | st.tuples(keys, keys)
leaves = st.none() | numbers | texts | st.binary() | st.binary().map(bytearray) | st.complex_numbers(allow_nan=False)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(collections.OrderedDict)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=20,
)
