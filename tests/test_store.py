"""The store's own parts: canonical JSON, files on a local disk, digests of a user's files."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.errors import UserError
from raysel.store import SETTLED_NS, Store, canonical_json, digest, file_digest
from tests import toy_stage

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reordered(value: object) -> object:
    """The same value with every dict filled in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(PLAIN)
def test_the_order_of_keys_changes_no_digest(value: object) -> None:
    assert canonical_json(value) == canonical_json(reordered(value))
    assert digest(value) == digest(reordered(value))


@given(PLAIN)
def test_canonical_json_loses_nothing(value: object) -> None:
    assert json.loads(canonical_json(value)) == value
    assert digest(json.loads(canonical_json(value))) == digest(value), "a plan read back has another digest"


@given(PLAIN, PLAIN)
def test_different_values_have_different_digests(one: object, other: object) -> None:
    assert (canonical_json(one) == canonical_json(other)) == (digest(one) == digest(other))


def test_canonical_json_refuses_what_is_not_a_number() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            digest({"loss": value})


def test_a_digest_stays_the_same_over_releases() -> None:
    """Every address of every user's storage hangs on this."""
    assert digest({"b": [1, 2.5, None, True], "a": "ü"}) == "5cffe7b2256261270211e66d"


def test_a_relative_folder_is_the_same_place_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("runs/here")
    store.write_json("a.json", 1)
    sent = pickle.dumps(store)
    monkeypatch.chdir("/")
    arrived = pickle.loads(sent)  # noqa: S301 (our own bytes)
    assert arrived == store
    assert arrived.read_json("a.json") == 1
    assert store.shown("a.json") == str(tmp_path / "runs/here/a.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/runs/here").read_json("a.json") == 1
    assert Store(f"file://{tmp_path}/runs/here/").read_json("a.json") == 1


@pytest.mark.parametrize(
    "location", ["nowhere://x", "s3://bucket?no_such_option=1", "s3://", "file://host/x", "s3://a b"]
)
def test_a_place_that_cannot_be_is_the_users_mistake(location: str) -> None:
    with pytest.raises(UserError, match=r"is not a place|names no bucket"):
        Store(location).read_json("a.json")


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    """One process rewrites a file over and over; whatever is read meanwhile is one of the whole versions."""
    store = Store(str(tmp_path))
    store.write_bytes("f", b"0" * 200_000)
    code = (
        "import sys; from raysel.store import Store; store = Store(sys.argv[1])\n"
        "for i in range(60): store.write_bytes('f', str(i % 10).encode() * (200_000 + 1000 * i))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    reads = 0
    while writer.poll() is None:
        data = store.read_bytes("f")
        assert len(set(data)) == 1
        assert (len(data) - 200_000) // 1000 % 10 == int(data[:1])
        reads += 1
    assert writer.returncode == 0
    assert reads > 10
    assert [info.base_name for info in store.list_files("")] == ["f"]


def test_the_first_of_two_writers_stays_where_disks_have_no_hard_links(tmp_path: Path) -> None:
    """FAT, SMB and most FUSE file systems refuse links: there the file is looked for, then moved into place."""
    code = (
        "import errno, sys; from raysel.store import Store; store = Store(sys.argv[1])\n"
        "def refuse(event, arguments):\n"
        "    if event == 'os.link': raise OSError(errno.EPERM, 'no hard links here')\n"
        "sys.addaudithook(refuse)\n"
        "for value in (1, 2): store.write_json('plan.json', value, once=True)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert Store(str(tmp_path)).read_json("plan.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_full_disk_leaves_nothing_that_counts(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        store = Store(str(small / "runs"))
        attempt = store.attempt(toy_stage.STAGE, toy_stage.FINGERPRINT)
        plan = attempt.plan(toy_stage.choose)
        first = attempt.write_table("quota", 0, toy_stage.shard_rows(0, plan), plan=plan)
        before = store.free_bytes()
        assert 0 < before <= 256 * 1024
        with pytest.raises(OSError, match="No space left") as caught:
            attempt.write_file("model", 0, "model.safetensors", os.urandom(300_000), plan=plan)
        assert caught.value.errno == errno.ENOSPC
        assert store.free_bytes() == pytest.approx(before, abs=8192), "the part that was written is still there"
        (small / "ballast").write_bytes(bytes(store.free_bytes() - 4096))
        with pytest.raises(OSError, match="No space left"):
            [attempt.write_table("quota", i, toy_stage.shard_rows(i, plan), plan=plan) for i in range(1, 8)]
        later = store.attempt(toy_stage.STAGE, toy_stage.FINGERPRINT)
        finished = later.finished(plan)
        assert finished["quota", 0] == first
        for record in finished.values():
            assert len(store.read_bytes(f"{later.address}/{record.path}")) == record.bytes
        assert not [info.path for info in store.list_files("") if info.path.endswith(".tmp")]
        assert store.artifact(toy_stage.STAGE, toy_stage.FINGERPRINT) is None
        (small / "ballast").unlink()
        assert toy_stage.run(later).rows("quota") == 1500
    finally:
        subprocess.run(["umount", small], check=True)


def test_room_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    assert Store(str(tmp_path / "not" / "yet" / "there")).free_bytes() == pytest.approx(
        os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.5
    )


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """A file last changed long ago, as a corpus is."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("one\n")
    age(path)
    return path


def age(path: Path, seconds: float = 3600.25) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def is_remembered(store: Store, path: Path) -> bool:
    """Whether a second call answers without reading: an answer put in the store's memory beforehand comes back."""
    (known,) = store.list_files("digests") or [None]
    if known is None:
        return False
    where = store.relative(known.path)
    honest = store.read_json(where)
    store.write_json(where, {**honest, "sha256": "remembered"})
    answer = file_digest(store, str(path))
    store.write_json(where, honest)
    return answer == "remembered"


def test_an_unchanged_file_is_read_once(tmp_path: Path, users_file: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    assert file_digest(store, str(users_file)) == hashlib.sha256(b"one\n").hexdigest()
    assert is_remembered(store, users_file)
    assert is_remembered(store, users_file.parent / "." / users_file.name)


def test_a_changed_file_is_read_again(tmp_path: Path, users_file: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    before = file_digest(store, str(users_file))
    users_file.write_text("one and more\n")
    assert file_digest(store, str(users_file)) != before
    users_file.write_text("one\n")
    assert file_digest(store, str(users_file)) == before


def test_a_change_of_the_same_size_within_the_same_second_is_seen(tmp_path: Path, users_file: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    before = file_digest(store, str(users_file))
    stamp = users_file.stat().st_mtime_ns
    users_file.write_text("two\n")
    os.utime(users_file, ns=(stamp, stamp + 1))
    assert file_digest(store, str(users_file)) != before


def test_a_change_whose_time_was_put_back_is_seen(tmp_path: Path, users_file: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    before = file_digest(store, str(users_file))
    stamp = users_file.stat().st_mtime_ns
    users_file.write_text("two\n")
    os.utime(users_file, ns=(stamp, stamp))
    assert users_file.stat().st_mtime_ns == stamp
    assert file_digest(store, str(users_file)) != before


def test_a_file_put_in_its_place_is_seen(tmp_path: Path, users_file: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    before = file_digest(store, str(users_file))
    other = tmp_path / "other"
    other.write_text("two\n")
    os.utime(other, ns=(users_file.stat().st_atime_ns, users_file.stat().st_mtime_ns))
    os.replace(other, users_file)
    assert file_digest(store, str(users_file)) != before


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path, users_file: Path) -> None:
    """Its clock may not have ticked yet when it changes again."""
    store = Store(str(tmp_path / "runs"))
    age(users_file, seconds=SETTLED_NS / 1e9 / 4)
    file_digest(store, str(users_file))
    assert not is_remembered(store, users_file)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(Store(str(tmp_path)), str(tmp_path / "none.jsonl"))
