"""How far streams part, on data flows written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.branching.streams import count_flops, statistics_apart

TASKS = ("a", "b", "c")
EVERY = (0, 1, 2)


def operation(
    flops: int,
    inputs: Sequence[int],
    reads: Sequence[str] = (),
    moves: Sequence[str] = (),
    tasks: Sequence[int] = EVERY,
) -> Operation:
    return Operation(flops=flops, inputs=tuple(inputs), reads=tuple(reads), moves=tuple(moves), tasks=tuple(tasks))


def flow(*operations: Operation) -> Dataflow:
    return Dataflow(tasks=TASKS, operations=operations)


def layer(name: str, *groups: str) -> SplitLayer:
    branches = tuple(Branch(id=group, tasks=tuple(group)) for group in groups or ("a", "b", "c"))
    return SplitLayer(name=name, branches=branches)


BLOCK = flow(
    operation(10, [], ["first.weight"]),
    operation(0, [0], ["norm.weight", "norm.running_mean"], ["norm.running_mean"]),
    operation(100, [1], ["second.weight"]),
    operation(1000, [0], ["side.weight"]),
    operation(1, [2, 3], ["head_a.weight"], tasks=[0]),
    operation(2, [2, 3], ["head_b.weight"], tasks=[1]),
    operation(3, [2, 3], ["head_c.weight"], tasks=[2]),
)


def test_an_operation_runs_once_for_every_stream_that_it_is_part_of() -> None:
    assert count_flops(BLOCK, []) == 1116
    assert count_flops(BLOCK, [layer("first")]) == 3 * 1110 + 6
    assert count_flops(BLOCK, [layer("norm")]) == 10 + 3 * 100 + 1000 + 6
    assert count_flops(BLOCK, [layer("side")]) == 10 + 100 + 3 * 1000 + 6
    assert count_flops(BLOCK, [layer("head_a")]) == 1116


def test_partitions_of_several_layers_refine_each_other() -> None:
    assert count_flops(BLOCK, [layer("first", "ab", "c")]) == 2 * 1110 + 6
    assert count_flops(BLOCK, [layer("first", "ab", "c"), layer("second", "a", "bc")]) == 20 + 2000 + 300 + 6


def test_statistics_that_several_streams_move_are_found() -> None:
    assert statistics_apart(BLOCK, [layer("second")]) == {}
    assert statistics_apart(BLOCK, [layer("first")]) == {"norm": (0, 1, 2)}
    assert statistics_apart(BLOCK, [layer("first", "ac", "b")]) == {"norm": (0, 1, 0)}
    assert statistics_apart(BLOCK, [layer("first"), layer("norm")]) == {}


def test_statistics_that_are_read_before_they_are_moved_part_what_reads_them() -> None:
    centred = flow(
        operation(0, [], ["centre.mean"]),
        operation(7, [0], ["late.weight", "late.total"], ["late.total"]),
        operation(5, [], ["first.weight"]),
        operation(0, [2], ["centre.mean"], ["centre.mean"]),
    )
    assert statistics_apart(centred, [layer("first")]) == {"centre": (0, 1, 2), "late": (0, 1, 2)}


def test_a_norm_that_each_task_calls_on_features_of_its_own_keeps_its_statistics() -> None:
    calls = [
        operation(0, [0], ["norm.weight", "norm.running_mean"], ["norm.running_mean"], tasks=[task]) for task in EVERY
    ]
    assert statistics_apart(flow(operation(1, [], ["first.weight"]), *calls), [layer("first")]) == {}
