"""Encoders for classes ckstore does not know: the user names a class and how it becomes plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckstore.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable


class Encoder(NamedTuple):
    """`encode(obj)` gives a value ckstore keeps; `decode` makes the object of it again."""

    name: str
    cls: type
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


class Registry:
    """Encoders by class and by name."""

    def __init__(self) -> None:
        self._by_class: dict[type, Encoder] = {}
        self._by_name: dict[str, Encoder] = {}

    def add(self, encoder: Encoder) -> None:
        """Register an encoder; the same name and class again replaces it. Raises `InvalidInput` for a taken name."""
        known = self._by_name.get(encoder.name)
        if known is not None and known.cls is not encoder.cls:
            raise InvalidInput(f"the encoder name {encoder.name!r} belongs to {known.cls.__qualname__}")
        self._by_class[encoder.cls] = encoder
        self._by_name[encoder.name] = encoder

    def for_class(self, cls: type) -> Encoder | None:
        """The encoder of exactly that class."""
        return self._by_class.get(cls)

    def named(self, name: str) -> Encoder:
        """The encoder of that name. Raises `InvalidInput`."""
        try:
            return self._by_name[name]
        except KeyError:
            raise InvalidInput(
                f"the checkpoint holds an object of the encoder {name!r}, which is not registered",
                hint=f"call ckstore.register_encoder({name!r}, ...) before loading, or load without it (only=)",
            ) from None


ENCODERS = Registry()
"""What `ckstore.register_encoder` fills."""


def register_encoder(name: str, cls: type, encode: Callable[[Any], object], decode: Callable[[Any], object]) -> None:
    """Keep objects of exactly `cls`: `encode(obj)` gives plain values and tensors, `decode` makes the object again.

    `name` is stored in the checkpoint; register the same name before loading it. Raises `InvalidInput` where the
    name belongs to another class.
    """
    ENCODERS.add(Encoder(name, cls, encode, decode))
