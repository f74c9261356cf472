from typing import TypeAlias

from typing_extensions import Buffer

_Context: TypeAlias = object

def library(functions: list[int]) -> None: ...
def context(repeats: list[tuple[int, int]], literals: list[tuple[int, int]]) -> _Context: ...
def survey(
    raw: Buffer, base: Buffer | None, width: int, step: int, rotate: bool
) -> list[tuple[float, int, float, int, float, int, float]]: ...
def encode(
    context: _Context,
    raw: Buffer,
    base: Buffer | None,
    lengths: list[int],
    width: int,
    rotate: bool,
    halved: bool,
    plans: list[tuple[int, int, bool]],
    worth: float,
    payloads: Buffer,
) -> list[tuple[int, int, int]] | None: ...
def decode(context: _Context, payload: Buffer, target: Buffer, width: int, difference: bool) -> int: ...
def same(one: Buffer, other: Buffer) -> bool: ...
def copy(sources: list[memoryview], target: Buffer) -> None: ...
