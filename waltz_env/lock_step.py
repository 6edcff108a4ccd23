"""Computations that all processes must make together, such as a pass through a sharded model, in uneven work.

Each process plays games of its own, and needs a pass whenever its games do. Inside ``in_step`` it says so before each
pass (``Joint.turn``). The others, whatever they were about to begin, or at the end of their work, make a pass of the
same kind to keep it company, and throw the result away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

_NOTHING = 2**31
_joints: WeakValueDictionary[int, Joint] = WeakValueDictionary()
_here = threading.local()
_group: tuple[Any, Any] | None = None  # all processes, and how they tell each other what they need
_count = 0


class Joint:
    """One kind of joint computation. Every process makes the same ones, in the same order.

    Args:
        keep_company: the computation without a purpose, for the sake of the other processes.
    """

    def __init__(self, keep_company: Callable[[], object]) -> None:
        global _count
        _meet()
        _count += 1
        self._number = _count
        self._keep_company = keep_company
        _joints[self._number] = self

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until all processes begin this computation, and make it inside. Outside ``in_step`` nothing is awaited.

        Joint computations that are part of this one begin at the same time everywhere, and await nothing either.
        """
        if getattr(_here, "inside", False) and not getattr(_here, "in_turn", False):
            _join(self._number)
        before, _here.in_turn = getattr(_here, "in_turn", False), True
        try:
            yield
        finally:
            _here.in_turn = before

    def keep_company(self) -> None:
        """Make the computation because another process needs it."""
        before, _here.in_turn = getattr(_here, "in_turn", False), True
        try:
            self._keep_company()
        finally:
            _here.in_turn = before


@contextmanager
def in_step() -> Iterator[None]:
    """Inside, a process makes joint computations when it needs them; at the end it waits until nobody needs any.

    All processes enter at the same time, also one that has nothing to do. It costs nothing where there are no joint
    computations. After an error, the process does not wait for the others.
    """
    if getattr(_here, "inside", False) or not _is_met():
        yield
        return
    _here.inside = True
    try:
        yield
    finally:
        _here.inside = False
    _join(None)


def _join(needed: int | None) -> None:
    """Keep company until it is the turn of what this process needs or, if it needs nothing, until nobody does."""
    while True:
        turn = _agree(needed)
        if turn == needed:
            return
        if turn is not None:
            _joints[turn].keep_company()


def _agree(needed: int | None) -> int | None:
    """The smallest number that a process needs; None if all are done."""
    import torch
    from torch import distributed

    number = torch.tensor(_NOTHING if needed is None else needed)
    distributed.all_reduce(number, op=distributed.ReduceOp.MIN, group=_group[1] if _group else None)
    smallest = int(number)
    return None if smallest == _NOTHING else smallest


def _meet() -> None:
    """Make a group for the numbers: on the CPU, since what a GPU has in its queue must not delay them."""
    from torch import distributed

    global _group
    if not _is_met():
        _group = (distributed.group.WORLD, distributed.new_group(backend="gloo"))


def _is_met() -> bool:
    """Whether there is such a group of the present processes; a run before this one may have left another."""
    if _group is None:
        return False
    from torch import distributed

    return distributed.is_initialized() and _group[0] is distributed.group.WORLD
