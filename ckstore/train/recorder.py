"""A run's commits: asks the triggers, says what is said of each commit, and takes torn snapshots again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ckstore.checkpoint.store import CommitOptions
from ckstore.errors import CkstoreError, InvalidInput
from ckstore.train.capture import Counters
from ckstore.train.commits import Committer, Request
from ckstore.train.flags import capture_flags
from ckstore.train.pace import Pace
from ckstore.train.triggers import Moment
from ckstore.train.warned import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckstore.checkpoint.store import CommitResult
    from ckstore.repository import Repository
    from ckstore.train.capture import Capture
    from ckstore.train.metrics import Metrics
    from ckstore.train.options import RunOptions
    from ckstore.train.pusher import Pusher
    from ckstore.train.saver import Save, Torn
    from ckstore.train.standing import Standing


class _Begun(NamedTuple):
    """What was so before a commit was begun: the step committed last, the metrics that none has said, the bests."""

    step: int | None
    metrics: dict[str, float]
    memory: list[tuple[float | None, float | None]]


class Recorder:
    """Makes the commits of one run. `asked` says whether a signal wants one. For the training's thread."""

    def __init__(
        self,
        repository: Repository,
        options: RunOptions,
        capture: Capture,
        standing: Standing,
        asked: Callable[[], bool],
    ) -> None:
        self.counters = Counters()
        self.skipped = 0
        self.committed_step: int | None = None
        self._repository = repository
        self._options = options
        self._capture = capture
        self._standing = standing
        self._asked = asked
        self._begins_from: str | None = None
        self._fresh: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._begun: _Begun | None = None
        self._told: set[str] = set()
        self._pusher = _pusher(repository, options)
        self._policies = None if options.keep is None else {options.name: str(options.keep)}
        self.pace = Pace(options.every, options.keep, self._moment(), repository.config.metric_mode)

    def open(self, metrics: Metrics) -> None:
        """Begin; `metrics` are sealed by the commits."""
        self._metrics = metrics
        self.committer = Committer(self._repository, metrics, self._after, self._options.threads)

    def resumed(self, counters: Counters, id: str) -> None:
        """Go on from a commit."""
        self.counters = counters
        self._begins_from = id
        self.pace.remember(counters.best)
        self.pace.committed(self._moment())
        self.committed_step = counters.step

    def logged(self, values: Mapping[str, float]) -> None:
        """Note metrics: for the triggers, and for the next commit."""
        self._fresh |= values
        self._logged |= values

    def look(self, *, epoch_ended: bool = False, step_done: bool = True) -> Save | None:
        """Ask the triggers, and commit if one says so.

        Without `step_done` it is only asked whether what was logged after the step is better than before.
        """
        torn = self._settled()
        moment = self._moment(epoch_ended=epoch_ended, logged=self._logged)
        self._logged = {}
        due, urgent = self.pace.due(moment) if step_done else (self.pace.improved(moment), True)
        if torn is not None:
            return self._again(torn)
        if not due:
            return None
        if self.committer.busy:
            if not urgent and self._options.busy == "skip":
                self._skip()
                return None
            torn = self._waited()
            if torn is not None:
                return self._again(torn)
        return self.save()

    def save(
        self,
        message: str = "",
        *,
        tag: str | None = None,
        extra: Mapping[str, Any] | None = None,
        block: bool = False,
    ) -> Save:
        """Commit the state as it is. With `block` it is durable when this returns, else none may be under way."""
        try:
            request = self._request(message, tag, extra)
            return self.committer.now(request) if block else self.committer.later(request)
        except BaseException:
            self._failed()
            raise

    def wait(self) -> None:
        """Wait for what is under way, and take it again if it was torn. Raises what went wrong."""
        torn = self._waited()
        if torn is not None:
            self._again(torn)

    def _waited(self) -> Torn | None:
        self.committer.wait()
        return self._settled()

    def finish_pushing(self) -> None:
        """Wait for commits that are being pushed, as long as the run's options say."""
        if self._pusher is not None:
            self._pusher.finish(self._options.push_patience_s)
            self._tell_of_pushes()

    def stop_pushing(self) -> None:
        """Push no more."""
        if self._pusher is not None:
            self._pusher.stop()

    def _tell_of_pushes(self) -> None:
        for text in self._pusher.take_warnings() if self._pusher is not None else ():
            warn(text)

    def _settled(self) -> Torn | None:
        self._tell_of_pushes()
        try:
            return self.committer.settle()
        except CkstoreError:
            self._failed()
            raise

    def _failed(self) -> None:
        """Forget the commit that was begun last: what was to be said by it, the next one says."""
        begun, self._begun = self._begun, None
        if begun is not None:
            self.committed_step = begun.step
            self._fresh = {**begun.metrics, **self._fresh}
            self.pace.put_back(begun.memory)
            self.counters.best = self.pace.best_values()

    def _again(self, torn: Torn) -> Save:
        """Commit what a torn snapshot should have been, a little later, while nothing else runs."""
        text = "it is taken again, and that memory is copied at once from now on"
        warn(f"a snapshot was {torn.what}; {text}")
        self._failed()  # so that this one says what that one was to say
        try:
            request = self._request(torn.options.message, torn.options.tag, torn.extra)
            return self.committer.now(request, torn.save)
        except BaseException as error:
            torn.save.fail(error)
            self._failed()
            raise

    def _request(self, message: str, tag: str | None, extra: Mapping[str, Any] | None) -> Request:
        standing, counters = self._standing, self.counters
        self._begun = _Begun(self.committed_step, dict(self._fresh), self.pace.memory())
        self.pace.committed(self._moment())
        counters.best = self.pace.best_values()
        self._check_metrics()
        if standing.stepped:  # the step that is going on has changed the state already, and counts as done
            counters = replace(counters, step=counters.step + 1)
        rng, flags = standing.quiet or (None, None)
        if flags is None and standing.between:  # perhaps in the middle of an evaluation
            flags = capture_flags(self._capture.parts.modules, standing.training)
        state = self._capture.state(counters, unfinished=standing.unfinished, rng=rng, flags=flags, extra=extra)
        options = self._said(counters, message, tag)
        self.committed_step = counters.step
        self._fresh = {}
        later = self._capture.parts.stepped() if self._options.overlap else set()
        return Request(state, options, later, extra=extra)

    def _said(self, counters: Counters, message: str, tag: str | None) -> CommitOptions:
        options = self._options
        time_ns, offset_min = options.clock()
        begins = options.name not in self._repository.commits().branches
        return CommitOptions(
            time_ns,
            offset_min,
            options.author,
            message,
            dict(self._fresh),
            counters.step,
            counters.epoch,
            options.name,
            tag,
            self._begins_from if begins else None,
            options.allow_pickle,
            options.preset,
        )

    def _check_metrics(self) -> None:
        missing = self._metrics.never_logged()
        if missing:
            names = ", ".join(map(repr, missing))
            self._warn_once(
                "metrics",
                f"a trigger or policy of the run looks at {names}, which nobody has logged by the first commit",
            )

    def _skip(self) -> None:
        self.skipped += 1
        self._warn_once(
            "skipped",
            f"the commit due at step {self.counters.step} is skipped: the one before is not durable yet. This is said "
            'once; run.skipped counts. Fix: commit less often, or busy="wait"',
        )

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warn(text)

    def _after(self, made: CommitResult) -> None:
        """What follows a commit that is durable, in the thread that made it."""
        try:
            self._drop()
        finally:
            if self._pusher is not None:
                self._pusher.wake()

    def _drop(self) -> None:
        """Run gc, where the run has a policy."""
        if self._policies is not None:
            from ckstore.porcelain.gc import GcOptions, gc  # numpy

            try:
                gc(self._repository, GcOptions(self._options.clock()[0], self._policies))
            except InvalidInput:
                if not self._metrics.never_logged():  # else that has been said
                    raise

    def _moment(self, *, epoch_ended: bool = False, logged: Mapping[str, float] | None = None) -> Moment:
        counters = self.counters
        return Moment(counters.step, counters.epoch, time.monotonic(), epoch_ended, logged or {}, self._asked())


def _pusher(repository: Repository, options: RunOptions) -> Pusher | None:
    """What pushes the run's commits, where they are to be pushed."""
    if options.push is None:
        return None
    from ckstore.train.pusher import Pusher  # what remotes need, for those who push

    return Pusher(repository, options.push, options.name, lambda: options.clock()[0])
