"""`recon diff`: what differs between two checkpoints, against plain torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import recon_cli
from tests.checkpoints.test_writing import DTYPES, bits, states

LARGE = 1 << 62


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@settings(max_examples=60)
@given(states(), states(), st.data())
def test_what_is_found_is_what_torch_finds(tmp_path_factory, one, other, data):
    a = {key: value for key, value in one[0].items() if key != "__metadata__"}
    b = {key: value for key, value in a.items() if data.draw(st.booleans())}
    b.update((key, value) for key, value in other[0].items() if key != "__metadata__")
    if not a or not b:
        return
    for key in list(b):
        if b[key].numel() and data.draw(st.booleans()):
            changed = b[key].clone()
            raw = changed.view(-1).view(torch.uint8) if changed.is_contiguous() else None
            if raw is not None:
                raw[0] = 0 if b[key].dtype == torch.bool else data.draw(st.integers(0, 255))
                b[key] = changed
    folder = tmp_path_factory.mktemp("x")
    found = recon_cli.diff(write(a, folder / "a.safetensors"), write(b, folder / "b.pt"))
    assert set(found.only_a) == set(a) - set(b)
    assert set(found.only_b) == set(b) - set(a)
    common = set(a) & set(b)
    assert {each.key for each in found.forms} == {k for k in common if bits(a[k])[:2] != bits(b[k])[:2]}
    assert {each.key for each in found.values} == {
        k for k in common if bits(a[k])[:2] == bits(b[k])[:2] and bits(a[k]) != bits(b[k])
    }
    assert found.same == sum(bits(a[k]) == bits(b[k]) for k in common)
    assert found.equal == ({k: bits(v) for k, v in a.items()} == {k: bits(v) for k, v in b.items()})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_distance_is_that_of_float64(tmp_path, dtype):
    generator = torch.Generator().manual_seed(3)
    # More than one piece, and none of them even.
    size = 150_001
    raw = [torch.randint(0, 2, (size,), generator=generator) for _ in range(2)]
    x, y = (value.to(torch.float64).to(dtype) for value in raw)
    found = recon_cli.diff(write({"w": x}, tmp_path / "a.pt"), write({"w": y}, tmp_path / "b.pt")).values[0].distance
    wide = [value.to(torch.complex128 if dtype.is_complex else torch.float64) for value in (x, y)]
    difference = wide[0] - wide[1]
    assert found.norm_a == pytest.approx(float(wide[0].abs().norm()), rel=1e-12)
    assert found.norm_b == pytest.approx(float(wide[1].abs().norm()), rel=1e-12)
    assert found.norm == pytest.approx(float(difference.abs().norm()), rel=1e-12)
    assert found.largest == float(difference.abs().max())
    assert found.elements == int((difference != 0).sum())
    assert found.non_finite == 0


@pytest.mark.parametrize(("dtype", "x", "y"), [
    (torch.int64, LARGE, LARGE + 1), (torch.int64, -LARGE, LARGE), (torch.uint64, (1 << 64) - 1, (1 << 64) - 2),
    (torch.uint64, 0, (1 << 64) - 1), (torch.int64, -1, 0),
])  # fmt: skip
def test_whole_numbers_that_float64_does_not_hold_are_subtracted_exactly(tmp_path, dtype, x, y):
    a, b = (write({"n": torch.tensor([value], dtype=dtype)}, tmp_path / f"{value}.pt") for value in (x, y))
    assert recon_cli.diff(a, b).values[0].distance.largest == float(abs(x - y))


def compare(tmp_path: Path, x: object, y: object, dtype: torch.dtype = torch.float64):
    a, b = (write({"w": torch.as_tensor(v, dtype=dtype)}, tmp_path / f"{n}.pt") for n, v in (("a", x), ("b", y)))
    return recon_cli.diff(a, b)


def test_nan_and_infinities_are_counted_and_left_out_of_the_norms(tmp_path):
    nan, inf = math.nan, math.inf
    assert compare(tmp_path, [nan, inf, 1], [nan, inf, 1]).equal
    found = compare(tmp_path, [nan, inf, inf, nan, 3, 1], [nan, inf, -inf, 0, 7, 1]).values[0].distance
    assert (found.elements, found.non_finite) == (3, 2)
    assert (found.norm, found.largest) == (4, 4)
    assert found.norm_a == pytest.approx(math.sqrt(10))
    # Two NaNs with other bits are not the same bit for bit.
    odd = torch.tensor([0x7FF8000000000001], dtype=torch.int64).view(torch.float64)
    found = compare(tmp_path, [nan], odd).values[0].distance
    assert (found.elements, found.non_finite, found.norm) == (1, 1, 0)


def test_no_norm_overflows_or_vanishes_on_the_way(tmp_path):
    found = compare(tmp_path, [1e200, 1e200], [-1e200, 1e200]).values[0].distance
    assert found.norm_a == pytest.approx(math.sqrt(2) * 1e200)
    assert found.norm == pytest.approx(2e200)
    assert compare(tmp_path, [1e-200], [3e-200]).values[0].distance.norm == pytest.approx(2e-200)
    found = compare(tmp_path, [1.7e308], [-1.7e308]).values[0].distance
    assert (found.norm, found.largest, found.relative) == (None, None, None)


def test_the_most_different_comes_first(tmp_path):
    a = {"same": [1.0], "little": [10.0], "much": [1.0], "zero": [0.0], "broken": [1.0], "shape": [1.0]}
    b = {"same": [1.0], "little": [11.0], "much": [2.0], "zero": [1e-9], "broken": [math.nan], "shape": [1.0, 1.0]}
    first, second = (
        write({key: torch.tensor(value) for key, value in state.items()}, tmp_path / name)
        for state, name in ((a, "a.pt"), (b, "b.safetensors"))
    )
    found = recon_cli.diff(first, second)
    assert [each.key for each in found.values] == ["zero", "broken", "much", "little"]
    assert [each.key for each in found.forms] == ["shape"]
    assert found.forms[0].distance is None
    assert found.same == 1


def test_another_type_of_the_same_shape_is_measured(tmp_path):
    a = write({"w": torch.tensor([1.0, math.nan, 1 / 3])}, tmp_path / "a.pt")
    b = write({"w": torch.tensor([1.0, math.nan, 1 / 3]).bfloat16()}, tmp_path / "b.pt")
    found = recon_cli.diff(a, b)
    assert (found.same, found.values) == (0, ())
    third = torch.tensor(1 / 3)
    expected = float((third.double() - third.bfloat16().double()).abs())
    distance = found.forms[0].distance
    assert (distance.largest, distance.elements, distance.non_finite) == (expected, 1, 0)


def test_a_type_that_torch_lacks_is_compared_by_its_bits(recon):
    for name, content in (("a", b"\x12"), ("b", b"\x12"), ("c", b"\x13")):
        header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
        Path(f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content)
    recon("diff", "a.safetensors", "b.safetensors").succeeds()
    result = recon("diff", "a.safetensors", "c.safetensors")
    assert result.code == 1
    assert "F4 [2]" in result.out


def test_a_prefix_of_one_side_is_passed_over(recon):
    state = {"a.w": torch.ones(2), "b.w": torch.ones(3)}
    write(state, Path("bare.safetensors"))
    write({f"module.{key}": value for key, value in state.items()}, Path("wrapped.pt"))
    result = recon("diff", "bare.safetensors", "wrapped.pt").succeeds()
    assert result.err == "note: all names of B begin with `module.`, which is passed over\n"
    assert recon("diff", "wrapped.pt", "wrapped.pt").succeeds().err == ""
    write({f"module.{key}": value for key, value in {"a.w": torch.ones(2)}.items()}, Path("fewer.pt"))
    assert recon("diff", "wrapped.pt", "fewer.pt", "--json").document["only_a"] == ["module.b.w"]


def test_what_differs_is_shown_and_is_exit_code_1(recon):
    write({"w": torch.tensor([3.0, 4.0]), "old": torch.ones(1), "n": torch.ones(2)}, Path("a.safetensors"))
    torch.save({"model": {"w": torch.tensor([3.0, 4.5]), "new\x1b[31m": torch.ones(1), "n": torch.ones(2).half()},
                "ema": {"w": torch.tensor([3.0, 4.0])}}, "b.pt")  # fmt: skip
    result = recon("diff", "a.safetensors", "b.pt")
    assert result.code == 1
    assert "0 tensors the same" in result.out
    assert "1 tensor in A only:\n  old" in result.out
    assert "1 tensor in B only:\n  new\\x1b[31m" in result.out
    for words in ("F32 [2]", "F16 [2]", "10.00%", "5.408"):
        assert words in result.out
    document = recon("diff", "a.safetensors", "b.pt", "--json").document
    assert (document["schema"], document["equal"]) == ("recon.difference/1", False)
    quiet = recon("diff", "a.safetensors", "b.pt", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (1, "", "")
    assert recon("diff", "b.pt", "b.pt", "--key-b", "ema", "--json").document["only_b"] == []
    recon("diff", "a.safetensors", "none.pt").refuses("there is no checkpoint `none.pt`")
    recon("diff", "a.safetensors", "a.safetensors", "--key-a", "model").refuses("nothing under `model`")


def test_many_differences_are_cut_in_the_text_alone(recon):
    write({f"w{n}": torch.zeros(1) for n in range(60)}, Path("a.pt"))
    write({f"w{n}": torch.ones(1) for n in range(60)}, Path("b.pt"))
    assert "  and 10 more, which --json lists" in recon("diff", "a.pt", "b.pt").out
    assert len(recon("diff", "a.pt", "b.pt", "--json").document["values"]) == 60
