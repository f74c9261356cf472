"""What every remote must do, as checks that need no test framework: for authors of plug-ins.

    import pytest
    from ckstore.testing.remote_contract import remote_contract

    @pytest.mark.parametrize("check", remote_contract(), ids=str)
    def test_contract(check, tmp_path):
        check(lambda: MyRemote(tmp_path))

`make` returns another client of one and the same place at each call; the place is empty when a check begins. A check
closes its clients and raises `Broken` where the remote does not do what `ckstore.remote.interface` asks for.
"""

from __future__ import annotations

from ckstore.testing.remote_check import Broken, Check
from ckstore.testing.remote_objects import OBJECTS
from ckstore.testing.remote_roots import ROOTS

__all__ = ["Broken", "Check", "remote_contract"]


def remote_contract() -> tuple[Check, ...]:
    """All checks. Each takes seconds at most on a local server."""
    return tuple(Check(body.__name__.removeprefix("_"), body) for body in (*OBJECTS, *ROOTS))
