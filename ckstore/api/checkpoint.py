"""One commit as people read it: its state, whole or in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckstore.checkpoint.state import LoadOptions, load, opened
from ckstore.graph.history import describe
from ckstore.porcelain.load import load_into

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckstore.checkpoint.state import Elsewhere
    from ckstore.graph.history import CommitInfo
    from ckstore.objects.commit import Commit
    from ckstore.repository import Repository
    from ckstore.torch.load_into import LoadReport


class Checkpoint:
    """One commit, unread: `load()` brings its state, indexing reads single components, tensors, slices.

    What is not here is read `elsewhere`, if that is given: see `Repo.reading_from`.
    """

    def __init__(self, repository: Repository, id: bytes, commit: Commit, elsewhere: Elsewhere | None = None) -> None:
        self._repository = repository
        self._commit = commit
        self._elsewhere = elsewhere
        self.id = id.hex()

    @property
    def info(self) -> CommitInfo:
        """Step, epoch, metrics, message and the rest."""
        return describe(bytes.fromhex(self.id), self._commit)

    def load(
        self,
        only: str | Sequence[str] | None = None,
        *,
        into: Mapping[str, object] | None = None,
        strict: bool = True,
        allow_pickle: bool = False,
    ) -> Any:
        """The state as it was committed, every byte hashed, in new CPU tensors.

        `only` selects by dotted path (`model.*`). `into={"model": model, "optimizer": opt}` loads into live objects
        instead, all checked before any is touched, and returns a LoadReport; missing and unexpected keys raise
        `InvalidInput` unless `strict=False`, which reports them.
        """
        options = LoadOptions([only] if isinstance(only, str) else only, allow_pickle)
        if into is not None:
            report: LoadReport = load_into(
                self._repository, self._commit, into, options, strict=strict, elsewhere=self._elsewhere
            )
            return report
        return load(self._repository, self._commit, options, self._elsewhere)

    def __getitem__(self, component: str) -> Any:
        """A component, unread: index it further, down to `["model"]["layer.weight"][0:10]`."""
        from ckstore.torch.lazy import lazy

        return lazy(*opened(self._repository, self._commit, component, self._elsewhere))

    def keys(self) -> list[str]:
        """Names of the components."""
        return [entry.name for entry in self._commit.components]

    def __repr__(self) -> str:
        return f"<ckstore.Checkpoint {self.id[:12]}: {', '.join(self.keys())}>"
