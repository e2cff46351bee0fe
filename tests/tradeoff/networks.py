"""Networks to split: their data flow, and what conflicts on them."""

from __future__ import annotations

import random
from itertools import combinations

from recon_cli.artifacts.dataflow import Dataflow, Operation
from recon_cli.tradeoff.problem import Item, Problem


def conflicts(values, tasks):
    """A matrix from the values of (0, 1), (0, 2), ..."""
    matrix = [[0] * tasks for _ in range(tasks)]
    for (one, other), value in zip(combinations(range(tasks), 2), values, strict=True):
        matrix[one][other] = matrix[other][one] = value
    return matrix


def chain(*layers, tasks=2):
    """Layers one behind the other, each (size, flops, conflicts of its pairs), and a head for each task."""
    every = tuple(range(tasks))
    operations = [
        Operation(flops=flops, inputs=(place - 1,) if place else (), reads=(f"l{place}.weight",), moves=(), tasks=every)
        for place, (_, flops, _) in enumerate(layers)
    ]
    last = (len(layers) - 1,)
    operations += [Operation(flops=1, inputs=last, reads=(f"head{t}.w",), moves=(), tasks=(t,)) for t in every]
    items = [
        Item(frozenset({f"l{place}"}), conflicts(values, tasks), size, every)
        for place, (size, _, values) in enumerate(layers)
    ]
    flow = Dataflow(tasks=tuple(f"t{t}" for t in every), operations=tuple(operations))
    return Problem(tasks, items, flow)


def drawn(seed, tasks, layers, skips=False):
    """A random network, with skip connections if they are asked for."""
    generator = random.Random(seed)
    pairs = tasks * (tasks - 1) // 2
    problem = chain(
        *(
            (generator.randint(1, 50), generator.randint(1, 50), [generator.randint(0, 20) for _ in range(pairs)])
            for _ in range(layers)
        ),
        tasks=tasks,
    )
    if not skips:
        return problem
    operations = [
        operation.model_copy(update={"inputs": tuple(sorted({*operation.inputs, generator.randrange(place)}))})
        if 1 < place < layers and generator.random() < 0.5
        else operation
        for place, operation in enumerate(problem.flow.operations)
    ]
    return Problem(tasks, problem.items, Dataflow(tasks=problem.flow.tasks, operations=tuple(operations)))
