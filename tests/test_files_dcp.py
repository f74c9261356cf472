"""Folders of torch.distributed.checkpoint as trees: what was saved is there, every byte comes back, damage is told."""

from __future__ import annotations

import collections
import copy
import pickle
import random
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from ckstore.errors import Format
from ckstore.files import bundle, dcp
from ckstore.files.parsed import ParsedFile
from ckstore.files.source import HeldSource
from ckstore.torch.flatten import flatten
from tests.file_values import Bomb, Restored, assert_same, assert_same_draft, check, mutated, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckstore.files.dcp import ParsedFolder

MUTATIONS = 600

Folder = dict[str, bytes]


def saved(folder: Path, state: dict[str, Any], *, planner: Any = None, **options: Any) -> Folder:
    """`state` saved by one process, as the bytes of each file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is only one process
        state_dict_saver.save(state, storage_writer=FileSystemWriter(folder, **options), planner=planner, no_dist=True)
    return contents(folder)


def contents(folder: Path) -> Folder:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sources(files: Folder) -> dict[str, HeldSource]:
    return {name: HeldSource(data) for name, data in files.items()}


def parsed(files: Folder) -> ParsedFolder:
    """The folder, once every byte of it is known to come back."""
    found = dcp.parse(sources(files))
    assert found is not None
    assert found.files.keys() == files.keys()
    check_all(found.components, found.files, files)
    return found


def check_all(components: Mapping[str, Any], parts: Mapping[str, ParsedFile], files: Folder) -> None:
    for name, data in files.items():
        check(ParsedFile(dict(components), parts[name].segments, parts[name].gaps), memoryview(data))


def values(found: ParsedFolder) -> dict[str, Any]:
    return {name: Restored(draft).value for name, draft in found.components.items()}


def as_dcp_has_it(value: Any) -> Any:
    """A state with its dicts as DCP takes them in: plain, with text as keys."""
    if isinstance(value, dict):
        return {str(key): as_dcp_has_it(item) for key, item in value.items()}
    return [as_dcp_has_it(item) for item in value] if isinstance(value, list) else value


def some_state() -> dict[str, Any]:
    state = trained()
    base = torch.arange(30.0).reshape(5, 6)
    state["more"] = {
        "turned": base.t(),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "none": torch.empty(0, 3),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "mixed": [torch.ones(2), {"a": 1, "b": [torch.zeros(1), 5]}, "text", None],
        "tuple": (1, torch.ones(2)),
        "plain": [1, [2, 3]],
        "dotted.key": 2.5,
    }
    state["alone"] = torch.ones(70_000, dtype=torch.int16)
    return state


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Folder]:
    state = some_state()
    return state, saved(tmp_path_factory.mktemp("example") / "dcp", state)


def test_the_draft_is_that_of_an_in_memory_commit(example: tuple[dict[str, Any], Folder]) -> None:
    state, files = example
    found = parsed(files)
    assert list(found.components) == list(state)
    for name, draft in found.components.items():
        expected = as_dcp_has_it(state[name])
        assert_same(Restored(draft).value, expected)
        assert_same_draft(draft, flatten(expected, name))


@pytest.mark.parametrize(
    "options", [{"single_file_per_rank": False}, {"thread_count": 3}, {"sync_files": False}], ids=str
)
def test_every_way_of_laying_out_files_gives_the_same_drafts(
    tmp_path: Path, example: tuple[dict[str, Any], Folder], options: dict[str, Any]
) -> None:
    state, files = example
    other = parsed(saved(tmp_path / "other", state, **options))
    for name, draft in parsed(files).components.items():
        assert_same_draft(draft, other.components[name])


def test_what_is_saved_in_the_background_is_the_same(tmp_path: Path, example: tuple[dict[str, Any], Folder]) -> None:
    state, files = example
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_saver.async_save(state, checkpoint_id=tmp_path / "async", no_dist=True).result()  # type: ignore[union-attr]
    other = parsed(contents(tmp_path / "async"))
    for name, draft in parsed(files).components.items():
        assert_same_draft(draft, other.components[name])


def test_a_bare_state_dict_is_one_component(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    for number, planner in enumerate((None, DefaultSavePlanner(flatten_state_dict=False))):
        found = parsed(saved(tmp_path / str(number), state, planner=planner))
        assert_same(values(found), {"model": dict(state)})


def test_values_that_are_not_flattened(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(3), "n": 1}, "step": 4}
    found = parsed(saved(tmp_path / "dcp", state, planner=DefaultSavePlanner(flatten_state_dict=False)))
    assert_same(values(found), {"model": state})


def test_top_keys_that_are_no_component_names(tmp_path: Path) -> None:
    state = {"@files": {"w": torch.ones(3)}, "\n": {"x": 1}, "": {"y": 2}}
    assert_same(values(parsed(saved(tmp_path / "dcp", state))), {"model": state})


def test_what_is_not_known_as_data_stays_in_the_file(tmp_path: Path) -> None:
    state = {
        "model": {"w": torch.ones(3), "range": range(3)},
        "list": [torch.ones(1), range(2), torch.zeros(2)],
        "gone": {"x": torch.ones(2, dtype=torch.complex64).conj(), "y": print},
    }
    found = parsed(saved(tmp_path / "dcp", state))
    assert_same(values(found), {"model": {"w": torch.ones(3)}, "list": {"0": torch.ones(1), "2": torch.zeros(2)}})


def test_folders_are_found_where_components_can_be_named_after_them() -> None:
    source = HeldSource(b"")
    names = ["a/.metadata", "a/__0_0.distcp", "a/b/__0_0.distcp", ".metadata", "@x/.metadata", "@x/__0_0.distcp"]
    names += ["\udcff/.metadata", "\udcff/__0_0.distcp", "c/.metadata", "c/x.safetensors"]
    found = dcp.folders(dict.fromkeys(names, source))
    assert {folder: list(inside) for folder, inside in found.items()} == {"a/": [".metadata", "__0_0.distcp"]}


def test_a_value_as_deep_as_a_tree_may_be(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(199):
        deep = (deep,)
    found = parsed(saved(tmp_path / "dcp", {"a": {"b": {"deep": deep}, "c": 1}}))
    assert values(found) == {"a": {"c": 1}}


def test_other_ways_to_write_values_keep_their_bytes(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(30), "b": torch.zeros(4)}, "step": 1, "lr": [0.5]}
    files = saved(tmp_path / "safetensors", state, serialization_format=SerializationFormat.SAFETENSORS)
    assert values(parsed(files)) == {"step": 1, "lr": [0.5]}
    squeezed = saved(tmp_path / "zstd", state, _extensions=[ZStandard()])
    assert dcp.parse(sources(squeezed)) is None
    found = bundle.bundle_files(sources(squeezed))
    check_all(found.components, found.files, squeezed)


def changed(files: Folder, change: Callable[[Metadata], object]) -> Folder:
    """The files with another `.metadata`."""
    metadata = copy.deepcopy(pickle.loads(files[dcp.METADATA]))
    change(metadata)
    return {**files, dcp.METADATA: pickle.dumps(metadata)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`x` and `y`, two by three, in a dict."""
    state = {"m": {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(2, 3)}}
    return saved(tmp_path_factory.mktemp("pair") / "dcp", state)


def in_parts(metadata: Metadata, place: tuple[int, ...] = (2, 0), size: tuple[int, ...] = (4, 3)) -> None:
    """`y` becomes the part of `x` at `place`."""
    x, y = metadata.state_dict_metadata["m.x"], metadata.state_dict_metadata.pop("m.y")
    x.size = torch.Size(size)  # type: ignore[union-attr]
    x.chunks.append(ChunkStorageMetadata(torch.Size(place), y.size))  # type: ignore[union-attr]
    info = metadata.storage_data.pop(MetadataIndex("m.y", (0, 0)))
    metadata.storage_data[MetadataIndex("m.x", place)] = info


def test_a_tensor_in_parts_is_a_dict_of_them(pair: Folder) -> None:
    found = parsed(changed(pair, in_parts))
    assert_same(values(found), {"m": {"x": {"0,0": torch.arange(6.0).reshape(2, 3), "2,0": torch.ones(2, 3)}}})
    assert [span.path for span in found.components["m"].spans] == ["x.0,0", "x.2,0"]
    found = parsed(changed(pair, lambda metadata: in_parts(metadata, (0, 3), (2, 6))))
    assert list(values(found)["m"]["x"]) == ["0,0", "0,3"]


def test_an_empty_part_beside_the_whole_is_left_out(tmp_path: Path) -> None:
    files = saved(tmp_path / "dcp", {"m": {"x": torch.ones(2, 3), "y": torch.empty(0, 3)}})
    found = parsed(changed(files, lambda metadata: in_parts(metadata, (2, 0), (2, 3))))
    assert_same(values(found), {"m": {"x": torch.ones(2, 3)}})


def info_of(metadata: Metadata, key: str = "m.y") -> Any:
    return metadata.storage_data[MetadataIndex(key, (0, 0))]


def set_field(**fields: Any) -> Callable[[Metadata], None]:
    return lambda metadata: vars(metadata).update(fields)


def set_info(**fields: Any) -> Callable[[Metadata], None]:
    return lambda metadata: vars(info_of(metadata)).update(fields)


def set_tensor(**fields: Any) -> Callable[[Metadata], None]:
    return lambda metadata: vars(metadata.state_dict_metadata["m.y"]).update(fields)


def share_item(metadata: Metadata) -> None:
    metadata.storage_data[MetadataIndex("m.y", (0, 0))] = info_of(metadata, "m.x")


def reach_into(metadata: Metadata) -> None:
    """`y` begins where an archive within `x` does."""
    info_of(metadata).offset = info_of(metadata, "m.x").offset


def index_twice(metadata: Metadata) -> None:
    """Two indices that torch takes for different ones."""
    metadata.storage_data |= dict.fromkeys((MetadataIndex("m.z"), MetadataIndex("m.z", ())), info_of(metadata))


def move_part(metadata: Metadata, place: tuple[int, ...]) -> None:
    metadata.storage_data[MetadataIndex("m.y", place)] = metadata.storage_data.pop(MetadataIndex("m.y", (0, 0)))


IMPOSSIBLE: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "a missing file": (set_info(relative_path="__7_0.distcp"), "missing"),
    "beyond the file": (set_info(offset=1 << 40), "cut short"),
    "longer than the file": (set_info(length=1 << 62), "cut short"),
    "a negative offset": (set_info(offset=-4), "impossible place"),
    "a huge offset": (set_info(offset=1 << 70), "impossible place"),
    "a length that is text": (set_info(length="4"), "impossible place"),
    "an item twice": (share_item, "the same place"),
    "items that overlap": (reach_into, "the same place"),
    "an index twice": (index_twice, "stored twice"),
    "a value that is not stored": (lambda metadata: metadata.storage_data.pop(MetadataIndex("m.y", (0, 0))), "not all"),
    "another place": (lambda metadata: move_part(metadata, (1, 0)), "not all"),
    "another shape": (set_tensor(size=torch.Size([3, 2])), "not of the shape"),
    "fewer dimensions": (set_tensor(size=torch.Size([6])), "not of the shape"),
    "a part beyond the tensor": (lambda metadata: in_parts(metadata, (3, 0)), "not of the shape"),
    "a part far away": (lambda metadata: in_parts(metadata, (1 << 61, 0), (1 << 62, 3)), "make up the whole"),
    "a negative size": (set_tensor(size=torch.Size([-2, 3])), "impossible shape"),
}


@pytest.mark.parametrize(("change", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_refused(pair: Folder, change: Callable[[Metadata], object], why: str) -> None:
    with pytest.raises(Format, match=why) as told:
        dcp.parse(sources(changed(pair, change)))
    assert told.value.hint


def test_a_missing_or_shorter_file_is_refused(pair: Folder) -> None:
    for name, cut in (("__0_0.distcp", 1), ("__0_0.distcp", 1700), (dcp.METADATA, 1), (dcp.METADATA, 200)):
        with pytest.raises(Format, match="--opaque"):
            dcp.parse(sources({**pair, name: pair[name][:-cut]}))
    with pytest.raises(Format, match="missing"):
        dcp.parse(sources({dcp.METADATA: pair[dcp.METADATA], "__1_0.distcp": b""}))


NOT_UNDERSTOOD: dict[str, Callable[[Metadata], object]] = {
    "squeezed items": set_info(transform_descriptors=["stream.zstd/1"]),
    "another name": set_info(relative_path="items.bin"),
    "paths that cross": lambda metadata: metadata.planner_data.update({"m.y": ("m", "x", "y")}),
    "paths that meet": lambda metadata: metadata.planner_data.update({"m.y": ("m", "x")}),
    "a number and its text": lambda metadata: metadata.planner_data.update({"m.x": ("m", 0), "m.y": ("m", "0")}),
    "a path that is none": lambda metadata: metadata.planner_data.update({"m.y": ()}),
    "a path of floats": lambda metadata: metadata.planner_data.update({"m.y": (1.5,)}),
    "a path of long text": lambda metadata: metadata.planner_data.update({"m.y": ("m", "y" * 5000)}),
    "a path of no Unicode": lambda metadata: metadata.planner_data.update({"m.y": ("m", "\ud800")}),
    "other indices": lambda metadata: metadata.storage_data.update({"m.y": info_of(metadata)}),
    "no items": set_field(storage_data=None),
    "no values": set_field(state_dict_metadata=[1]),
    "no parts": set_tensor(chunks=None),
    "no shape": set_tensor(size=[2, 3]),
    "more dimensions than there are": set_tensor(size=torch.Size([1] * 100_000)),
}


@pytest.mark.parametrize("change", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_what_is_not_understood_is_left_alone(pair: Folder, change: Callable[[Metadata], object]) -> None:
    files = changed(pair, change)
    assert dcp.parse(sources(files)) is None
    found = bundle.bundle_files(sources(files))
    check_all(found.components, found.files, files)


@pytest.mark.parametrize("other", [None, {"state_dict_metadata": {}}, torch.Size([1]), collections.OrderedDict()])
def test_other_pickles_named_metadata_are_left_alone(pair: Folder, other: object) -> None:
    assert dcp.parse(sources({**pair, dcp.METADATA: pickle.dumps(other)})) is None


def test_paths_may_be_unknown_or_of_keys_that_are_not_there(pair: Folder) -> None:
    for paths in (None, "mine", {"m.z": ("m", "z")}):
        found = parsed(changed(pair, set_field(planner_data=paths)))
        assert list(values(found)["model"]) == ["m.x", "m.y"]
    found = parsed(changed(pair, lambda metadata: metadata.planner_data.update({"m.y": ("m", 1 << 30)})))
    assert list(values(found)["m"]) == ["x", str(1 << 30)]


def test_nothing_in_the_metadata_runs(tmp_path: Path, pair: Folder) -> None:
    canary = tmp_path / "canary"
    changes: list[Callable[[Metadata], object]] = [
        set_field(storage_meta=Bomb(f"touch {canary}")),
        set_field(planner_data=Bomb(f"touch {canary}")),
        lambda metadata: metadata.storage_data.update({"x": Bomb(f"touch {canary}")}),
    ]
    for change in changes:
        files = changed(pair, change)
        found = bundle.bundle_files(sources(files))
        check_all(found.components, found.files, files)
    assert not canary.exists()
    pickle.loads(files[dcp.METADATA])
    assert canary.exists()


def shared_chunks(metadata: Metadata) -> None:
    tensor = metadata.state_dict_metadata["m.x"]
    tensor.chunks *= 20_000  # type: ignore[union-attr]
    metadata.state_dict_metadata |= dict.fromkeys(map(str, range(20_000)), tensor)


def shared_path(metadata: Metadata) -> None:
    path = ("m" * 4000,) * 5000
    value = metadata.state_dict_metadata["m.x"]
    metadata.state_dict_metadata |= dict.fromkeys(map(str, range(5000)), value)
    metadata.planner_data |= dict.fromkeys(map(str, range(5000)), path)


BOMBS: dict[str, Callable[[Metadata], object]] = {
    "one list of parts for many tensors": shared_chunks,
    "one long path for many tensors": shared_path,
}


@pytest.mark.parametrize("change", BOMBS.values(), ids=BOMBS)
def test_what_unfolds_without_end_costs_little(pair: Folder, change: Callable[[Metadata], object]) -> None:
    with pytest.raises(Format, match="--opaque"):
        dcp.parse(sources(changed(pair, change)))


def test_a_path_as_deep_as_nothing_can_be(pair: Folder) -> None:
    files = changed(pair, lambda metadata: metadata.planner_data.update({"m.y": tuple("m" * 100_000)}))
    assert list(values(parsed(files))["m"]) == ["x"]


def test_mutations_are_told_or_kept(pair: Folder) -> None:
    rng = random.Random(5)
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(MUTATIONS):
        name = rng.choice(sorted(pair))
        files = {**pair, name: mutated(pair[name], rng)}
        try:
            found = bundle.bundle_files(sources(files))
        except Format as error:
            outcomes["refused" if error.hint else "refused without a hint"] += 1
            continue
        check_all(found.components, found.files, files)
        outcomes["read" if found.components else "opaque"] += 1
    assert set(outcomes) == {"refused", "read", "opaque"}
