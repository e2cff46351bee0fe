"""How tasks share in a branching that is drawn at random: exact expectations, and what a branching comes to.

A branching is drawn by a table of probabilities for each of M modules, each with C copies. It is drawn in one of two
ways. By task: every task draws, independently, a copy of each module, [M, T, C]; two tasks share a module if they have
drawn the same copies of it and of all before it. By parent: every copy draws, independently, whose result it reads
among the copies of the module before it, and every task among those of the last module; the rows of a module's table
are its readers, [M, T or C, C], and two tasks share a module if their ways meet there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def copies_by_task(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """The expected numbers of copies that are used, [M], where every task draws a copy of each module.

    A partition has as many groups as sum_S (-1)^(|S| + 1) says, over all sets S of tasks that are in one group. All of
    S are so at module l with the probability prod_(l' <= l) sum_c prod_(t in S) p_(l',t,c).
    """
    table = torch.stack([*tables])
    products = table.new_ones(len(table), 1, table.shape[-1])
    signs = -table.new_ones(1)
    for task in table.unbind(1):
        products = torch.cat([products, products * task.unsqueeze(1)], dim=1)
        signs = torch.cat([signs, -signs])
    # The empty set is none of them.
    return (products.sum(2).cumprod(0) * signs)[:, 1:].sum(1)


def together_by_task(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """The probabilities that two tasks share a module, [M, T, T], where every task draws a copy of each."""
    table = torch.stack([*tables])
    same = torch.eye(table.shape[1], dtype=torch.bool, device=table.device)
    return (table @ table.mT).masked_fill(same, 1.0).cumprod(0)


def copies_by_parent(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """The expected numbers of copies that are used, [M], where every reader draws one of the copies before it.

    From the last module backwards, by the probability of every set of copies that may be in use: if A are the readers
    in use, all of them read copies in B with the probability prod_(j in A) sum_(i in B) p_(j,i).
    """
    # Sets are numbers: the bit i says whether i is in the set.
    in_use = tables[-1].new_zeros(2 ** len(tables[-1]))
    in_use[-1] = 1
    expected = []
    for table in reversed(tables):
        within = table.new_zeros(len(table), 1)
        for copy in table.unbind(1):
            within = torch.cat([within, within + copy.unsqueeze(1)], dim=1)
        read = table.new_ones(1, within.shape[1])
        for reader in within:
            read = torch.cat([read, read * reader], dim=0)
        # The probability that all copies in use lie in the set.
        inside = in_use @ read
        size = table.shape[1]
        others = [2**size - 1 - 2**copy for copy in range(size)]
        expected.append(size - inside[others].sum())
        in_use = inside
        for bit in range(size):
            without, having = in_use.view(-1, 2, 2**bit).unbind(1)
            in_use = torch.stack([without, having - without], dim=1).flatten()
    return torch.stack(expected[::-1])


def together_by_parent(tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """The probabilities that two tasks share a module, [M, T, T], where every reader draws a copy before it."""
    tasks = len(tables[-1])
    each = torch.eye(tasks, dtype=tables[-1].dtype, device=tables[-1].device)
    # The probabilities of where two tasks' ways lead, [T, T, readers, readers].
    joint = each.view(tasks, 1, tasks, 1) * each.view(1, tasks, 1, tasks)
    found = []
    for table in reversed(tables):
        met = joint.diagonal(dim1=2, dim2=3)
        apart = joint - torch.diag_embed(met)
        joint = torch.diag_embed(met @ table) + table.mT @ apart @ table
        found.append(joint.diagonal(dim1=2, dim2=3).sum(2))
    return torch.stack(found[::-1])


def ways_by_task(tables: Sequence[torch.Tensor]) -> list[tuple[int, ...]]:
    """For every task its most probable copies, those of all modules."""
    return list(zip(*(table.argmax(1).tolist() for table in tables), strict=True))


def ways_by_parent(tables: Sequence[torch.Tensor]) -> list[tuple[int, ...]]:
    """For every task the copies on its way, from the last module backwards by the most probable parents."""
    parents = [table.argmax(1).tolist() for table in tables]
    ways = []
    for task in range(len(tables[-1])):
        way = [task]
        for of_module in reversed(parents):
            way.append(of_module[way[-1]])
        ways.append(tuple(reversed(way[1:])))
    return ways
