"""All of a run's state as a dictionary of components, and back into the live objects, checked before any is touched."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from ckstore.errors import InvalidInput
from ckstore.train.environment import differences
from ckstore.train.flags import capture_flags, restore_flags
from ckstore.train.gradients import capture_gradients, restore_gradients
from ckstore.train.parts import RESERVED
from ckstore.train.resume import changed
from ckstore.train.rng import capture_rng, restore_rng
from ckstore.train.warned import warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckstore.train.feed import Feed
    from ckstore.train.parts import Parts
    from ckstore.train.resume import Found


@dataclasses.dataclass
class Counters:
    """How far a run is: steps done, whole epochs done, and the best values committed, by `metric:mode`."""

    step: int = 0
    epoch: int = 0
    best: dict[str, float] = dataclasses.field(default_factory=dict)


class Capture:
    """Captures and restores a run's parts, its places in data, and all that belongs to neither."""

    def __init__(self, parts: Parts, feed: Feed, config: object, environment: dict[str, Any]) -> None:
        self.parts = parts
        self.feed = feed
        self._config = plain_config(config)
        self._environment = environment

    def state(
        self,
        counters: Counters,
        *,
        unfinished: bool = False,
        rng: dict[str, Any] | None = None,
        flags: dict[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The state by component. `unfinished`: the batch handed out last is to come again.

        `rng` and `flags` are used in place of those of now. Raises `InvalidInput` where `extra` names one that
        is there.
        """
        state = dict(self.parts.parts)
        for name, value in (extra or {}).items():
            if name in state or name in RESERVED:
                raise InvalidInput(f"extra={name!r}: the run has a component of that name", hint="choose another name")
            state[name] = value
        if self._config is not None:
            state["config"] = self._config
        if self.feed:
            state["data"] = self.feed.state(unfinished=unfinished)
        state["environment"] = self._environment
        state |= self._besides(counters, flags)
        before = self.feed.rng_before() if unfinished and rng is None else None
        state["rng"] = rng or before or capture_rng()
        return state

    def watched(self, counters: Counters) -> dict[str, Any]:
        """The state by component, without what stays as it is and the places in data. Changes nothing of them."""
        return {**self.parts.parts, **self._besides(counters), "rng": capture_rng()}

    def _besides(self, counters: Counters, flags: dict[str, Any] | None = None) -> dict[str, Any]:
        """What belongs to no part: gradients that wait, how far the run is, flags."""
        waiting, spent = capture_gradients(self.parts)
        run = {
            "step": counters.step,
            "epoch": counters.epoch,
            "best": dict(counters.best),
            "flags": capture_flags(self.parts.modules) if flags is None else flags,
            "spent": spent,
        }
        return {"gradients": waiting, "run": run} if waiting else {"run": run}

    def wanted(self) -> list[str]:
        """The components to read from a commit."""
        return [*self.parts.parts, *RESERVED]

    def restore(self, found: Found, *, strict: bool) -> tuple[Counters, dict[str, Any]]:
        """Put everything back, the random generators last; how far the run is, and what there is to report.

        Raises `InvalidInput` where something does not fit, before anything is touched; with `strict=False` what
        fits is loaded, and the rest reported.
        """
        states = found.states
        names = [entry.name for entry in found.commit.components]
        lacking = self.parts.lacking(names, strict=strict)
        report = self.parts.fit(states, strict=strict)
        run = states.get("run", {})
        if "rng" not in states:
            what = f"{found.id.hex()[:12]} was not committed by a run: random generators go on from where they are"
            warn(what)
        self.parts.put(states, strict=strict)
        restore_flags(self.parts.modules, run.get("flags", {}))
        restore_gradients(self.parts, states.get("gradients", {}), run.get("spent", {}))
        self.feed.restore(states.get("data", {}), strict=strict)
        if "rng" in states:
            restore_rng(states["rng"])
        told = {
            "missing": (*lacking, *report.missing),
            "unexpected": report.unexpected,
            "differences": tuple(differences(states.get("environment", {}), self._environment)),
            "config": tuple(changed(states.get("config"), self._config)) if "config" in states else (),
        }
        step = run.get("step", found.commit.step or 0)
        return Counters(step, run.get("epoch", found.commit.epoch or 0), dict(run.get("best", {}))), told


def plain_config(config: object) -> Any:
    """A configuration as plain values: a mapping, a dataclass or a namespace of argparse.

    Raises `InvalidInput` for anything else.
    """
    if config is None or isinstance(config, (dict, list, tuple, str, int, float)):
        return config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    if isinstance(config, argparse.Namespace):
        return dict(vars(config))
    raise InvalidInput(
        f"config is a {type(config).__qualname__}", hint="give a dictionary, a dataclass or argparse's namespace"
    )
