"""The attempt protocol under kills, races and zombies, over real processes, on local disk and on S3."""

import hashlib
import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from raysel.store import MARKER, Artifact, Attempt, ShardRecord, Store
from tests import toy_stage
from tests.toy_stage import FINGERPRINT, SHARDS, STAGE, Killed

MANIFEST = f"{STAGE}/{FINGERPRINT}/manifest.json"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of either kind."""
    if request.param == "local":
        return Store(str(tmp_path / "runs"))
    return Store(request.getfixturevalue("s3_bucket").format(f"contract/{tmp_path.name}"))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def new_attempt(store: Store) -> Attempt:
    return store.attempt(STAGE, FINGERPRINT)


def content(artifact: Artifact) -> list[tuple]:
    """What must be the same however the artifact came about."""
    return [(shard.table, shard.index, shard.rows, shard.bytes, shard.sha256) for shard in artifact.shards("quota")]


def expected() -> pa.Table:
    return pa.concat_tables([toy_stage.shard_rows(index, toy_stage.choose()) for index in range(SHARDS)])


def markers(store: Store) -> Counter:
    """How many attempts finished each shard, by the shard's name without the hash of its content."""
    names = [info.path.rsplit("/", 1)[1] for info in store.list_files(STAGE)]
    return Counter(name.rsplit("-", 1)[0] for name in names if name.endswith(MARKER))


def carry_on(store: Store) -> Artifact:
    """Finish what earlier attempts left, and check all that a resumed artifact promises."""
    published = store.artifact(STAGE, FINGERPRINT)
    artifact = toy_stage.run(new_attempt(store))
    assert artifact.manifest == store.artifact(STAGE, FINGERPRINT).manifest
    assert artifact.read("quota").equals(expected())
    assert published is None or published.manifest == artifact.manifest
    assert markers(store) == {f"quota-{index:05d}": 1 for index in range(SHARDS)}, "a finished shard was made again"
    return artifact


def undisturbed(tmp_path: Path) -> list[tuple]:
    return content(toy_stage.run(new_attempt(Store(str(tmp_path / "undisturbed")))))


def test_killed_before_every_step_on_the_disk(tmp_path: Path) -> None:
    wanted, killed_at = undisturbed(tmp_path), 0
    while True:
        store = Store(str(tmp_path / f"runs-{killed_at}"))
        if toy_stage.run_in_child(store.uri, Killed(event=killed_at)) == 0:
            break
        assert content(carry_on(store)) == wanted
        killed_at += 1
    # Each of the 8 files (plan, 3 shards, 3 markers, manifest) takes at least: open, move into place, clean up.
    assert killed_at >= 24


@pytest.mark.parametrize("file_bytes", [0, 1, 20, 200, 600, 1000])
def test_killed_in_the_middle_of_a_file(local: Store, tmp_path: Path, file_bytes: int) -> None:
    assert toy_stage.run_in_child(local.uri, Killed(file_bytes=file_bytes)) == -signal.SIGXFSZ
    (torn,) = [info for info in local.list_files("") if info.path.endswith(".tmp")]
    assert torn.size == file_bytes, "the write was not cut short, so this proves nothing"
    assert content(carry_on(local)) == undisturbed(tmp_path)


@pytest.mark.parametrize("when", ["before_write", "after_write"])
def test_killed_around_every_file(store: Store, tmp_path: Path, when: str) -> None:
    wanted, killed_at = undisturbed(tmp_path), 0
    while True:
        each = Store(store.uri.replace(tmp_path.name, f"{tmp_path.name}/{killed_at}"))
        if toy_stage.run_in_child(each.uri, Killed(**{when: killed_at})) == 0:
            break
        assert content(carry_on(each)) == wanted
        killed_at += 1
    assert killed_at == 8


def test_killed_again_and_again(local: Store, tmp_path: Path) -> None:
    """Four attempts in a row die after one more shard each; together they do every shard once."""
    codes = [toy_stage.run_in_child(local.uri, Killed(after_write=2 if first else 1)) for first in (True, False, False)]
    assert codes == [-signal.SIGKILL] * 3
    assert markers(local) == {f"quota-{index:05d}": 1 for index in range(SHARDS)}
    assert local.artifact(STAGE, FINGERPRINT) is None
    assert content(carry_on(local)) == undisturbed(tmp_path)


def test_attempts_at_once_agree(store: Store, tmp_path: Path) -> None:
    children = [toy_stage.start_child(store.uri) for _ in range(4)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    artifact = store.artifact(STAGE, FINGERPRINT)
    assert content(artifact) == undisturbed(tmp_path)
    assert artifact.read("quota").equals(expected())


def test_attempts_at_once_use_one_plan(local: Store) -> None:
    def plan_of(index: int) -> dict:
        attempt = new_attempt(local)
        together.wait()
        return attempt.plan(lambda: {"scale": index})

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(25):
            plans = list(pool.map(plan_of, range(8)))
            assert all(plan == plans[0] for plan in plans)
            local.delete_folder(STAGE)


def test_attempts_at_once_publish_one_manifest(local: Store) -> None:
    attempts = [new_attempt(local) for _ in range(8)]
    shards = [[attempt.write_table("quota", 0, toy_stage.shard_rows(0, {"scale": 10}))] for attempt in attempts]
    together = threading.Barrier(8)

    def publish(index: int) -> dict:
        together.wait()
        return attempts[index].publish(shards[index], settings={}, inputs={}, version=1, summary={}).manifest

    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(publish, range(8)))
    assert all(manifest == manifests[0] for manifest in manifests)


def test_the_plan_is_chosen_once(store: Store) -> None:
    first = new_attempt(store).plan(lambda: {"tokens": 1024, "ratio": 0.1})
    assert first == {"tokens": 1024, "ratio": 0.1}
    assert new_attempt(store).plan(lambda: pytest.fail("chosen a second time")) == first


def test_the_first_to_publish_stays(store: Store) -> None:
    first = toy_stage.run(new_attempt(store))
    before = store.read_bytes(MANIFEST)
    late = new_attempt(store)
    record = late.write_table("quota", 0, toy_stage.shard_rows(9, {"scale": 1}))
    second = late.publish([record], settings={}, inputs={}, version=1, summary={"late": True})
    assert second.manifest == first.manifest
    assert store.read_bytes(MANIFEST) == before


def test_a_zombie_does_no_harm(store: Store) -> None:
    """A writer that was given up for dead goes on, in its own attempt and in the one that was published."""
    zombie = new_attempt(store)
    zombie.write_table("quota", 0, toy_stage.shard_rows(0, toy_stage.choose()), plan=zombie.plan(toy_stage.choose))
    published = new_attempt(store)
    artifact = toy_stage.run(published)
    before = store.read_bytes(MANIFEST)
    for writer in (zombie, published):
        for index in range(SHARDS + 1):
            writer.write_table("quota", index, toy_stage.shard_rows(index, {"scale": 77}), plan=toy_stage.choose())
    zombie.plan(lambda: {"scale": 77})
    zombie.publish([], settings={}, inputs={}, version=9, summary={})
    assert store.read_bytes(MANIFEST) == before
    for seen in (artifact, store.artifact(STAGE, FINGERPRINT)):
        assert seen.read("quota").equals(expected())
        assert seen.rows("quota") == expected().num_rows


def test_readers_open_only_what_the_manifest_lists(store: Store) -> None:
    artifact = toy_stage.run(new_attempt(store))
    folder = f"{artifact.address}/{artifact.manifest['attempt']}"
    for name in ("quota-00000.parquet", "quota-00009-deadbeef.parquet", "_metadata", "quota-00001.parquet.tmp"):
        store.write_bytes(f"{folder}/{name}", b"not a parquet file")
    seen = store.artifact(STAGE, FINGERPRINT)
    assert seen.read("quota").equals(expected())
    assert seen.read("quota", ["count"], filters=[("count", ">", 90)]).column_names == ["count"]
    assert [seen.read_shard(shard).num_rows for shard in seen.shards("quota")] == [500] * SHARDS
    with pytest.raises(FileNotFoundError, match="no table 'scores'"):
        seen.read("scores")


def one_shard(store: Store) -> tuple[Attempt, ShardRecord]:
    attempt = new_attempt(store)
    record = attempt.write_table("quota", 0, toy_stage.shard_rows(0, {"scale": 1}), plan={"scale": 1})
    assert list(new_attempt(store).finished({"scale": 1}).values()) == [record]
    return attempt, record


def test_a_truncated_file_does_not_count(store: Store) -> None:
    attempt, record = one_shard(store)
    path = f"{attempt.address}/{record.path}"
    store.write_bytes(path, store.read_bytes(path)[:-1])
    assert new_attempt(store).finished({"scale": 1}) == {}


def test_a_missing_file_does_not_count(store: Store) -> None:
    attempt, record = one_shard(store)
    store.filesystem.delete_file(store.full(f"{attempt.address}/{record.path}"))
    assert new_attempt(store).finished({"scale": 1}) == {}


def test_a_file_without_a_marker_does_not_count(store: Store) -> None:
    attempt, record = one_shard(store)
    store.filesystem.delete_file(store.full(f"{attempt.address}/{record.path}{MARKER}"))
    assert new_attempt(store).finished({"scale": 1}) == {}


@pytest.mark.parametrize("marker", [b"", b"{", b"\xff", b"[]", b'{"path": "x"}', b'{"unheard": 1}'])
def test_an_unreadable_marker_does_not_count(store: Store, marker: bytes) -> None:
    attempt, record = one_shard(store)
    store.write_bytes(f"{attempt.address}/{record.path}{MARKER}", marker)
    assert new_attempt(store).finished({"scale": 1}) == {}


def test_a_shard_of_another_plan_does_not_count(store: Store) -> None:
    one_shard(store)
    assert new_attempt(store).finished({"scale": 2}) == {}
    assert new_attempt(store).finished() == {}
    second = new_attempt(store).write_table("quota", 0, toy_stage.shard_rows(1, {"scale": 2}), plan={"scale": 2})
    assert new_attempt(store).finished({"scale": 2}) == {("quota", 0): second}
    assert new_attempt(store).finished({"scale": 1})["quota", 0].sha256 != second.sha256


def test_publishing_what_is_not_there_whole_is_refused(store: Store) -> None:
    attempt, record = one_shard(store)
    store.write_bytes(f"{attempt.address}/{record.path}", b"short")
    with pytest.raises(OSError, match=f"has 5 bytes, not the {record.bytes} written"):
        attempt.publish([record], settings={}, inputs={}, version=1, summary={})
    assert store.artifact(STAGE, FINGERPRINT) is None


def test_publishing_a_shard_twice_is_refused(store: Store) -> None:
    attempt, record = one_shard(store)
    again = attempt.write_table("quota", 0, toy_stage.shard_rows(1, {"scale": 1}))
    with pytest.raises(ValueError, match="shard 0 of quota is listed twice"):
        attempt.publish([record, again], settings={}, inputs={}, version=1, summary={})
    assert store.artifact(STAGE, FINGERPRINT) is None


@pytest.mark.parametrize("summary", [{"loss": float("nan")}, {"loss": float("inf")}, {"path": Path("x")}])
def test_a_summary_that_is_not_json_publishes_nothing(local: Store, summary: dict) -> None:
    attempt, record = one_shard(local)
    with pytest.raises((ValueError, TypeError)):
        attempt.publish([record], settings={}, inputs={}, version=1, summary=summary)
    assert local.artifact(STAGE, FINGERPRINT) is None


def test_the_manifest_says_what_was_made_of_what(store: Store) -> None:
    attempt = new_attempt(store)
    records = [attempt.write_table("quota", i, toy_stage.shard_rows(i, {"scale": 1})) for i in (2, 0, 1)]
    attempt.publish(
        records, settings={"k": 3}, inputs={"corpus": "abc"}, version=4, summary={"n": 1}, versions={"torch": "2"}
    )
    manifest = json.loads(store.read_bytes(MANIFEST))
    assert [(entry["index"], entry["rows"]) for entry in manifest["files"]] == [(0, 500), (1, 500), (2, 500)]
    assert all(entry["sha256"] and entry["bytes"] for entry in manifest["files"])
    assert manifest["rows"] == {"quota": 1500}
    assert manifest["settings"] == {"k": 3}
    assert manifest["inputs"] == {"corpus": "abc"}
    assert (manifest["stage"], manifest["fingerprint"], manifest["stage_version"]) == (STAGE, FINGERPRINT, 4)
    assert manifest["versions"]["torch"] == "2"
    assert "raysel" in manifest["versions"]
    assert manifest["wall_seconds"] >= 0
    assert manifest["schema_version"] == 2


def publish_as(store: Store, stage: str, **inputs: str) -> Artifact:
    return store.attempt(stage, "f").publish([], settings={}, inputs=inputs, version=1, summary={})


def test_lineage_goes_from_an_artifact_to_all_it_descends_from(store: Store) -> None:
    corpus = publish_as(store, "corpus", files="0123abcd")
    vectors = publish_as(store, "vectors", corpus=corpus.address, model="4567cdef")
    scores = publish_as(store, "scores", vectors=vectors.address)
    publish_as(store, "pool", scores=scores.address)
    order = publish_as(store, "order", scores=scores.address, corpus=corpus.address)
    assert corpus.lineage() == []
    assert order.lineage() == [corpus, vectors, scores]
    content = store.read_bytes("scores/f/manifest.json")
    assert scores.manifest_digest() == hashlib.sha256(content).hexdigest()
    store.delete_folder("vectors/f")
    with pytest.raises(FileNotFoundError, match=r"vectors/f, of which scores/f is made, is gone"):
        order.lineage()


def test_an_artifact_of_several_tables_and_arrays(store: Store) -> None:
    import numpy as np

    attempt = new_attempt(store)
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    partial = attempt.write_array("moments", 7, array, plan={"tile": 4})
    rows = attempt.write_table("quota", 0, toy_stage.shard_rows(0, {"scale": 1}), plan={"tile": 4}, summary={"n": 5})
    found = new_attempt(store).finished({"tile": 4})
    assert found == {("moments", 7): partial, ("quota", 0): rows}
    assert new_attempt(store).read_array(found["moments", 7]).tolist() == array.tolist()
    assert found["quota", 0].summary == {"n": 5}
    assert new_attempt(store).read_bytes(found["quota", 0]) == store.read_bytes(f"{attempt.address}/{rows.path}")


def test_a_folder_of_files_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    files = {"config": b"x", "config.json": b"{}", "empty": b"", "model.safetensors": bytes(range(256)) * 4000}
    for name, data in files.items():
        (saved / name).write_bytes(data)
    attempt = new_attempt(store)
    records = attempt.write_folder("model", saved)
    artifact = attempt.publish(records, settings={}, inputs={}, version=1, summary={})
    assert [shard.bytes for shard in artifact.shards("model")] == [len(data) for data in files.values()]
    for _ in range(2):
        folder = artifact.local_folder("model", tmp_path / "scratch")
        assert {name: (folder / name).read_bytes() for name in files} == files
        if not store.is_local:
            (folder / "model.safetensors").write_bytes(b"a download that was cut short")
    with pytest.raises(FileNotFoundError, match="no table 'adapter'"):
        artifact.local_folder("adapter", tmp_path)


def test_a_deleted_artifact_is_gone(store: Store) -> None:
    toy_stage.run(new_attempt(store))
    store.delete_folder(f"{STAGE}/{FINGERPRINT}")
    assert store.artifact(STAGE, FINGERPRINT) is None
    assert store.list_files(STAGE) == []
    assert new_attempt(store).finished(toy_stage.choose()) == {}
    assert toy_stage.run(new_attempt(store)).read("quota").equals(expected())


def test_events_come_back_in_the_order_they_were_written(store: Store) -> None:
    assert list(store.events()) == []
    lines = [{"event": "start", "reason": "line\nbreak \u2028 \u0085 \x1c"}, {"event": "end", "seconds": 0.5}]
    store.write_event_log("20260102T000000-b", lines[:1])
    store.write_event_log("20260102T000000-b", lines)
    store.write_event_log("20260101T000000-a", [{"event": "start"}])
    store.write_bytes("events/notes.txt", b"not an event")
    assert list(store.events()) == [{"event": "start"}, *lines]
