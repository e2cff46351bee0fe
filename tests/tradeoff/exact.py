"""The best split by an exact solver: the problem as a mixed-integer program, solved by HiGHS."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


class _Program:
    def __init__(self):
        self.objective, self.upper, self.integral, self.rows = [], [], [], []

    def variable(self, objective=0.0, *, binary=True):
        self.objective.append(objective)
        self.integral.append(int(binary))
        return len(self.objective) - 1

    def at_least(self, coefficients, bound):
        self.rows.append((coefficients, bound))

    def solve(self):
        matrix = np.zeros((len(self.rows), len(self.objective)))
        for row, (coefficients, _) in enumerate(self.rows):
            for variable, factor in coefficients:
                matrix[row, variable] += factor
        bounds = [bound for _, bound in self.rows]
        found = milp(
            self.objective,
            constraints=LinearConstraint(matrix, lb=bounds),
            integrality=self.integral,
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0},
        )
        assert found.success, found.message
        return found.x


def most_removed(problem, limits):
    """The most conflict that a split can remove within limits that are finite."""
    program, tasks = _Program(), range(problem.tasks)
    pairs = list(combinations(tasks, 2))

    def parted(objective):
        """Variables that say which tasks are apart, and which are the first ones of their groups."""
        apart = {pair: program.variable(-objective[pair[0]][pair[1]]) for pair in pairs}
        for one, other, third in combinations(tasks, 3):
            a, b, c = apart[one, other], apart[other, third], apart[one, third]
            # Who is together with the same task is together.
            for x, y, z in ((a, b, c), (b, c, a), (a, c, b)):
                program.at_least([(x, 1), (y, 1), (z, -1)], 0)
        first = [program.variable(binary=False) for _ in tasks]
        for task in tasks:
            # It is the first one if it is apart from all before it.
            program.at_least([(first[task], 1), *((apart[other, task], -1) for other in range(task))], 1 - task)
        return apart, first

    none = [[0] * problem.tasks for _ in tasks]
    items = [parted(item.conflicts) for item in problem.items]
    streams = []
    for operation, read in zip(problem.flow.operations, problem.read_by, strict=True):
        stream = parted(none)
        before = [items[item][0] for item in read] + [streams[place][0] for place in operation.inputs]
        for earlier in before:
            for pair in pairs:
                program.at_least([(stream[0][pair], 1), (earlier[pair], -1)], 0)
        streams.append(stream)
    program.at_least(
        [(first, -item.size) for item, (_, firsts) in zip(problem.items, items, strict=True) for first in firsts],
        -limits.added - sum(item.size for item in problem.items),
    )
    costs, constant = [], 0
    for operation, (_, firsts) in zip(problem.flow.operations, streams, strict=True):
        if len(operation.tasks) == 1:
            constant += operation.flops
        else:
            assert len(operation.tasks) == problem.tasks
            costs += [(first, -operation.flops) for first in firsts]
    program.at_least(costs, constant - limits.operations)
    return -float(np.dot(program.objective, np.round(program.solve())))
