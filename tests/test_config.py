"""Settings: where they may stand, which of them counts, what is wrong with them, and how they are changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckstore
from ckstore.api.environment import default_author, settings_layers, user_settings_file
from ckstore.codec.preset import PRESETS
from ckstore.config import (
    DEFAULT,
    Config,
    Found,
    Layer,
    Scope,
    flags,
    from_environment,
    merge,
    parse,
    read_layer,
    read_project,
)
from ckstore.errors import InvalidInput, NotFound, SaveFailed
from ckstore.porcelain.init import init
from ckstore.porcelain.settings import get_setting, list_settings, set_setting, unset_setting
from ckstore.repository import Repository, open_repository
from ckstore.setting import SETTINGS, parse_value, setting_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckstore.setting import Value

MANY = ("metrics.", "keep.", "remotes.", "jobs.", "limit_rate.", "timeout.")
WRONG = [
    ("[storage]\npreset = 3", "storage.preset", "sets storage.preset to 3, which is no preset"),
    ("[storage]\npreset = 'fats'", "storage.preset", "sets storage.preset to 'fats', which is no preset"),
    ("storage = 1", "storage.preset", "sets storage to 1, which is no table"),
    ("[storage]\nprest = 'fast'", "storage.preset", "has the unknown setting storage.prest"),
    ("[storge]\npreset = 'fast'", "commit.author", "has the unknown setting storge.preset"),
    ("x = 1", "commit.author", "has the unknown setting x"),
    ("[commit]\nauthor = ['a']", "commit.author", "which is no text"),
    ("[metrics]\nloss = 'least'", "metrics.loss", "sets metrics.loss to 'least', which is no mode"),
    ("[metrics]\nval.loss = 'min'", "metrics.val.loss", "sets metrics.val to {'loss': 'min'}, which is no mode"),
    ("[jobs]\norigin = '0'", "jobs.origin", "sets jobs.origin to '0', which is no number of transfers"),
    ("[jobs]\norigin = 4", "jobs.origin", "sets jobs.origin to 4, which is no number of transfers"),
    ("[limit_rate]\norigin = 'fast'", "limit_rate.origin", "which is no rate"),
    ("[timeout]\norigin = '30'", "timeout.origin", "which is no span of time"),
    ("[remotes]\no = 's3://me:secret@b'", "remotes.o", "sets remotes.o to 's3://...@b', which is no URL"),
    ("[list]\ncolumns = 'id'", "list.columns", "which is no list of texts"),
    ("[list]\ncolumns = [1]", "list.columns", "which is no list of texts"),
    ("[retention]\nkeep = ['last=3']", "retention.keep", "which is no policy"),
    ("[retention]\nkeep = ' '", "retention.keep", "sets retention.keep to ' ', which is no policy"),
    ("[retention]\ngrace = '7 days'", "retention.grace", "sets retention.grace to '7 days', which is no span of time"),
    ("[keep]\nmain = 3", "keep.main", "sets keep.main to 3, which is no policy"),
    ("[keep]\nv1.2 = 'last=1'", "keep.v1.2", "sets keep.v1 to {'2': 'last=1'}, which is no policy"),
    ("[", "list.columns", "is not TOML"),
    (f"a = {'1' * 5000}", "storage.preset", "is not TOML"),
    (f"a = {'[' * 5000}", "storage.preset", "is not TOML"),
]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    init(tmp_path / "repo")
    with reopened(tmp_path / "repo") as opened:
        yield opened


def reopened(folder: Path, *layers: Layer) -> Repository:
    return open_repository(folder, folder / "cache", layers=layers)


def settings_of(repository: Repository) -> Config:
    """The settings as whoever opens it now has them."""
    with reopened(repository.root) as again:
        return again.config


# The table


def test_the_table_is_sound() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert setting_named("storage.preset").allowed == tuple(PRESETS)
    for setting in SETTINGS:
        assert setting.about
        assert setting.default is None or isinstance(setting.default, tuple if setting.kind == "list" else str)
        if setting.allowed and setting.default is not None:
            assert setting.default in setting.allowed


def test_nothing_set() -> None:
    config = Config()
    assert (config.preset, config.author, config.columns, config.metric_mode("x")) == ("balanced", None, (), None)
    assert config.find("storage.preset") == Found("storage.preset", "balanced", DEFAULT)
    assert config.metric_mode("") is None
    assert (config.policy_text(), config.policy_text("main"), config.policy_texts(["main"])) == (None, None, {})
    assert config.grace_ns == 7 * 86400 * 10**9


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("storage.prest", "storage.preset"),
        ("author", "commit.author"),
        ("metrics", "metrics.<name>"),
        ("q", "known are"),
    ],
)
def test_a_name_that_is_no_setting(name: str, hint: str) -> None:
    for call in (setting_named, Config().find, lambda name: parse_value(name, "x")):
        with pytest.raises(InvalidInput, match="is no setting") as caught:
            call(name)
        assert hint in str(caught.value.hint)


# Layers


@pytest.mark.parametrize(("upper", "lower"), list(combinations(Scope, 2)))
def test_the_nearer_place_counts(upper: Scope, lower: Scope) -> None:
    name = "commit.author"
    layers = [Layer(lower, "below", {name: "b", "storage.preset": "fast"}), Layer(upper, "above", {name: "a"})]
    for order in (layers, layers[::-1]):
        config = merge(order)
        assert config.find(name) == Found(name, "a", "above")
        assert config.find("storage.preset") == Found("storage.preset", "fast", "below")
        assert config.overriding(name, lower) == layers[1]
        assert config.overriding(name, upper) is None
        assert config.overriding("storage.preset", lower) is None


def test_from_flags_down_to_the_user(tmp_path: Path) -> None:
    """All five places at once; one after another is taken away."""
    folder = tmp_path / "project/deep/repo"
    init(folder)
    home = tmp_path / "home/ckstore/config.toml"
    home.parent.mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "CKSTORE_COMMIT_AUTHOR": "environment"}
    own, project = folder / ".ckstore/config.toml", tmp_path / "project/pyproject.toml"
    for path, table in ((own, "commit"), (project, "tool.ckstore.commit"), (home, "commit")):
        path.write_text(f"[{table}]\nauthor = '{path.parent.name}'")
    called = flags({"commit.author": "flag"}, "--author")

    def author(*layers: Layer) -> tuple[object, str]:
        with reopened(folder, *layers) as repository:
            found = repository.config.find("commit.author")
            assert default_author(repository.config) == (found.value or default_author())
            return found.value, found.origin

    assert author(*settings_layers(environ), called) == ("flag", "--author")
    assert author(*settings_layers(environ)) == ("environment", "CKSTORE_COMMIT_AUTHOR")
    del environ["CKSTORE_COMMIT_AUTHOR"]
    assert author(*settings_layers(environ)) == (".ckstore", str(own))
    own.unlink()
    assert author(*settings_layers(environ)) == ("project", str(project))
    project.unlink()
    assert author(*settings_layers(environ)) == ("ckstore", str(home))
    home.unlink()
    assert author(*settings_layers(environ)) == (None, DEFAULT)


def test_the_nearest_project_file_is_the_one(tmp_path: Path) -> None:
    inner = tmp_path / "outer/inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer/pyproject.toml").write_text("[tool.ckstore.storage]\npreset = 'fast'")
    for folder in (inner, tmp_path / "outer"):
        layer = read_project(folder)
        assert layer is not None
        assert dict(layer.values) == {"storage.preset": "fast"}
    (inner / "pyproject.toml").write_text("[project]\nname = 'inner'")
    layer = read_project(inner)
    assert layer == Layer(Scope.PROJECT, str(inner / "pyproject.toml"), {})
    (inner / "pyproject.toml").write_text("[tool]\nckstore = 3")
    with pytest.raises(InvalidInput, match=r"sets tool\.ckstore to 3, which is no table"):
        merge(filter(None, [read_project(inner)])).find("commit.author")


def test_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_settings_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/ckstore/config.toml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_settings_file({}) == tmp_path / ".config/ckstore/config.toml"
    assert settings_layers({}) == ()


def test_what_another_user_keeps_to_themselves(tmp_path: Path) -> None:
    """A HOME that is still another user's stops nothing; a repository's own settings that cannot be read do."""
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home/config.toml").write_text("[")
    code = (
        "import os, sys, json\n"
        "from pathlib import Path\n"
        "from ckstore.config import Scope, merge, read_layer\n"
        "from ckstore.errors import InvalidInput\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "path = Path(sys.argv[1])\n"
        "outer = [read_layer(path, scope) for scope in (Scope.PROJECT, Scope.USER)]\n"
        "try:\n"
        "    merge([read_layer(path, Scope.REPOSITORY)]).author; said = ''\n"
        "except InvalidInput as error:\n"
        "    said = error.what\n"
        "print(json.dumps([outer, said]))\n"
    )
    outer, said = json.loads(run(code, tmp_path / "home/config.toml"))
    assert outer == [None, None]
    assert "cannot be read" in said


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# The environment


def test_variables() -> None:
    config = merge(
        from_environment(
            {
                "CKSTORE_STORAGE_PRESET": "archive",
                "CKSTORE_COMMIT_AUTHOR": "Ada, L.",
                "CKSTORE_METRICS": "val/loss=min, acc=max,a=b=min",
                "CKSTORE_LIST_COLUMNS": "id, step ,val/loss,",
                "CKSTORE_RETENTION_KEEP": "last=3, best=2:a:min",
                "CKSTORE_RETENTION_GRACE": "36h",
                "CKSTORE_KEEP": "main=last=1 within=7d, topic/x=every=10",
                "CKSTORE_INDEX": "cache",
                "CKSTORE_COMMIT": "a build system's own",
                "HOME": "/",
            }
        )
    )
    assert (config.preset, config.author, config.columns) == ("archive", "Ada, L.", ("id", "step", "val/loss"))
    assert [config.metric_mode(name) for name in ("val/loss", "acc", "a=b", "other")] == ["min", "max", "min", None]
    assert config.find("metrics.acc").origin == "CKSTORE_METRICS"
    assert config.grace_ns == 36 * 3600 * 10**9
    assert config.policy_text("main") == "last=1 within=7d"
    assert config.policy_text("other") == config.policy_text() == "last=3, best=2:a:min"
    assert config.policy_texts(["main", "topic/x", "other"]) == {"main": "last=1 within=7d", "topic/x": "every=10"}
    assert from_environment({"CKSTORE_COMMIT_AUTHOR": "", "CKSTORE_METRICS": ""}) == ()


@pytest.mark.parametrize(
    ("variable", "text", "name", "hint"),
    [
        ("CKSTORE_STORAGE_PRESET", "best", "storage.preset", "balanced, archive, fast"),
        ("CKSTORE_STORAGE_PREST", "fast", "storage.preset", "CKSTORE_STORAGE_PRESET"),
        ("CKSTORE_RETENTION_GRACE", "long", "retention.grace", "7d"),
        ("CKSTORE_RETENTION_KEEP", " ", "retention.keep", "last=3"),
        ("CKSTORE_KEEP", "last", "keep.main", "CKSTORE_KEEP=main=last=3"),
        ("CKSTORE_KEEP_MAIN", "last=1", "keep.main", "CKSTORE_KEEP"),
        ("CKSTORE_METRICS_LOSS", "min", "metrics.loss", "CKSTORE_METRICS"),
        ("CKSTORE_METRICS", "loss", "metrics.acc", "val/loss=min"),
        ("CKSTORE_METRICS", "loss=least", "metrics.loss", "val/loss=min"),
        ("CKSTORE_METRICS", "=min", "metrics.loss", "val/loss=min"),
        ("CKSTORE_COMMIT_AUTHOR", "\udcff", "commit.author", "write a text"),
    ],
)
def test_variables_that_are_wrong(variable: str, text: str, name: str, hint: str) -> None:
    config = merge(from_environment({variable: text}))
    with pytest.raises(InvalidInput, match=variable) as caught:
        config.find(name)
    assert hint in str(caught.value.hint)
    assert config.find("list.columns").origin == DEFAULT
    nearer = flags({name: {"metrics": "min", "retention": "1h"}.get(name.partition(".")[0], "fast")}, "the call")
    assert merge([*config.layers, nearer]).find(name).origin == "the call"


def test_flags_are_checked_at_once() -> None:
    for values in ({"storage.preset": "best"}, {"storage.prest": "fast"}, {"list.columns": "id"}):
        with pytest.raises(InvalidInput):
            flags(values, "the call")


# What is wrong is told to whoever needs it


@pytest.mark.parametrize(("text", "name", "what"), WRONG)
def test_what_is_wrong_names_file_and_setting(text: str, name: str, what: str) -> None:
    config = merge(
        [parse(text, Scope.REPOSITORY, "/r/config.toml"), Layer(Scope.USER, "user", {"storage.preset": "fast"})]
    )
    with pytest.raises(InvalidInput) as caught:
        config.find(name)
    assert caught.value.what.startswith("/r/config.toml ")
    assert what in caught.value.what
    assert caught.value.hint
    assert what in "".join(list_settings(config).problems)


def test_hints_for_what_is_wrong() -> None:
    def hint(text: str, name: str) -> str:
        with pytest.raises(InvalidInput) as caught:
            merge([parse(text, Scope.USER, "f")]).find(name)
        return str(caught.value.hint)

    assert hint("[storage]\nprest = 'fast'", "storage.preset") == "did you mean storage.preset?"
    assert hint("[metrics]\nval.loss = 'min'", "metrics.val.loss") == 'quote a name that has dots: "val.loss" = "min"'
    assert hint("[storage]\npreset = 'x'", "storage.preset") == "use one of balanced, archive, fast"
    assert hint("storage = 1", "storage.preset") == "write [storage]"


def need(repo: ckstore.Repo, name: str) -> None:
    """Do what cannot be done without the setting."""
    if name.startswith("metrics."):
        _ = repo[f"best:{name.removeprefix('metrics.')}"]
    elif name == "list.columns":
        _ = repo._repository.config.columns
    elif name == "retention.grace":
        _ = repo._repository.config.grace_ns
    elif name.startswith(("retention.", "keep.")):
        _ = repo._repository.config.policy_text(name.removeprefix("keep."))
    elif name.startswith("remotes."):
        _ = repo.remotes
    elif name.startswith(("jobs.", "limit_rate.", "timeout.")):
        _ = repo._repository.config.text(name)
    else:
        repo.commit({"step": 2})


@pytest.mark.parametrize(("text", "name", "what"), WRONG)
def test_what_is_wrong_stops_only_who_needs_it(tmp_path: Path, text: str, name: str, what: str) -> None:
    file = tmp_path / ".ckstore/config.toml"
    with ckstore.open(tmp_path, threads=1) as repo:
        repo.commit({"step": 1}, metrics={"loss": 1.0, "val.loss": 1.0})
    file.write_text(text)
    with ckstore.open(tmp_path, threads=1) as repo:
        assert len(repo.log()) == 1
        assert repo.verify(read_data=True).ok
        assert repo["best:loss:min"].load() == {"step": 1}
        with pytest.raises(InvalidInput) as caught:
            need(repo, name)
        assert what in caught.value.what
        broken = [one.name for one in list_settings(repo._repository.config).settings if one.problem]
        assert name in broken or name.startswith(MANY)
    nearer: dict[str, Value] = {"storage.preset": "fast", "commit.author": "me", "list.columns": ("id",)}
    with open_repository(tmp_path, tmp_path, layers=[flags(nearer, "the call")]) as repository:
        assert repository.preset.name == "fast"
        assert repository.config.author == "me"


def test_the_wrong_line_can_be_mended_by_command(repository: Repository) -> None:
    file = repository.store.layout.config
    for text, name in (("[storage]\nprest = 'fast'", "storage.prest"), ("storage = 1", "storage"), ("x = 1", "x")):
        file.write_text(text)
        change = unset_setting(settings_of(repository), repository, name)
        assert (change.name, change.file, change.before, change.after) == (name, file, None, None)
        assert settings_of(repository).preset == "balanced"
    file.write_text("[storage]\npreset = 'fats' # typo\n")
    set_setting(settings_of(repository), repository, "storage.preset", "fast")
    assert file.read_text() == '[storage]\npreset = "fast" # typo\n'


@settings(max_examples=200, deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["[storage]\n", "preset", "=", '"fast"', "\n", "metrics.", "{", "}", "x"])).map("".join)
)
def test_any_text_is_a_layer(text: str) -> None:
    layer = parse(text, Scope.USER, "file")
    assert list_settings(merge([layer])).problems == tuple(problem.what for problem in layer.problems)
    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError):
        said = {"": None}
    known = {setting.name.partition(".")[0] for setting in SETTINGS}
    entries = [
        len(entries) if isinstance(entries, dict) and (entries or table in known) else 1
        for table, entries in said.items()
    ]
    assert len(layer.values) + len(layer.problems) == sum(entries)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["STORAGE_PRESET", "METRICS", "LIST_COLUMNS", "COMMIT_X", "X"]), st.text()))
def test_any_environment_is_some_layers(said: dict[str, str]) -> None:
    config = merge(from_environment({f"CKSTORE_{name}": text for name, text in said.items()}))
    assert len(list_settings(config).settings) >= len(SETTINGS)


# Reading them


def test_listing_and_getting(tmp_path: Path) -> None:
    text = "[metrics]\n'val/loss' = 'min'\nacc = 'max'\n[storage]\npreset = 'x'\n"
    config = merge([parse(text, Scope.PROJECT, "p"), Layer(Scope.USER, "u", {"list.columns": ("id", "acc")})])
    told = list_settings(config)
    rows = {info.name: (info.value, info.origin) for info in told.settings}
    assert list(rows) == [
        *("storage.preset", "commit.author", "metrics.acc", "metrics.val/loss", "list.columns"),
        *("retention.keep", "keep.<branch>", "retention.grace"),
        *("remotes.<name>", "jobs.<remote>", "limit_rate.<remote>", "timeout.<remote>"),
    ]
    assert rows["metrics.val/loss"] == ("min", "p")
    assert rows["list.columns"] == (("id", "acc"), "u")
    assert rows["storage.preset"] == (None, DEFAULT)
    assert told.settings[0].problem == told.problems[0] == "p sets storage.preset to 'x', which is no preset"
    assert get_setting(config, "metrics.acc").value == "max"
    assert get_setting(config, "metrics.other").value is None
    with pytest.raises(InvalidInput, match="no preset"):
        get_setting(config, "storage.preset")
    assert [info.name for info in list_settings(Config()).settings][2] == "metrics.<name>"


# Changing them

WRITTEN = [
    "",
    "# all mine\n",
    "[storage] # how\npreset = 'fast' # why\n\n# which way\n[metrics]\n'val/loss' = 'min' # down\n",
    "storage.preset = 'fast'\n# dotted\nmetrics.'a.b' = 'max'\n",
    "storage = { preset = 'fast' } # inline\n",
    "[list]\ncolumns = ['id', # first\n 'step']\n",
    "[metrics]\n# nothing yet\n[list]\n",
    "[metrics]\na = 'min'\n[storage]\npreset = 'fast'\n[metrics.deep]\nx = 1\n",
    "[storage]\r\npreset = 'fast' # dos\r\n",
]
VALUES = st.one_of(
    st.tuples(st.just("storage.preset"), st.sampled_from(sorted(PRESETS))),
    st.tuples(st.just("commit.author"), st.text(st.characters(exclude_categories=["Cs"]))),
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda metric: f"metrics.{metric}"),
        st.sampled_from(["min", "max"]),
    ),
    st.tuples(st.just("keep.topic/x.y"), st.sampled_from(["last=3", "best=2:val/loss:min, within=7d"])),
    st.tuples(st.just("retention.grace"), st.sampled_from(["0s", "1.5h"])),
    st.tuples(st.just("list.columns"), st.sampled_from(["", "id", "id,step", "val/loss, acc"])),
)


def plain(text: str) -> dict[str, dict[str, object]]:
    """A TOML text by table, without the empty ones."""
    return {table: entries for table, entries in tomllib.loads(text).items() if entries}


def comments(text: str) -> list[str]:
    """The comments that no value takes with it."""
    return [mark for mark in re.findall(r"# [a-z ]+", text) if mark != "# first"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(WRITTEN), st.lists(VALUES, min_size=1, max_size=4))
def test_changes_leave_the_rest_alone(tmp_path: Path, text: str, changes: list[tuple[str, str]]) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode())
    wanted = plain(text)
    for name, value in changes:
        before = merge(filter(None, [read_layer(file, Scope.USER)]))
        change = set_setting(before, file, name, value)
        table, _, key = name.partition(".")
        parsed = parse_value(name, value)
        wanted.setdefault(table, {})[key] = list(parsed) if isinstance(parsed, tuple) else parsed
        assert plain(file.read_bytes().decode()) == wanted
        assert [mark for mark in comments(text) if mark not in file.read_text()] == []
        assert (change.after, change.overridden_by) == (parsed, None)
        assert change.before == next((layer.values.get(name) for layer in before.layers), None)
        found = merge(filter(None, [read_layer(file, Scope.USER)])).find(name)
        assert found == Found(name, parsed, str(file))
    for name in dict.fromkeys(name for name, _ in changes):
        unset_setting(Config(), file, name)
        del wanted[name.partition(".")[0]][name.partition(".")[2]]
        wanted = {table: entries for table, entries in wanted.items() if entries}
        assert plain(file.read_bytes().decode()) == wanted
    assert [mark for mark in comments(text) if mark in comments(file.read_text())] == comments(file.read_text())


def test_a_value_is_checked_before_anything_is_written(repository: Repository) -> None:
    for name, text in (
        ("storage.preset", "best"),
        ("metrics.loss", "least"),
        ("storage.prest", "fast"),
        ("metrics.\udc80", "min"),
    ):
        with pytest.raises(InvalidInput):
            set_setting(Config(), repository, name, text)
    assert not repository.store.layout.config.exists()
    with pytest.raises(NotFound, match=r"does not set commit\.author"):
        unset_setting(Config(), repository, "commit.author")
    assert not repository.store.layout.config.exists()


def test_a_near_miss_when_unsetting(repository: Repository) -> None:
    set_setting(Config(), repository, "metrics.val/loss", "min")
    with pytest.raises(NotFound) as caught:
        unset_setting(Config(), repository, "metrics.val_loss")
    assert caught.value.hint == "did you mean metrics.val/loss?"


@pytest.mark.parametrize("text", [b"[", b"\xff", b"[storage]\n[storage]"])
def test_a_file_that_cannot_be_edited_stays(repository: Repository, text: bytes) -> None:
    file = repository.store.layout.config
    file.write_bytes(text)
    with pytest.raises(InvalidInput, match=r"config\.toml"):
        set_setting(Config(), repository, "storage.preset", "fast")
    with pytest.raises(InvalidInput, match=r"config\.toml"):
        unset_setting(Config(), repository, "storage.preset")
    assert file.read_bytes() == text


def test_a_table_that_is_none(repository: Repository) -> None:
    repository.store.layout.config.write_text("storage = 1\n[[metrics]]\n")
    for name, text in (("storage.preset", "fast"), ("metrics.loss", "min")):
        with pytest.raises(InvalidInput, match="is no table") as caught:
            set_setting(Config(), repository, name, text)
        assert "config unset" in str(caught.value.hint)


def test_what_overrides_a_change_is_told(tmp_path: Path) -> None:
    init(tmp_path, preset="fast")
    layers = from_environment({"CKSTORE_STORAGE_PRESET": "archive"})
    with reopened(tmp_path, *layers) as repository:
        change = set_setting(repository.config, repository, "storage.preset", "balanced")
        assert (change.before, change.after, change.overridden_by) == ("fast", "balanced", "CKSTORE_STORAGE_PRESET")
        user = set_setting(repository.config, tmp_path / "user/config.toml", "storage.preset", "fast")
        assert user.overridden_by == "CKSTORE_STORAGE_PRESET"
    with reopened(tmp_path) as repository:
        user = set_setting(repository.config, tmp_path / "user/config.toml", "storage.preset", "fast")
        assert user.overridden_by == str(repository.store.layout.config)


def test_a_read_only_repository_is_not_changed(repository: Repository) -> None:
    repository.store.may_write = False
    with pytest.raises(SaveFailed, match="read-only") as caught:
        set_setting(Config(), repository, "storage.preset", "fast")
    assert caught.value.hint
    assert not repository.store.layout.config.exists()


def test_the_users_own_link_and_permissions_stay(tmp_path: Path) -> None:
    real, file = tmp_path / "dotfiles.toml", tmp_path / "config/ckstore/config.toml"
    real.write_text("# mine\n")
    real.chmod(0o600)
    file.parent.mkdir(parents=True)
    file.symlink_to(real)
    set_setting(Config(), file, "commit.author", "Ada")
    assert file.is_symlink()
    assert real.read_text() == '# mine\n\n[commit]\nauthor = "Ada"\n'
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["repository", "user"])
def test_changes_at_the_same_time_are_all_kept(repository: Repository, tmp_path: Path, place: str) -> None:
    where: Repository | Path = repository if place == "repository" else tmp_path / "new/config.toml"
    wrong: list[Exception] = []

    def change(thread: int) -> None:
        try:
            for number in range(5):
                set_setting(Config(), where, f"metrics.m{thread}/{number}", "min")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=change, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    file = repository.store.layout.config if isinstance(where, Repository) else where
    assert len(tomllib.loads(file.read_text())["metrics"]) == 15


# What they do


def test_settings_reach_commits_and_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CKSTORE_COMMIT_AUTHOR", "Ada")
    user = user_settings_file()
    set_setting(Config(), user, "metrics.val/loss", "max")
    with ckstore.open(tmp_path / "repo", threads=1) as repo:
        for loss in (2.0, 1.0):
            repo.commit({"loss": loss}, metrics={"val/loss": loss})
        assert [entry.author for entry in repo.log()] == ["Ada", "Ada"]
        assert repo.commit({"x": 1}, author="Bob").branch == "main"
        assert repo["HEAD"].info.author == "Bob"
        assert repo["best:val/loss"].load() == {"loss": 2.0}
        set_setting(Config(), repo._repository, "metrics.val/loss", "min")
        assert repo["best:val/loss"].load() == {"loss": 2.0}  # as it was when it was opened
    with ckstore.open(tmp_path / "repo", threads=1) as repo:
        assert repo["best:val/loss"].load() == {"loss": 1.0}
        assert repo["best:val/loss~0"].id == repo["best:val/loss:min"].id


def test_only_changing_them_loads_the_editor() -> None:
    said = run(
        "import sys, ckstore.api.repo, ckstore.porcelain.settings as verb\n"
        "from ckstore.config import Config\n"
        "from pathlib import Path\n"
        "verb.list_settings(Config())\n"
        "print('tomlkit' in sys.modules)\n"
    )
    assert said == "False\n"
