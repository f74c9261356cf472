"""Pickles of protocol 2 to 5 read as data, by their opcodes. Nothing is imported and nothing is called.

The machine is that of the `pickle` module: a stack, marks and a memo. A global is a GlobalRef; a call is what
`pickle_calls` makes of it, or a Call. Memory and time are proportional to the pickle's length.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckstore.errors import CkstoreError
from ckstore.files import pickle_calls
from ckstore.files.parsed import damaged
from ckstore.files.pickle_literals import LITERALS, length1, length4, length8
from ckstore.files.pickle_values import Call, KnownDeque, NotUnderstoodError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.files.pickle_limits import Limits

MAX_OPCODES = 20_000_000
"""A pickle of more is refused."""

_MAX_PROTOCOL = 5
_MAX_NAME = 1024
_STOP = ord(".")
_GLOBAL = ord("c")

_OTHER_OPCODES = frozenset(b"ILSVFTUPipgo\x82\x83\x84\x97\x98")
"""Opcodes of protocols 0 and 1, of the extension registry and of out-of-band buffers: real, but not read."""


def load(data: memoryview, limits: Limits, persistent: Callable[[object], object] = pickle_calls.persistent) -> object:
    """The value that the pickle `data` describes, as `pickle_values` says.

    `persistent` gives the value that an id stands for. Parts may be shared, and containers may contain
    themselves. Raises `Format` where the bytes are no pickle or go past `limits`, and NotUnderstoodError for
    opcodes that are not read.
    """
    with _telling_damage():
        return _Machine(data, limits, persistent).run()


def stop_of(data: memoryview, position: int) -> int:
    """Where the pickle that begins at `position` ends. Nothing is made of its values. Raises as `load` does."""
    fixed = _FIXED
    with _telling_damage():
        for _ in range(MAX_OPCODES):
            code = data[position]
            position += 1
            if code in fixed:
                position += fixed[code]
            elif code in _PREFIXED:
                length, position = _PREFIXED[code](data, position)
                position += length
            elif code == _GLOBAL:
                _, _, position = _global_names(data, position)
            elif code == _STOP:
                return position
            else:
                raise _unread_error(code, position - 1)
    raise _too_long()


@contextmanager
def _telling_damage() -> Iterator[None]:
    """What bytes that are no pickle lead to, as `Format`."""
    try:
        yield
    except (CkstoreError, NotUnderstoodError):
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise damaged("the pickle in the file is damaged", str(error)[:200]) from error


def _too_long() -> CkstoreError:
    return damaged(f"the pickle in the file has more than {MAX_OPCODES} opcodes")


class _Machine:
    """The stack machine. What is popped under the last mark is an IndexError, an unknown memo slot a KeyError."""

    __slots__ = ("_data", "_limits", "_marked", "_memo", "_persistent", "_stack")

    def __init__(self, data: memoryview, limits: Limits, persistent: Callable[[object], object]) -> None:
        self._data = data
        self._limits = limits
        self._persistent = persistent
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        data, literals, operations = self._data, LITERALS, _OPERATIONS
        position = 0
        for _ in range(MAX_OPCODES):
            code = data[position]
            position += 1
            read = literals.get(code)
            if read is not None:
                value, position = read(data, position)
                self._stack.append(value)
            elif code == _STOP:
                return self._stack.pop()
            else:
                position = operations.get(code, _unread)(self, position)
        raise _too_long()

    def protocol(self, at: int) -> int:
        if self._data[at] > _MAX_PROTOCOL:
            raise NotUnderstoodError(f"pickle protocol {self._data[at]}")
        return at + 1

    def frame(self, at: int) -> int:
        return at + 8

    def mark(self, at: int) -> int:
        self._marked.append(self._stack)
        self._stack = []
        return at

    def _pop_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def pop(self, at: int) -> int:
        # POP directly after MARK takes the mark, as in the pickle module.
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()
        return at

    def pop_mark(self, at: int) -> int:
        self._pop_mark()
        return at

    def duplicate(self, at: int) -> int:
        self._stack.append(self._stack[-1])
        return at

    def get1(self, at: int) -> int:
        self._stack.append(self._memo[self._data[at]])
        return at + 1

    def get4(self, at: int) -> int:
        slot, at = length4(self._data, at)
        self._stack.append(self._memo[slot])
        return at

    def put1(self, at: int) -> int:
        self._memo[self._data[at]] = self._stack[-1]
        return at + 1

    def put4(self, at: int) -> int:
        slot, at = length4(self._data, at)
        self._memo[slot] = self._stack[-1]
        return at

    def memoize(self, at: int) -> int:
        self._memo[len(self._memo)] = self._stack[-1]
        return at

    def append(self, at: int) -> int:
        self._extend([self._stack.pop()])
        return at

    def appends(self, at: int) -> int:
        self._extend(self._pop_mark())
        return at

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is list or type(target) is KnownDeque:
            target.extend(items)
        elif not isinstance(target, Call):
            raise TypeError("items are appended to what is no list")

    def list_(self, at: int) -> int:
        items = self._pop_mark()
        self._stack.append(items)
        return at

    def set_item(self, at: int) -> int:
        value = self._stack.pop()
        self._set_items([self._stack.pop(), value])
        return at

    def set_items(self, at: int) -> int:
        self._set_items(self._pop_mark())
        return at

    def dict_(self, at: int) -> int:
        items = self._pop_mark()
        self._stack.append({})
        self._set_items(items)
        return at

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise ValueError("a key stands without a value")
        if isinstance(target, dict):
            check = self._limits.key
            for place in range(0, len(items), 2):
                check(items[place])
                target[items[place]] = items[place + 1]
        elif not isinstance(target, Call):
            raise TypeError("items are set in what is no dict")

    def add_items(self, at: int) -> int:
        items = self._pop_mark()
        target = self._stack[-1]
        if type(target) is not set:
            raise TypeError("items are added to what is no set")
        pickle_calls.add_all(target, items, self._limits)
        return at

    def frozenset_(self, at: int) -> int:
        items = self._pop_mark()
        self._stack.append(frozenset(pickle_calls.add_all(set(), items, self._limits)))
        return at

    def tuple_(self, at: int) -> int:
        items = self._pop_mark()
        self._stack.append(tuple(items))
        return at

    def tuple1(self, at: int) -> int:
        self._stack[-1] = (self._stack[-1],)
        return at

    def tuple2(self, at: int) -> int:
        last = self._stack.pop()
        self._stack[-1] = (self._stack[-1], last)
        return at

    def tuple3(self, at: int) -> int:
        last = self._stack.pop()
        middle = self._stack.pop()
        self._stack[-1] = (self._stack[-1], middle, last)
        return at

    def global_(self, at: int) -> int:
        module, name, at = _global_names(self._data, at)
        self._stack.append(pickle_calls.global_ref(module.decode(), name.decode()))
        return at

    def stack_global(self, at: int) -> int:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a global's name is no text")
        self._stack.append(pickle_calls.global_ref(module, name))
        return at

    def reduce(self, at: int) -> int:
        args = self._stack.pop()
        if not isinstance(args, tuple):
            raise TypeError("a call's arguments are no tuple")
        self._stack[-1] = pickle_calls.call(self._stack[-1], args, self._limits)
        return at

    def new_object(self, at: int) -> int:
        args = self._stack.pop()
        if not isinstance(args, tuple):
            raise TypeError("a call's arguments are no tuple")
        self._stack[-1] = Call(self._stack[-1], args)
        return at

    def new_object_ex(self, at: int) -> int:
        keywords, args = self._stack.pop(), self._stack.pop()
        self._stack[-1] = Call(self._stack[-1], (args, keywords))
        return at

    def build(self, at: int) -> int:
        state = self._stack.pop()
        pickle_calls.build(self._stack[-1], state, self._limits)
        return at

    def persistent(self, at: int) -> int:
        self._stack[-1] = self._persistent(self._stack[-1])
        return at


def _global_names(data: memoryview, at: int) -> tuple[bytes, bytes, int]:
    """The two lines of a global at `at`, and the position after them."""
    line = bytes(data[at : at + _MAX_NAME])
    module, name, _ = line.split(b"\n", 2)
    return module, name, at + len(module) + len(name) + 2


def _unread(machine: _Machine, at: int) -> int:
    raise _unread_error(machine._data[at - 1], at - 1)


def _unread_error(code: int, at: int) -> Exception:
    if code in _OTHER_OPCODES:
        return NotUnderstoodError(f"opcode {code:#x}")
    return ValueError(f"byte {at} is no opcode: {code:#x}")


_OPERATIONS: dict[int, Callable[[_Machine, int], int]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("1"): _Machine.pop_mark,
    ord("2"): _Machine.duplicate,
    ord("h"): _Machine.get1,
    ord("j"): _Machine.get4,
    ord("q"): _Machine.put1,
    ord("r"): _Machine.put4,
    0x94: _Machine.memoize,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("l"): _Machine.list_,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("d"): _Machine.dict_,
    0x90: _Machine.add_items,
    0x91: _Machine.frozenset_,
    ord("t"): _Machine.tuple_,
    0x85: _Machine.tuple1,
    0x86: _Machine.tuple2,
    0x87: _Machine.tuple3,
    _GLOBAL: _Machine.global_,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.new_object,
    0x92: _Machine.new_object_ex,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}

_PREFIXED = (
    dict.fromkeys(b"\x8aC\x8c", length1) | dict.fromkeys(b"\x8bXB", length4) | dict.fromkeys(b"\x8d\x8e\x96", length8)
)
"""Opcodes that their argument's length follows -> how that is read."""

_FIXED = dict.fromkeys({*LITERALS, *_OPERATIONS} - {*_PREFIXED, _GLOBAL}, 0) | dict(
    zip(b"\x80\x95hjqrKMJG", (1, 8, 1, 4, 1, 4, 1, 2, 4, 8), strict=True)
)
"""Opcodes whose argument always has as many bytes -> how many."""
