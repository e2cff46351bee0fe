"""What is left of a data flow against all of it, on data flows drawn at random."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.branching.streams import count_flops, statistics_apart
from recon_cli.dataflow.contraction import SeenOperation, contracted
from recon_cli.dataflow.tasks import assign_tasks

TASKS = ("a", "b", "c")
LAYERS = ("p", "q", "r", "n", "m")
KEYS = tuple(f"{layer}.{name}" for layer in LAYERS for name in ("weight", "mean"))
PARTITIONS = (("a", "b", "c"), ("ab", "c"), ("ac", "b"), ("a", "bc"))

operations = st.tuples(
    st.integers(0, 3),
    st.sets(st.integers(1, 6), max_size=3),
    st.sets(st.sampled_from(KEYS), max_size=2),
    st.sampled_from([None, None, None, "n.mean", "m.mean"]),
)
flows = st.lists(operations, min_size=1, max_size=14)
splits = st.dictionaries(st.sampled_from(LAYERS), st.sampled_from(PARTITIONS), max_size=3)


def seen_operations(drawn: list) -> list[SeenOperation]:
    return [
        SeenOperation(
            flops=flops,
            inputs={at - back for back in backs if at - back >= 0},
            reads=dict.fromkeys([*reads, *([moved] if moved else [])]),
            moves=dict.fromkeys([moved] if moved else []),
        )
        for at, (flops, backs, reads, moved) in enumerate(drawn)
    ]


def in_full(seen: list[SeenOperation]) -> Dataflow:
    return Dataflow(
        tasks=TASKS,
        operations=tuple(
            Operation(
                flops=each.flops,
                inputs=tuple(each.inputs),
                reads=tuple(each.reads),
                moves=tuple(each.moves),
                tasks=tuple(task for task in range(3) if each.tasks >> task & 1),
            )
            for each in seen
        ),
    )


@given(flows, st.tuples(*[st.integers(0, 13)] * 3), splits)
def test_nothing_changes_of_what_splits_cost_and_which_statistics_part(drawn, heads, split):
    seen = seen_operations(drawn)
    assign_tasks(seen, [[min(head, len(seen) - 1)] for head in heads])
    layers = [
        SplitLayer(name=name, branches=tuple(Branch(id=group, tasks=tuple(group)) for group in groups))
        for name, groups in split.items()
    ]
    full, found = in_full(seen), contracted(TASKS, copy.deepcopy(seen))
    assert len(found.operations) <= len(seen)
    assert count_flops(found, layers) == count_flops(full, layers)
    assert statistics_apart(found, layers) == statistics_apart(full, layers)
    assert sum(each.flops for each in found.operations) == sum(each.flops for each in seen)


def test_a_layer_that_is_run_again_and_again_is_one_operation():
    steps = [SeenOperation(flops=5, inputs={0}, reads={"cell.weight": None}) for _ in range(30)]
    for at, step in enumerate(steps):
        step.inputs = {at - 1} if at else set()
    assign_tasks(steps, [[29], [29], [29]])
    (only,) = contracted(TASKS, steps).operations
    assert only == Operation(flops=150, inputs=(), reads=("cell.weight",), moves=(), tasks=(0, 1, 2))


def test_what_an_output_does_not_need_is_part_of_no_task():
    seen = [SeenOperation(flops=1, reads={"p.weight": None}), SeenOperation(flops=2, reads={"q.weight": None})]
    assign_tasks(seen, [[0], [0], [0]])
    assert [each.tasks for each in contracted(TASKS, seen).operations] == [(0, 1, 2), ()]
