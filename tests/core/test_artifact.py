"""Artifacts appear whole by one rename; a kill at any moment of a commit leaves something the next run can finish."""

import multiprocessing
import os

import pytest

from bloomery.core.artifact import RECORD, Store, find_damage, locked_folder, read_artifact, seal_folder
from bloomery.core.errors import DataError, StoreError
from bloomery.core.files import sha256_file, write_text

RECORDED = {"stage": "toy", "version": 1, "fingerprint": "f" * 64, "kind": "documents", "config": {}, "inputs": {}, "metrics": {"rows": 2}}


def begin(store):
    return store.begin("toy", "f" * 64, on_wait=lambda holder: None)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_committed_folder_is_found_with_the_hashes_of_its_files_and_without_scratch(store):
    with begin(store) as work:
        write_text(work / "train" / "a.txt", "one")
        write_text(work / ".scratch" / "b.txt", "two")
        artifact = store.commit(work, RECORDED)
    found = store.find("toy", "f" * 64)
    assert found == artifact
    assert found.record["files"] == {"train/a.txt": {"bytes": 3, "sha256": sha256_file(found.path / "train" / "a.txt")}}
    assert sorted(path.name for path in found.path.iterdir()) == [RECORD, "train"]
    assert not work.exists()


def test_nothing_is_found_before_the_commit_and_work_survives(store):
    with begin(store) as work:
        write_text(work / "a.txt", "one")
    assert store.find("toy", "f" * 64) is None
    with begin(store) as work:
        assert (work / "a.txt").read_text() == "one"


def test_temporary_files_of_a_killed_writer_are_cleared_and_an_empty_work_folder_goes(store):
    with begin(store) as work:
        (work / "inner").mkdir()
        (work / "inner" / ".a.txt.tmp-123").write_text("half")
    with begin(store) as work:
        assert list((work / "inner").iterdir()) == []
        (work / "inner").rmdir()
    assert not work.exists()


def test_a_commit_cut_after_its_record_was_written_is_completed(store):
    with begin(store) as work:
        write_text(work / "a.txt", "one")
        write_text(work / ".scratch" / "b.txt", "two")
        sealed = store.commit(work, RECORDED)
    # Put the folder back where a kill between record and rename leaves it.
    sealed.path.rename(work)
    write_text(work / ".scratch" / "b.txt", "two")
    with begin(store) as again:
        recovered = store.recover(again, "toy", "f" * 64)
    assert recovered.record == sealed.record
    assert not (recovered.path / ".scratch").exists()
    assert find_damage(recovered) is None


def test_there_is_nothing_to_recover_in_an_unfinished_folder(store):
    with begin(store) as work:
        write_text(work / "a.txt", "one")
        assert store.recover(work, "toy", "f" * 64) is None


def test_a_lost_or_shortened_file_is_damage(store):
    with begin(store) as work:
        write_text(work / "a.txt", "one")
        artifact = store.commit(work, RECORDED)
    assert find_damage(artifact) is None
    (artifact.path / "a.txt").write_text("on")
    assert find_damage(artifact) == "a.txt has 2 bytes, recorded were 3"
    (artifact.path / "a.txt").unlink()
    assert find_damage(artifact) == "a.txt is missing"


def test_discard_forgets_the_artifact_and_half_made_work(store):
    with begin(store) as work:
        write_text(work / "a.txt", "one")
        store.commit(work, RECORDED)
    with begin(store) as work:
        write_text(work / "b.txt", "half")
    store.discard("toy", "f" * 64)
    assert store.find("toy", "f" * 64) is None
    assert not work.exists()
    assert [path.name for path in (store.root / "artifacts").iterdir()] == []


def _hold(root, ready, leave):
    with begin(Store(root)):
        ready.set()
        leave.wait(20)


def test_a_second_process_waits_for_the_lock_and_is_told_who_holds_it(store):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(store.root, ready, leave))
    process.start()
    assert ready.wait(20)
    assert store.is_being_made("toy", "f" * 64)
    told = []

    def on_wait(holder):
        told.append(holder)
        leave.set()

    with store.begin("toy", "f" * 64, on_wait=on_wait):
        pass
    process.join(20)
    assert len(told) == 1 and f"process {process.pid} on " in told[0]
    assert not store.is_being_made("toy", "f" * 64)


def test_the_lock_of_a_killed_process_is_free(store):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(store.root, ready, context.Event()))
    process.start()
    assert ready.wait(20)
    process.kill()
    process.join(20)
    with store.begin("toy", "f" * 64, on_wait=lambda holder: pytest.fail(f"waited for {holder}")):
        pass


def test_reading_what_is_not_an_artifact_says_so(tmp_path):
    with pytest.raises(DataError, match=r"not a finished artifact \(no artifact.json"):
        read_artifact(tmp_path)


def test_a_file_in_place_of_the_store_is_a_store_error(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"), begin(Store(tmp_path / "store")):
        pass


def test_artifacts_of_a_stage_are_listed_newest_first(store):
    for age, letter in [(100, "a"), (50, "b")]:
        with store.begin("toy", letter * 64, on_wait=lambda holder: None) as work:
            write_text(work / "a.txt", letter)
            artifact = store.commit(work, {**RECORDED, "fingerprint": letter * 64})
        os.utime(artifact.path / RECORD, (1e9 - age, 1e9 - age))
    assert [artifact.fingerprint[0] for artifact in store.list_artifacts("toy")] == ["b", "a"]
    assert store.list_artifacts("other") == []


def test_sealing_elsewhere_needs_no_store(tmp_path):
    work = tmp_path / ".out.work"
    with locked_folder(work, on_wait=lambda holder: None):
        write_text(work / "a.txt", "one")
        artifact = seal_folder(work, tmp_path / "deep" / "out", RECORDED)
    assert artifact.path == tmp_path / "deep" / "out"
    assert artifact.record["files"]["a.txt"]["bytes"] == 3
