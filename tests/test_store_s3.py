"""What is particular to object storage: URIs, credentials, what is missing, what does not answer, Ray workers."""

import os
import pickle
import socket
from pathlib import Path

import pytest

from raysel.errors import UserError
from raysel.store import Attempt, Store, file_digest
from tests import toy_stage
from tests.toy_stage import FINGERPRINT, STAGE, Killed


@pytest.fixture
def store(s3_bucket: str, tmp_path: Path) -> Store:
    return Store(s3_bucket.format(f"s3/{tmp_path.name}"))


def test_the_parts_of_a_uri(s3_bucket: str) -> None:
    store = Store(s3_bucket.format("some/prefix"))
    assert store.root == "bucket/some/prefix"
    assert Store(s3_bucket.format("some/prefix/")).root == "bucket/some/prefix"
    assert Store(s3_bucket.format("")).root == "bucket"
    assert not store.is_local
    assert store.free_bytes() is None
    assert store.shown("corpus/0f") == "s3://bucket/some/prefix/corpus/0f"
    assert store.relative(store.full("corpus/0f")) == "corpus/0f"


def test_the_endpoint_may_be_a_whole_url(store: Store) -> None:
    bare = store.uri.split("endpoint_override=")[1].split("&")[0]
    whole = Store(store.uri.replace(bare, f"http://{bare}").replace("&scheme=http", ""))
    store.write_json("a.json", 1)
    assert whole.read_json("a.json") == 1


def test_credentials_in_a_uri_are_shown_to_nobody(store: Store) -> None:
    store.write_json("a.json", 1)
    keyed = Store(store.uri.replace("s3://", "s3://NAME:HIDDEN@"))
    assert keyed.read_json("a.json") == 1
    assert keyed.shown("a.json") == store.shown("a.json")
    assert "HIDDEN" not in keyed.shown("")


def test_what_is_not_there(store: Store) -> None:
    assert store.read_json("none.json") is None
    assert store.list_files("none") == []
    assert store.list_files("") == []
    assert store.artifact(STAGE, FINGERPRINT) is None
    with pytest.raises(FileNotFoundError):
        store.read_bytes("none")
    with pytest.raises(FileNotFoundError):
        store.delete_folder("none")


def test_a_prefix_is_not_a_folder_of_another_name(store: Store) -> None:
    store.write_json("corpus/a.json", 1)
    store.write_json("corpus-old/b.json", 2)
    assert [store.relative(info.path) for info in store.list_files("corpus")] == ["corpus/a.json"]
    store.delete_folder("corpus")
    assert [store.relative(info.path) for info in store.list_files("")] == ["corpus-old/b.json"]


def test_a_missing_bucket_is_named(store: Store) -> None:
    elsewhere = Store(store.uri.replace("bucket/", "no-such-bucket/"))
    assert elsewhere.read_json("a.json") is None
    assert elsewhere.list_files("") == []
    with pytest.raises(UserError, match=r"s3://no-such-bucket/s3/.* cannot be written .*storage.*NO_SUCH_BUCKET"):
        elsewhere.write_json("a.json", 1)
    with pytest.raises(UserError, match="NO_SUCH_BUCKET"):
        toy_stage.run(elsewhere.attempt(STAGE, FINGERPRINT))


def test_an_endpoint_where_nobody_listens_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        nobody = Store(f"s3://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1")
        with pytest.raises(OSError, match=r"NETWORK_CONNECTION.*Could not connect"):
            nobody.artifact(STAGE, FINGERPRINT)


def test_large_files_arrive_whole(store: Store, tmp_path: Path) -> None:
    """Above 10 MB a file travels in parts; it exists once the last has arrived."""
    data = os.urandom(1 << 20) * 23
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "model.safetensors").write_bytes(data)
    attempt = store.attempt(STAGE, FINGERPRINT)
    (record,) = attempt.write_folder("model", saved)
    assert record.bytes == len(data)
    artifact = attempt.publish([record], settings={}, inputs={}, version=1, summary={})
    folder = artifact.local_folder("model", tmp_path / "scratch")
    assert (folder / "model.safetensors").read_bytes() == data
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_a_kill_while_a_large_file_travels_leaves_nothing(store: Store) -> None:
    child = toy_stage.start_child(store.uri, Killed(while_sending=23 << 20))
    child.join()
    assert child.exitcode == -9
    assert [info for info in store.list_files("") if info.path.endswith("large")] == []
    assert toy_stage.run(store.attempt(STAGE, FINGERPRINT)).rows("quota") == 1500


def test_attempts_that_choose_at_once_never_mix_their_shards(store: Store) -> None:
    """Object storage lets two attempts believe in two plans: each then counts the shards of its own only."""
    first, second = store.attempt(STAGE, FINGERPRINT), store.attempt(STAGE, FINGERPRINT)
    plans = {"scale": 10}, {"scale": 20}
    for index, (attempt, plan) in enumerate(zip((first, second), plans, strict=True)):
        attempt.write_table("quota", index, toy_stage.shard_rows(index, plan), plan=plan)
    assert [list(first.finished(plan)) for plan in plans] == [[("quota", 0)], [("quota", 1)]]
    store.write_json(f"{first.address}/plan.json", plans[1])
    artifact = toy_stage.run(store.attempt(STAGE, FINGERPRINT))
    counts = [artifact.read_shard(shard)["count"].to_pylist() for shard in artifact.shards("quota")]
    assert counts == [toy_stage.shard_rows(index, plans[1])["count"].to_pylist() for index in range(toy_stage.SHARDS)]


def test_a_users_file_on_s3_has_the_digest_of_a_local_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(b"one\n" * 500_000)
    store.write_bytes("corpus.jsonl", b"one\n" * 500_000)
    remote = store.uri.replace("?", "/corpus.jsonl?")
    assert file_digest(store, remote) == file_digest(store, str(tmp_path / "corpus.jsonl"))
    store.write_bytes("corpus.jsonl", b"two\n" * 500_000)
    assert file_digest(store, remote) != file_digest(store, str(tmp_path / "corpus.jsonl"))
    with pytest.raises(FileNotFoundError):
        file_digest(store, store.uri.replace("?", "/none.jsonl?"))


def test_only_the_uri_travels(store: Store) -> None:
    store.write_json("a.json", 1)
    sent = pickle.dumps(store.attempt(STAGE, FINGERPRINT))
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    assert pickle.loads(sent).store.read_json("a.json") == 1  # noqa: S301 (our own bytes)


def write_shard(attempt: Attempt, index: int) -> tuple[str, str]:
    record = attempt.write_table("quota", index, toy_stage.shard_rows(index, toy_stage.choose()), plan={"scale": 10})
    return record.path, os.environ["AWS_ACCESS_KEY_ID"]


def test_workers_write_with_the_credentials_of_their_environment(store: Store, cluster) -> None:
    attempt = store.attempt(STAGE, FINGERPRINT)
    plan = attempt.plan(toy_stage.choose)
    done = dict(cluster.map_tasks(write_shard, [(attempt, index) for index in range(toy_stage.SHARDS)]))
    assert {name for _, name in done.values()} == {os.environ["AWS_ACCESS_KEY_ID"]}
    assert {record.path for record in attempt.finished(plan).values()} == {path for path, _ in done.values()}
    assert toy_stage.run(store.attempt(STAGE, FINGERPRINT)).rows("quota") == 1500
