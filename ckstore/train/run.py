"""A training run over a repository: commits that do not hold it up, and a resume that is exact."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

from ckstore.checkpoint.store import check_room
from ckstore.errors import CkstoreError, InvalidInput
from ckstore.graph.history import CommitInfo, describe
from ckstore.torch.flatten import flatten
from ckstore.train.capture import Capture
from ckstore.train.environment import environment
from ckstore.train.feed import Feed
from ckstore.train.flags import capture_flags, note_training, restore_training
from ckstore.train.gradients import mark_spent
from ckstore.train.metrics import LiveFile, Metrics, tidy
from ckstore.train.observers import OBSERVERS, tell
from ckstore.train.occupied import occupy
from ckstore.train.parts import Parts
from ckstore.train.preemption import Signals
from ckstore.train.recorder import Recorder
from ckstore.train.resume import Resumed, find, line, mend, passed_over, take_over
from ckstore.train.rng import capture_rng, restore_rng
from ckstore.train.standing import Standing
from ckstore.train.warned import warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from ckstore.repository import Repository
    from ckstore.train.data import Position
    from ckstore.train.options import RunOptions
    from ckstore.train.saver import Save


class Run:
    """One training run: a context manager, for one thread. `Repo.track` makes it.

    `resume` first, then `step` after every step. Commits are made in the background; what goes wrong there is raised
    by the next call, and at the end.
    """

    def __init__(
        self,
        repository: Repository,
        options: RunOptions,
        parts: Mapping[str, object],
        data: object = None,
        config: object = None,
    ) -> None:
        self._repository = repository
        self._options = options
        self._parts = Parts(parts)
        self._feed = Feed(data)
        self._capture = Capture(self._parts, self._feed, config, environment(options.version))
        self._standing = Standing()
        self._signals = Signals(self._noticed, options.patience_s)
        self._recorder = Recorder(repository, options, self._capture, self._standing, asked=lambda: self._signals.asked)
        self._resumed: Resumed | None = None
        self._open = False

    @property
    def branch(self) -> str:
        """The branch it commits to: its name."""
        return self._options.name

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return self._recorder.counters.step

    @property
    def epoch(self) -> int:
        """Whole epochs that are done."""
        return self._recorder.counters.epoch

    @property
    def skipped(self) -> int:
        """Commits that were due and skipped, since one was under way."""
        return self._recorder.skipped

    @property
    def resumed(self) -> Resumed | None:
        """What `resume` found; None before it was called."""
        return self._resumed

    @property
    def best(self) -> CommitInfo | None:
        """The best commit of the branch by the first metric of its triggers and policy; None where there is none."""
        commits = self._repository.commits()
        tip = commits.branches.get(self.branch)
        found = None if tip is None else self._recorder.pace.best_of(line(commits, tip))
        return None if found is None else describe(*found)

    @property
    def staging_bytes(self) -> int:
        """Host memory that snapshots take: at most twice the state."""
        return self._recorder.committer.size_bytes

    def captured(self) -> dict[str, Any]:
        """What a commit would hold now of parts (as live objects), flags, gradients and generators; for test kits."""
        return self._capture.watched(self._recorder.counters)

    def __enter__(self) -> Self:
        store = self._repository.store
        store.check_writable()
        parts = self._parts.parts
        check_room(
            self._repository,
            [flatten(part, name, allow_pickle=self._options.allow_pickle) for name, part in parts.items()],
        )
        folder, self._lock = occupy(store.layout, self.branch)
        time_ns, _ = self._options.clock()
        tidy(folder)
        self._live = LiveFile(folder / f"{time_ns}.jsonl", {"run": self.branch, "time_ns": time_ns})
        self._metrics = Metrics(self._live, self._recorder.pace.wanted)
        self._recorder.open(self._metrics)
        self._hooks = [
            hook
            for optimizer in self._parts.optimizers.values()
            for hook in (
                optimizer.register_step_pre_hook(self._before_optimizer),
                optimizer.register_step_post_hook(self._after_optimizer),
            )
        ]
        self._signals.install()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._standing.inside():
                try:
                    self._finish(error)
                finally:
                    if not self._signals.forced:
                        self._recorder.finish_pushing()
            if error is None and self._signals.asked and self._signals.stopping is not None:
                self._signals.leave()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"ckstore: a commit failed as well: {failure}")
            if not isinstance(error, Exception):  # of an exit nobody sees the note
                warn(f"a commit failed: {failure}")
        finally:
            self._open = False
            self._signals.restore()
            for hook in self._hooks:
                hook.remove()
            self._live.close(sealed=self._metrics.all_sealed)
            self._recorder.stop_pushing()
            self._recorder.committer.close()
            self._lock.release()

    def _finish(self, error: BaseException | None) -> None:
        """Commit what is left, where that is wanted, and wait for what is under way."""
        if self._signals.forced:
            return
        failure = self._waited()
        if self._standing.after_epoch and error is None:
            self._recorder.look(epoch_ended=True)
            failure = self._waited() or failure
        wanted = self._options.at_end if error is None else self._options.save_on_exception
        if (
            wanted
            and (error is None or isinstance(error, Exception))
            and self.steps not in (0, self._recorder.committed_step)
        ):
            why = "" if error is None else f"saved on {type(error).__name__}: {error!s:.200}"
            self._recorder.save(why, block=True)
        if failure is not None:
            raise failure

    def _waited(self) -> CkstoreError | None:
        """Wait for what is under way; what went wrong there, which must not keep the last save from being tried."""
        try:
            self._recorder.wait()
        except CkstoreError as failure:
            return failure
        return None

    @overload
    def resume(self, data: None = None, *, from_: str | None = None, strict: bool = True) -> int: ...

    @overload
    def resume(self, data: Any, *, from_: str | None = None, strict: bool = True) -> Iterator[tuple[int, Any]]: ...

    def resume(
        self, data: Any = None, *, from_: str | None = None, strict: bool = True
    ) -> int | Iterator[tuple[int, Any]]:
        """Go on where the newest commit of the branch that is whole stopped, or begin anew where there is none.

        Without `data` it returns how many steps are done. With a loader it yields what is left of the epoch as (step,
        batch), steps counted from 1 over the whole run; called again, the next epoch. What the loop does between two
        epochs (an evaluation, a scheduler's step) belongs to the one before, whose commit is made when the next is
        begun, or the run ends.

        `from_` is a revision to go on from instead: the branch is put there, which the reflog remembers.
        `strict=False` loads what fits and reports
        the rest in `resumed`. What cannot be read is passed over, with a warning. Raises `InvalidInput` where
        the state does not fit (nothing is touched then), `NoRevision`, `Integrity` where no commit can be read.
        """
        self._check()
        if self._resumed is None:
            with self._standing.inside():
                self._resumed = self._begin(from_, strict=strict)
            if OBSERVERS:
                tell("begun", self)
        elif from_ is not None:
            raise InvalidInput("the run is going already", hint="from_= belongs to the first call of resume")
        if data is None:
            return self.steps
        return self._batches(self._feed.of(data))

    def step(self) -> Save | None:
        """Count a step as done and commit if a trigger says so; the commit that was begun, or None.

        Raises what went wrong in the background. Where a signal asked for it, saves and ends the process.
        """
        self._begin_anew()
        with self._standing.inside():
            self._recorder.counters.step += 1
            self._standing.step_done()
            if OBSERVERS:
                tell("step", self)
            made = None if self._signals.stopping is not None else self._recorder.look()
        if self._signals.asked:
            self._honour()
        return made

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Take in metrics of the step that is going on, or was done last. The next commit keeps the newest of each.

        Logged after `step`, a metric that a `best` trigger waits for is committed with at once; after an epoch, when
        the next batch is asked for. Raises `InvalidInput` for what is no number, and for a name that a rule of the run
        spells otherwise.
        """
        self._check()
        between = self._standing.between
        with self._standing.inside():
            values = self._metrics.log(metrics, self.steps + (not between), self._options.clock()[0])
            self._recorder.logged(values)
            if OBSERVERS:
                tell("logged", self, values)
            settled = between and not self._standing.after_epoch
            if settled and not self._recorder.pace.wanted.isdisjoint(values):
                self._recorder.look(step_done=False)
        if self._signals.asked and settled:
            self._honour()

    def commit(
        self,
        message: str = "",
        *,
        tag: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        block: bool = False,
    ) -> Save:
        """Commit the state as it is now; call it between steps. With `block` it is durable when this returns.

        `extra` adds components of any values. Waits for a commit that is under way. Raises as `Repo.commit` does.
        """
        self._begin_anew()
        if metrics is not None:
            self.log(metrics)
        with self._standing.inside():
            self._recorder.wait()
            return self._recorder.save(message, tag=tag, extra=extra, block=block)

    def wait(self) -> None:
        """Wait until what is under way is durable. Raises what went wrong."""
        self._check()
        with self._standing.inside():
            self._recorder.wait()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """An evaluation that leaves no trace: random generators and train/eval flags are afterwards what they were.

        So a run that is resumed goes on alike, whether or not it evaluates again. A signal that comes in it, after
        `step`, is obeyed at once; between two epochs once the loop is done with that, or `patience_s` are over.
        """
        rng, flags = self._standing.quiet = (capture_rng(), capture_flags(self._parts.modules))
        try:
            if self._signals.asked:
                self._noticed()
            yield
        finally:
            self._standing.quiet = None
            restore_training(self._parts.modules, flags)
            restore_rng(rng)

    def _batches(self, position: Position) -> Iterator[tuple[int, Any]]:
        if self._standing.after_epoch:
            self._epoch_done()
        batches = position.rest()
        modules = [list(module.modules()) for module in self._parts.modules.values()]  # once: a walk takes its time
        while True:
            self._standing.asked_for_batch()
            try:
                batch = next(batches)
            except StopIteration:
                break
            except Exception:
                if self._signals.stopping is not None:  # it has ended the data's workers as well
                    self._honour()
                raise
            self._standing.got_batch(note_training(modules))
            if OBSERVERS:
                tell("batch", self, batch)
            yield self.steps + 1, batch
        self._check()
        self._recorder.counters.epoch = position.epoch
        self._standing.epoch_ended()

    def _epoch_done(self) -> None:
        """Do what is due after an epoch, now that what the loop does between two epochs is done too."""
        self._standing.after_epoch = False
        with self._standing.inside():
            self._recorder.look(epoch_ended=True)
        if self._signals.asked:
            self._honour()

    def _begin(self, revision: str | None, *, strict: bool) -> Resumed:
        repository, options = self._repository, self._options
        if revision is None and self.branch not in repository.commits().branches:
            revision = options.start
        now_ns = options.clock()[0]
        wanted = self._capture.wanted()
        found = find(repository, self.branch, revision, now_ns, wanted, allow_pickle=options.allow_pickle)
        if found is None:
            return Resumed()
        counters, told = self._capture.restore(found, strict=strict)
        if found.skipped:
            warn(passed_over(found))
            mend(repository, found, now_ns)
        take_over(repository, self.branch, found, now_ns)
        self._recorder.resumed(counters, found.id.hex())
        return Resumed(found.id.hex(), counters.step, counters.epoch, found.skipped, **told)

    def _begin_anew(self) -> None:
        """Begin, where nobody called `resume` and there is nothing to go on from. Raises `InvalidInput` where there is.

        To load a commit now would undo what has been trained already.
        """
        self._check()
        if self._resumed is None:
            if self._options.start is not None or self.branch in self._repository.commits().branches:
                raise InvalidInput(
                    f"the run {self.branch!r} has a commit to go on from, and has not",
                    hint="call run.resume() before the first step; another name begins anew",
                )
            self.resume()

    def _check(self) -> None:
        if not self._open:
            raise InvalidInput("the run is not open", hint="with repo.track(...) as run: ...")

    def _noticed(self) -> None:
        """A signal arrived: save now if nothing is in the middle of anything."""
        feed, late = self._feed, self._signals.late
        if self._resumed is not None and self._standing.may_save(fed=bool(feed), taking=feed.taking, late=late):
            self._honour()

    def _honour(self) -> None:
        """Save what a signal asked to be saved, and end the process if it said so."""
        stopping = self._signals.stopping is not None
        with self._standing.inside():
            self._signals.saved()
            recorder, stepped, failure = self._recorder, self._standing.stepped, None
            if stopping or self.steps + stepped != recorder.committed_step:
                failure = self._waited()
                if failure is not None and stopping:
                    warn(f"a commit failed: {failure}")
            if self.steps + stepped != recorder.committed_step:
                late = ", before the end of the step" if stepped else ""
                recorder.save(f"saved on a signal{late}", block=stopping)
        if failure is not None and not stopping:
            raise failure
        if stopping:
            self._signals.leave()

    def _before_optimizer(self, *_: object) -> None:
        self._standing.optimizer_begins()  # first: a signal must not save while this waits for the copy
        self._recorder.committer.hold_up()

    def _after_optimizer(self, optimizer: Any, *_: object) -> None:
        mark_spent(optimizer)
        self._standing.optimizer_ended()
        if self._signals.late:
            self._noticed()
