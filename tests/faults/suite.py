"""What a kind of fault is: named cases, a function that does one, and the folder they share."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Case:
    """One injection, or several that cannot be told apart.

    Attributes:
        name: What is done; with the kind and the seed it names the case for ever.
        values: What `run` needs to know.
        injections: How many faults it injects.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    injections: int = 1


@dataclass
class Outcome:
    """What came of a case that held.

    Attributes:
        note: What happened, in a few words; notes that are equal are counted together.
        figures: Numbers that the report adds up.
    """

    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)


Runner = Callable[[Case], Outcome]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: As for `--only`.
        fault: What is done, for the table.
        checked: What was looked at after each.
        cases: (seed, how many are wanted or None) -> cases.
        session: (folder, seed) -> context that yields the function which does a case. It raises `Broken`.
        skip: Says why the kind cannot run on this machine; empty where it can.
    """

    name: str
    fault: str
    checked: str
    cases: Callable[[int, int | None], list[Case]]
    session: Callable[[Path, int], Any]
    skip: Callable[[], str] = lambda: ""


def draw(cases: list[Case], seed: int, count: int | None) -> list[Case]:
    """All cases, or `count` of them drawn by the seed, in their order."""
    if count is None or count >= len(cases):
        return cases
    chosen = sorted(random.Random(seed).sample(range(len(cases)), count))
    return [cases[i] for i in chosen]


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder in place of what is at `target`; whole or not there at all."""
    half = target.with_name(f"{target.name}.half")
    for old in (half, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, half)
    half.rename(target)
    return target


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Environment variables for a while; None takes one away."""
    before = {k: os.environ.get(k) for k in values}
    try:
        for key, value in values.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
