"""The passes compiled from `kernel.c`, where that was built and zstd is within its reach; else those of numpy.

The kernel calls zstd itself. It takes the functions from the package zstandard, which has them for cffi.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckstore.codec import payload as layout
from ckstore.codec.payload import Payload
from ckstore.codec.plan import Look
from ckstore.codec.room import Room
from ckstore.codec.zstd import ENTROPY
from ckstore.errors import Integrity

if TYPE_CHECKING:
    from types import ModuleType

    from ckstore.codec.passes import Passes
    from ckstore.codec.plan import Plan

_FUNCTIONS = (
    "ZSTD_createCCtx",
    "ZSTD_freeCCtx",
    "ZSTD_CCtx_setParameter",
    "ZSTD_compress2",
    "ZSTD_createDCtx",
    "ZSTD_freeDCtx",
    "ZSTD_decompressDCtx",
    "ZSTD_isError",
    "ZSTD_getFrameContentSize",
    "ZSTD_findFrameCompressedSize",
)
"""What the kernel calls, in its order."""

_PARAMETERS = [
    (101, ENTROPY.window_log),
    (102, ENTROPY.hash_log),
    (105, ENTROPY.min_match),
    (106, ENTROPY.target_length),
    (107, ENTROPY.strategy),
]
"""By their numbers in zstd.h (enum ZSTD_cParameter), which are part of its stable interface."""

_LITERALS = [*_PARAMETERS, (106, 1 << 17), (1002, 1)]
"""Steps so wide that repeats are not found, and literals compressed all the same (ZSTD_c_literalCompressionMode).

The last is no stable part of the interface: where zstd does not take it, repeats are looked for.
"""

_WRONG = (
    "",
    layout.CUT_SHORT,
    layout.UNKNOWN_HEADER,
    layout.UNKNOWN_MODE,
    layout.TOO_MANY,
    layout.OTHER_LENGTH,
    layout.OTHER_KIND,
    layout.DAMAGED,
    layout.UNEVEN,
)
"""What `decode` of the kernel answers, by its number."""


def _kernel() -> ModuleType | None:
    try:
        from zstandard._cffi import ffi, lib

        from ckstore.codec import _kernel

        addresses = [int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in _FUNCTIONS]
    except (ImportError, AttributeError):
        return None
    _kernel.library(addresses)
    return _kernel


KERNEL: ModuleType | None = _kernel()
"""What was compiled; None where it was not, or where it does not find zstd."""


class CompiledPasses:
    """`Passes` by `kernel`: one call does all of it, and other threads run meanwhile."""

    def __init__(self, width: int, kernel: ModuleType) -> None:
        self.width = width
        self._kernel = kernel
        try:
            self._context = kernel.context(_PARAMETERS, _LITERALS)
        except ValueError:
            self._context = kernel.context(_PARAMETERS, _PARAMETERS)
        self._payload = Room()

    def copy(self, source: memoryview, target: memoryview) -> None:
        """See `Passes`."""
        self._kernel.copy(source, target)

    def same(self, one: memoryview, other: memoryview) -> bool:
        """See `Passes`."""
        same: bool = self._kernel.same(one, other)
        return same

    def survey(self, raw: memoryview, base: memoryview | None, step: int, *, rotate: bool) -> list[Look]:
        """See `Passes`."""
        return [Look(*look) for look in self._kernel.survey(raw, base, self.width, step, rotate)]

    def encode(self, raw: memoryview, base: memoryview | None, plan: Plan) -> Payload:
        """See `Passes`."""
        rotate, halved, worth, ways = plan
        room = self._payload.take(raw.nbytes + raw.nbytes // 128 + 1024)
        found = self._kernel.encode(self._context, raw, base, self.width, rotate, halved, ways, worth, room)
        if found is None:
            raise Integrity(layout.BROKEN)
        length, busy = found
        return Payload((room[:length],), length, busy)

    def decode(self, payload: memoryview, target: memoryview, *, difference: bool) -> None:
        """See `Passes`."""
        wrong = self._kernel.decode(self._context, payload, target, self.width, difference)
        if wrong:
            raise Integrity(_WRONG[wrong])


def passes_of(width: int) -> Passes:
    """The best passes that there are here for elements of that width."""
    if KERNEL is not None:
        return CompiledPasses(width, KERNEL)
    from ckstore.codec.numpy_passes import NumpyPasses

    return NumpyPasses(width)
