"""remote, push, pull, fetch and clone as a person types them: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from tests.test_cli import Shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.fixtures import FaultProxy, S3Server


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell beside a repository `runs` with two commits."""
    folder = tmp_path / "work"
    folder.mkdir()
    shell = Shell(folder)
    shell.run("init", "runs")
    for step in (1, 2):
        torch.save({"model": {"w": torch.full((200, 200), step)}, "optimizer": {"m": torch.ones(50)}}, folder / "m.pt")
        shell.run("-C", "runs", "commit", "m.pt", "--step", str(step))
    return shell


def added(shell: Shell, *more: str) -> None:
    shell.run("-C", "runs", "remote", "add", "origin", "store", "--no-test", *more)


def test_the_whole_way(shell: Shell) -> None:
    text = shell.run("-C", "runs", "remote", "add", "origin", "store").stdout
    assert "Its folder was made." in text
    assert "yes  of 6 who move the root at once, one wins" in text
    assert "Good for pull, push, gc." in text
    assert shell.run("-C", "runs", "push", "--dry-run").stdout.startswith("Would push to origin")
    pushed = shell.run("-C", "runs", "push").stdout
    assert "heads/main: (none) -> " in pushed
    assert "Sent " in pushed
    assert "has everything already" in shell.run("-C", "runs", "push").stdout
    cloned = shell.run("clone", "store", "laptop", "--only", "model").stdout
    assert "1 branch; on main." in cloned
    assert "`ckstore fetch origin --fill` brings what is there" in cloned
    assert "Even with origin/main." in shell.run("-C", "laptop", "status").stdout
    absent = shell.run("-C", "laptop", "checkout", "main", "-o", "out.pt", code=1).stderr
    assert absent.splitlines()[-1] == "  Fix: `ckstore fetch origin --fill` brings it"
    filled = shell.run("-C", "laptop", "fetch", "--fill").stdout
    assert "Filled 2 components of commits" in filled
    shell.run("-C", "laptop", "checkout", "main", "-o", "out.pt")
    assert (shell.folder / "out.pt").read_bytes() == (shell.folder / "m.pt").read_bytes()
    shell.run("-C", "laptop", "commit", "m.pt", "--allow-empty", "-m", "third")
    status = shell.run("-C", "laptop", "status").stdout
    assert "1 ahead of origin/main." in status
    assert "ckstore push origin: origin/main lacks the newest of this branch" in status
    shell.run("-C", "laptop", "push")
    shell.run("-C", "runs", "fetch")
    assert "1 behind of origin/main." in shell.run("-C", "runs", "status").stdout
    pulled = shell.run("-C", "runs", "pull").stdout
    assert pulled.startswith("heads/main: ")
    assert "Up to date with origin" in shell.run("-C", "runs", "pull").stdout
    assert "third" in shell.run("-C", "runs", "log", "origin/main", "-n", "1").stdout
    shown = shell.run("-C", "runs", "remote", "show").stdout
    assert "* main" in shown
    assert "the same here" in shown
    assert "origin" in shell.run("-C", "runs", "remote", "list").stdout
    assert "all of it is needed" in shell.run("-C", "runs", "remote", "gc").stdout
    assert "is forgotten here" in shell.run("-C", "runs", "remote", "remove", "origin").stdout
    assert "No remotes yet" in shell.run("-C", "runs", "remote", "list").stdout


def test_json(shell: Shell) -> None:
    added(shell, "--jobs", "2", "--limit-rate", "50M")
    assert shell.json("-C", "runs", "remote", "list")["result"][0]["limit_bytes_per_s"] == 50_000_000
    pushed = shell.json("-C", "runs", "push", "--all")["result"]
    assert pushed["moves"][0]["name"] == "heads/main"
    cloned = shell.json("clone", "store", "other", "--depth", "1")["result"]
    assert (cloned["head"], cloned["branches"]) == ("main", ["main"])
    assert cloned["fetched"]["holes"] > 0
    assert shell.json("-C", "other", "pull")["result"]["record"] is None
    assert shell.json("-C", "other", "status")["result"]["following"] == [
        {"remote": "origin", "name": "origin/main", "ahead": 0, "behind": 0}
    ]
    error = shell.json("-C", "other", "push", "orgin", code=1)["error"]
    assert (error["code"], error["hint"], error["exit_code"]) == ("not-found", "did you mean origin?", 1)


def test_three_lines_for_a_conflict(shell: Shell) -> None:
    added(shell)
    shell.run("-C", "runs", "push")
    shell.run("clone", "store", "other")
    for place in ("runs", "other"):
        shell.run("-C", place, "commit", "m.pt", "--allow-empty", "-m", f"of {place}")
    shell.run("-C", "other", "push")
    said = shell.run("-C", "runs", "push", code=1).stderr.splitlines()
    assert [line[:7] for line in said] == ["error: ", "  its c", "  Fix: "]
    said = shell.run("-C", "runs", "pull", code=1).stderr.splitlines()
    assert [line[:7] for line in said] == ["error: ", "  each ", "  Fix: "]
    assert "1 ahead, 1 behind of origin/main." in shell.run("-C", "runs", "status").stdout
    assert "(forced)" in shell.run("-C", "runs", "pull", "--force").stdout


def test_exit_codes_over_s3(shell: Shell, s3: S3Server) -> None:
    bucket = s3.bucket()
    shell.run("-C", "runs", "remote", "add", "origin", s3.url(bucket, "team/runs"))
    shell.run("-C", "runs", "push")
    denied = {"AWS_ACCESS_KEY_ID": "EXPIRED", "AWS_SECRET_ACCESS_KEY": "EXPIREDSECRET"}
    for command in ("push", "pull", "fetch"):
        said = shell.run("-C", "runs", command, code=12, **denied).stderr
        assert "Fix: log in anew" in said
        assert "SECRET" not in said
    shell.run("clone", s3.url(bucket, "team/runs"), "x", code=12, **denied)
    shell.run("-C", "runs", "remote", "test", code=12, **denied)
    reader = {"AWS_ACCESS_KEY_ID": "READER", "AWS_SECRET_ACCESS_KEY": "READERSECRET"}
    told = shell.run("-C", "runs", "remote", "test", code=4, **reader).stdout
    assert "no   it is read-only for us" in told
    assert "Good for pull; not for push, gc." in told
    shell.run("clone", s3.url("no-such-bucket"), "x", code=1)
    assert not (shell.folder / "x").exists()
    shell.run("clone", s3.url(bucket, "team/runs"), "x")
    shell.run("-C", "x", "verify", "--read-data")
    shell.run("clone", "s3://me:SECRET@bucket", "y", code=2)


def test_retries_are_told_of(shell: Shell, s3: S3Server, fault_proxy: FaultProxy) -> None:
    url = s3.url(s3.bucket(), port=fault_proxy.port)
    shell.run("-C", "runs", "remote", "add", "origin", url, "--no-test")
    fault_proxy.rules({"match": "^GET .*root", "count": 2, "action": "status", "status": 503})
    ran = shell.run("-C", "runs", "push")
    assert "trying again in" in ran.stderr
    assert "Sent " in ran.stdout


def test_what_is_asked_for_is_checked(shell: Shell) -> None:
    added(shell)
    for wrong in (
        ("push", "--limit-rate", "fast"),
        ("push", "--timeout", "30"),
        ("push", "--jobs", "0"),
        ("push", "origin", "main", "--all"),
        ("push", "--delete"),
        ("pull", "origin", "main", "--all"),
        ("fetch", "--metadata", "--fill"),
        ("fetch", "--depth", "0"),
        ("remote", "add", "a/b", "store"),
        ("remote", "gc", "--grace", "soon"),
    ):
        shell.run("-C", "runs", *wrong, code=2)
    shell.run("-C", "runs", "push", "origin", "mian", code=13)


def test_remote_names_are_completed(shell: Shell) -> None:
    added(shell)
    environment = {
        **os.environ,
        "_CKSTORE_COMPLETE": "complete_bash",
        "COMP_WORDS": "ckstore -C runs push o",
        "COMP_CWORD": "4",
        "XDG_CACHE_HOME": str(shell.folder / "cache"),
    }
    program = [sys.executable, "-c", "from ckstore.cli.main import run; run()"]
    ran = subprocess.run(program, cwd=shell.folder, capture_output=True, text=True, env=environment, check=False)
    assert ran.stdout.split() == ["origin"]


def test_help_and_folders_load_no_cloud(shell: Shell) -> None:
    code = (
        "import sys\nsys.argv = {arguments!r}\nfrom ckstore.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "import json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})), file=sys.stderr)"
    )
    added(shell)
    for arguments in (["ckstore", "push", "--help"], ["ckstore", "-C", "runs", "push"], ["ckstore", "clone", "--help"]):
        program = [sys.executable, "-c", code.format(arguments=arguments)]
        ran = subprocess.run(program, cwd=shell.folder, capture_output=True, text=True, check=True)
        loaded = set(json.loads(ran.stderr.splitlines()[-1]))
        assert not {"boto3", "botocore", "torch"} & loaded, arguments
