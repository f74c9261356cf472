"""What remotes cost, in one run: `python -m benchmarks.bench_remote [--json FILE] [--folder DIR] [--restic BINARY]`.

The remote is the tests' strict S3 server on this machine, so that it takes its share of the same cores.
Pushes: a network trained with AdamW, committed and pushed checkpoint by checkpoint: bytes and requests against the
stored bytes of what was new, and a push and a fetch with nothing to do. Metadata is all that went up but frames of
chunks: root, segments, tables, packs of trees and commits.
Rates: a push and a clone of 1 GB, each a process of its own with its peak memory, in turn with plain boto3 transfers of
the same packs on as many threads, to files and from files, each after memory has been touched (`warm`).
Tensor: one tensor of the newest of two checkpoints of 1 GB, read cold by range.
Restic: the same checkpoints as files, each backed up (commit and push, whole processes) with either. Debian has the
binary (`apt-get download restic`, `dpkg -x`); without --restic that part is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import ckstore
from ckstore.digest import Kind
from ckstore.objects.encoding import decode_commit
from ckstore.objects.reader import read_tree
from ckstore.objects.structure import Structure
from ckstore.objects.tree import run_of, split_ids
from ckstore.pack.format import FRAME_HEADER_SIZE
from ckstore.remote.connect import connect
from ckstore.remote.counting import Counting, Counts
from ckstore.sync.fetch import FetchRequest, fetch
from ckstore.sync.push import Pushed, PushRequest, push
from ckstore.sync.remote_objects import RemoteObjects
from ckstore.sync.repository_local import RepositoryLocal
from ckstore.torch.lazy import Section, lazy
from tests.servers.running import running
from tests.servers.strict_s3 import KEY, REGION, SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckstore.remote.interface import Remote

JOBS = 4
WARM_BYTES = 2 << 30
RUNS = 3
COMMITS = 10
WIDTH = 1024
LAYERS = 64
LAYER = 4 << 20
STEPS = 10

State = dict[str, Any]

_HEAD = """
import json, pathlib, sys, time
began = time.perf_counter()
from ckstore.remote.connect import connect
from ckstore.remote.retry import Retrying
from ckstore.repository import open_repository
from ckstore.storage.store import create
from ckstore.sync.fetch import FetchRequest, fetch
from ckstore.sync.push import PushRequest, push
from ckstore.sync.repository_local import RepositoryLocal
folder, cache, jobs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[4])
remote = Retrying(connect(sys.argv[3]))
pathlib.Path("/proc/self/clear_refs").write_text("5")
loaded = time.perf_counter()
"""
_TAIL = """
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"s": time.perf_counter() - loaded, "start_s": loaded - began, "peak_bytes": peak}))
"""
_PUSH = f"""{_HEAD}
repository = open_repository(folder, cache)
wanted = {{"heads/main": repository.commits().branches["main"]}}
push(remote, RepositoryLocal(repository), PushRequest(wanted, head="main", jobs=jobs))
{_TAIL}"""
_CLONE = f"""{_HEAD}
folder.mkdir()
create(folder, "heads/main")
fetch(remote, RepositoryLocal(open_repository(folder, cache)), FetchRequest("origin", 1, jobs=jobs))
{_TAIL}"""
_BACKUP = f"""{_HEAD}
import ckstore
with ckstore.open(folder, cache=cache) as repo:
    repo.commit_files(sys.argv[5])
    local = RepositoryLocal(repo._repository)
    push(remote, local, PushRequest({{"heads/main": bytes.fromhex(repo["HEAD"].id)}}, head="main", jobs=jobs))
"""


class Server:
    """The S3 server; each place of a remote on it is a new bucket."""

    def __init__(self, port: int) -> None:
        import boto3

        self.endpoint = f"http://127.0.0.1:{port}"
        self.client = boto3.client("s3", endpoint_url=self.endpoint)

    def bucket(self) -> str:
        """A new one."""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def url(self, bucket: str) -> str:
        """The remote in a bucket."""
        return f"s3://{bucket}?endpoint={self.endpoint}&region={REGION}"

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """The objects of a bucket with their lengths."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def empty(self, bucket: str) -> None:
        """Delete what is in a bucket."""
        for key in self.sizes(bucket):
            self.client.delete_object(Bucket=bucket, Key=key)


def training(commits: int) -> Iterator[State]:
    """The states of a run, one for each commit; good until the next."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)]
    model = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.GELU())))
    teacher = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(commits):
        for _ in range(STEPS):
            inputs = torch.randn(64, WIDTH)
            loss = torch.nn.functional.mse_loss(model(inputs), teacher(inputs).detach())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        yield {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def raw_bytes(value: object) -> int:
    """The bytes of the tensors of a state."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(raw_bytes, value.values()))
    return sum(map(raw_bytes, value)) if isinstance(value, (list, tuple)) else 0


def sent(repo: ckstore.Repo, remote: Remote) -> Pushed:
    """The branch pushed."""
    wanted = {"heads/main": bytes.fromhex(repo["HEAD"].id)}
    return push(remote, RepositoryLocal(repo._repository), PushRequest(wanted, head="main", jobs=JOBS))


def pushes(server: Server, folder: Path) -> dict[str, float]:
    """Commits pushed one after another; the worst push counts, the first one apart."""
    bucket = server.bucket()
    counts = Counts()
    raw, chunk_bytes, worst_ratio, worst_requests = 0, 0, 0.0, 0
    with ckstore.open(folder / "pushes", cache=folder / "cache") as repo, connect(server.url(bucket)) as plain:
        remote: Remote = Counting(plain, counts)
        known: set[bytes] = set()
        for number, state in enumerate(training(COMMITS)):
            raw += raw_bytes(state)
            repo.commit(state, step=number)
            frames = repo._repository.store.ask(lambda view: [place.frame for place in view.locations()])
            new = [frame for frame in frames if frame.id not in known]
            known.update(frame.id for frame in new)
            stored = sum(FRAME_HEADER_SIZE + frame.stored_length for frame in new)
            chunk_bytes += sum(frame.stored_length for frame in new if frame.kind is Kind.CHUNK)
            before = counts.traffic()
            packs = sent(repo, remote).packs
            after = counts.traffic()
            if number:
                worst_ratio = max(worst_ratio, (after.up_bytes - before.up_bytes) / stored)
                worst_requests = max(worst_requests, after.total - before.total - packs)
        up = counts.traffic()
        sent(repo, remote)
        pushed = counts.traffic()
        request = FetchRequest("origin", 1)
        fetch(remote, RepositoryLocal(repo._repository), request)
        before = counts.traffic()
        fetch(remote, RepositoryLocal(repo._repository), request)
        fetched = counts.traffic()
    server.empty(bucket)
    return {
        "commits": float(COMMITS),
        "raw_bytes": float(raw),
        "up_bytes": float(up.up_bytes),
        "up / stored, worst": worst_ratio,
        "requests beyond packs, worst": float(worst_requests),
        "requests of an empty push": float(pushed.total - up.total),
        "requests of an empty fetch": float(fetched.total - before.total),
        "metadata_bytes": float(up.up_bytes - chunk_bytes),
        "metadata / raw": (up.up_bytes - chunk_bytes) / raw,
    }


def large(folder: Path) -> Iterator[ckstore.Repo]:
    """A repository with one checkpoint of 1 GB, then with a second one."""
    generator = torch.Generator().manual_seed(0)
    layers = {f"layer{n}": torch.randn(LAYER, generator=generator) for n in range(LAYERS)}
    with ckstore.open(folder / "large", cache=folder / "cache") as repo:
        for _ in range(2):
            repo.commit({"model": layers})
            yield repo
            for layer in layers.values():
                layer += torch.randn(LAYER, generator=generator) * 1e-4


def run(script: str, *arguments: object) -> dict[str, float]:
    """What a script in a process of its own says of itself."""
    words = [sys.executable, "-c", script, *map(str, arguments)]
    said: dict[str, float] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return said


def rates(server: Server, folder: Path) -> dict[str, float]:
    """Push, plain upload, clone, plain download of the same packs, in turn."""
    found: dict[str, list[float]] = {}
    size_bytes = 0
    for number in range(RUNS):
        bucket, copies = server.bucket(), server.bucket()
        url, clone, plain = server.url(bucket), folder / f"clone{number}", folder / f"plain{number}"
        shutil.rmtree(folder / "large/.ckstore/remotes", ignore_errors=True)
        warm()
        push = run(_PUSH, folder / "large", folder / "cache", url, JOBS)
        packs = server.sizes(bucket, "packs/")
        size_bytes = sum(packs.values())
        plain.mkdir()
        warm()
        down_s = transfer(partial(get, server, bucket), packs, plain)
        warm()
        up_s = transfer(partial(put, server, copies), packs, plain)
        warm()
        cloned = run(_CLONE, clone, folder / f"cache{number}", url, JOBS)
        for name, value in {
            "push_s": push["s"],
            "push_peak_bytes": push["peak_bytes"],
            "plain_up_s": up_s,
            "clone_s": cloned["s"],
            "clone_peak_bytes": cloned["peak_bytes"],
            "plain_down_s": down_s,
        }.items():
            found.setdefault(name, []).append(value)
        for gone in (clone, plain):
            shutil.rmtree(gone)
        server.empty(bucket)
        server.empty(copies)
    middle = {key: max(values) if "peak" in key else statistics.median(values) for key, values in found.items()}
    return {
        "bytes": float(size_bytes),
        **middle,
        "push rate / plain": middle["plain_up_s"] / middle["push_s"],
        "clone rate / plain": middle["plain_down_s"] / middle["clone_s"],
    }


def warm() -> None:
    """Take memory from a virtual machine's host and let it go: whoever comes next would pay for it alone."""
    touched = np.zeros(WARM_BYTES, np.uint8)
    touched[::4096] = 1


def get(server: Server, bucket: str, key: str, file: Path) -> None:
    """One plain download."""
    file.write_bytes(server.client.get_object(Bucket=bucket, Key=key)["Body"].read())


def put(server: Server, bucket: str, key: str, file: Path) -> None:
    """One plain upload."""
    with file.open("rb") as body:
        server.client.put_object(Bucket=bucket, Key=key, Body=body)


def transfer(one: Callable[[str, Path], None], keys: dict[str, int], folder: Path) -> float:
    """The time that plain transfers of `keys` take on JOBS threads, from or to files."""
    began = time.perf_counter()
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(lambda key: one(key, folder / key.rpartition("/")[2]), keys))
    return time.perf_counter() - began


def tensor(server: Server, repo: ckstore.Repo, folder: Path) -> dict[str, float]:
    """A tensor of 16 MB out of 1 GB, the second of two checkpoints; nothing is known of the remote before."""
    store = repo._repository.store
    bucket = server.bucket()
    with connect(server.url(bucket)) as remote:
        sent(repo, remote)
    want = repo["HEAD"]["model"]["layer7"].load()
    counts = Counts()
    with ckstore.open(folder / "cold", cache=folder / "cold-cache") as cold, connect(server.url(bucket)) as plain:
        began = time.perf_counter()
        objects = RemoteObjects(Counting(plain, counts), RepositoryLocal(cold._repository))
        (component,) = decode_commit(objects.read(Kind.COMMIT, bytes.fromhex(repo["HEAD"].id))).components
        structure = Structure("model", read_tree(objects, component.tree))
        section = lazy(structure, objects)
        assert isinstance(section, Section)
        got = section["layer7"].load()
        took = time.perf_counter() - began
    assert torch.equal(got, want)
    (node,) = [node for node in structure.nodes if node.keys == ("layer7",)]
    places = {place for id in split_ids(run_of(node.entry.value)) for place in store.objects.chain(id)}
    chains = sum(FRAME_HEADER_SIZE + place.frame.stored_length for place in places)
    server.empty(bucket)
    return {
        "raw_bytes": float(want.nbytes),
        "chains_bytes": float(chains),
        "read_bytes": float(objects.read_bytes),
        "read / chains": objects.read_bytes / chains,
        "catalog_bytes": float(objects.catalog_bytes),
        "all_bytes": float(counts.traffic().down_bytes),
        "requests": float(counts.traffic().total),
        "s": took,
    }


def backups(server: Server, folder: Path, restic: Path) -> dict[str, float]:
    """The same files, one after another, with restic and with ckstore."""
    theirs, ours = server.bucket(), server.bucket()
    environment = {
        **os.environ,
        "RESTIC_REPOSITORY": f"s3:{server.endpoint}/{theirs}",
        "RESTIC_PASSWORD": "password",
        "RESTIC_CACHE_DIR": str(folder / "restic"),
    }
    subprocess.run([restic, "init"], env=environment, stdout=subprocess.DEVNULL, check=True)
    with ckstore.open(folder / "backups", cache=folder / "cache"):
        pass
    script = [
        sys.executable,
        "-c",
        _BACKUP,
        str(folder / "backups"),
        str(folder / "cache"),
        server.url(ours),
        str(JOBS),
    ]
    times: dict[str, list[float]] = {"restic": [], "ckstore": []}
    file = folder / "checkpoint.pt"
    raw = 0
    for number, state in enumerate(training(COMMITS)):
        torch.save(state, file)
        raw += file.stat().st_size
        works = [("restic", [str(restic), "backup", str(file)]), ("ckstore", [*script, str(file)])]
        for name, words in works[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - began)
    sizes = {name: sum(server.sizes(bucket).values()) for name, bucket in (("restic", theirs), ("ckstore", ours))}
    return {
        "raw_bytes": float(raw),
        "restic_bytes": float(sizes["restic"]),
        "ckstore_bytes": float(sizes["ckstore"]),
        "bytes / restic": sizes["ckstore"] / sizes["restic"],
        "restic_s": sum(times["restic"]),
        "ckstore_s": sum(times["ckstore"]),
        "time / restic": sum(times["ckstore"]) / sum(times["restic"]),
    }


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--restic", type=Path, help="a restic to compare with")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        with running("tests.servers.strict_s3", "0", log=folder / "log") as port:
            server = Server(port)
            figures["load"] = {"before": os.getloadavg()[0]}
            figures["pushes"] = pushes(server, folder)
            checkpoints = large(folder)
            next(checkpoints)
            figures["rates"] = rates(server, folder)
            figures["tensor"] = tensor(server, next(checkpoints), folder)
            checkpoints.close()  # type: ignore[attr-defined]
            if asked.restic is not None:
                figures["restic"] = backups(server, folder, asked.restic)
            figures["load"]["after"] = os.getloadavg()[0]
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:30} {value:,.4f}" if value < 1000 else f"  {key:30} {value:,.0f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
