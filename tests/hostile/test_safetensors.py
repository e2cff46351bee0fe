"""Safetensors files and indices of shards that lie, as the command meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.test_safetensors import BROKEN, entry, file_of
from tests.checkpoints.test_sharded import INDEX, LIES, index
from tests.hostile.test_torch_files import NAMES

__all__ = ["index"]

PLAIN = entry(0, 4, [1], "F32")

MORE = {
    "is no list of counts": file_of({"a": entry(0, 4, [1.0], "F32")}, bytes(4)),  # type: ignore[list-item]
    "takes 1 bytes, but its shape needs 2": file_of({"a": entry(0, 1, [3], "F4")}, bytes(1)),
    "takes 2 bytes, but its shape needs 2": file_of({"a": entry(0, 2, [3], "F4")}, bytes(2)),
    "takes 3 bytes, but its shape needs 3": file_of({"a": entry(0, 3, [3], "F6_E2M3")}, bytes(3)),
    "unknown type `f32`": file_of({"a": entry(0, 4, [1], "f32")}, bytes(4)),
    "unknown type `['F32']`": file_of({"a": {**PLAIN, "dtype": ["F32"]}}, bytes(4)),
    "describes 4 bytes of tensors, but 5 follow": file_of({"a": PLAIN}, bytes(5)),
    "`b` overlaps the one before it": file_of({"a": PLAIN, "b": PLAIN}, bytes(4)),
    "`a` leaves a gap before it": file_of({"a": entry(4, 8, [1], "F32")}, bytes(8)),
    "metadata is no mapping": file_of({"__metadata__": PLAIN, "a": PLAIN}, bytes(4)),
    "NaN is not a number": file_of(b'{"a":NaN}'),
    "is too large": file_of(b'{"a":1e999}'),
    "the number 999": file_of({"a": entry(0, int("9" * 40), [1])}),
    "lacks its type, shape or offsets": file_of({"a": []}),
    "half of a surrogate pair": file_of(b'{"\\ud83d":' + json.dumps(PLAIN).encode() + b"}", bytes(4)),
    "is not valid JSON: Extra data": file_of(b'{"a":{}}{}'),
    "`k` stands twice": file_of(b'{"__metadata__":{"k":"1","k":"2"}}'),
    "does not begin with `{`": file_of(b" {}"),
}


@pytest.mark.parametrize("words", [*BROKEN, *MORE])
def test_a_file_that_is_broken_in_one_way_is_refused_for_it(refused, words):
    Path("x.safetensors").write_bytes({**BROKEN, **MORE}[words])
    refused("x.safetensors", "`x.safetensors`", words)


def test_a_file_that_is_cut_off_anywhere_is_refused(refused):
    save_file({"w": torch.arange(6.0), "b": torch.ones(2)}, "whole.safetensors")
    data = Path("whole.safetensors").read_bytes()
    for length in (0, 1, 7, 8, 9, 50, len(data) - 33, len(data) - 32, len(data) - 1):
        Path("x.safetensors").write_bytes(data[:length])
        refused("x.safetensors", "`x.safetensors`")


def test_names_of_any_kind_are_kept_as_they_are(split):
    state = {f"{name}.weight": torch.full((2,), float(at)) for at, name in enumerate(NAMES)}
    save_file({**state, "w": torch.ones(3)}, "x.safetensors")
    found = load_file(split("x.safetensors"))
    assert len(found) == len(state) + 2
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_values_that_are_no_numbers_are_kept_bit_for_bit(split):
    bits = torch.tensor([0x7F800001, 0x7FC00000, -1, -0x800000, 0x7F800000, -0x80000000], dtype=torch.int32)
    save_file({"w": bits.view(torch.float32), "b": bits.view(torch.float32).clone()}, "x.safetensors")
    found = load_file(split("x.safetensors"))
    assert len(found) == 3
    assert all(torch.equal(value.view(torch.int32), bits) for value in found.values())


@pytest.mark.parametrize(("change", "words"), LIES)
def test_an_index_that_lies_is_refused_for_it(refused, index, change, words):
    change(index)
    refused(INDEX, words, layer="a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[]", "is no index of shards"),
        ("{", "is not valid JSON"),
        ('{"weight_map": {"a.weight": "x", "a.weight": "y"}}', "`a.weight` stands twice"),
        ('{"weight_map": ' + "[" * 100_000, "nested too deeply"),
        ('{"weight_map": {"a\\ud800": "x"}}', "half of a surrogate pair"),
        ('{"weight_map": {"a": "\\u001b[31m"}}', "there is no checkpoint `\\x1b[31m`"),
    ],
)
def test_an_index_that_is_none_is_refused(refused, text, words):
    Path(INDEX).write_text(text)
    refused(INDEX, words, layer="a")
