"""The pool over Ray: what LocalPool promises, on two node processes that the tests start, and kill, themselves."""

import functools
import importlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError, DataError

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def tasks():
    """tests/core/pool_tasks.py, importable by workers too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("RAY_worker_niceness", "0")  # Ray's default, 15, gets little of a machine that runs other tests
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield importlib.import_module("pool_tasks")


@pytest.fixture(scope="module")
def nodes(tasks):
    """A cluster of two node processes with one core each; the first is the head, which also has the driver."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def connection(nodes):
    from bloomery.core.ray_pool import RayCluster

    connection = RayCluster(nodes.address)
    yield connection
    connection.close()


def test_results_come_in_the_order_of_the_items_from_both_nodes(connection, tasks):
    assert list(connection.open_pool(0).map(tasks.process_id, [])) == []
    processes = list(connection.open_pool(0).map(tasks.process_id, [0.5, 0.3, 0.0, 0.3]))
    assert len(set(processes)) == 2 and os.getpid() not in processes
    pool = connection.open_pool(0)
    assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert 10 << 20 < pool.worker_peak_bytes < 2 << 30


def test_an_error_in_a_task_is_raised_here_as_it_was(connection, tasks):
    results = connection.open_pool(0).map(tasks.refuse, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(results)
    assert str(caught.value) == "shard 2 is damaged"


def test_items_of_workers_that_die_are_done_again_and_results_keep_their_order(tmp_path, connection, tasks):
    found = list(connection.open_pool(0).map(functools.partial(tasks.square_but_die_first, tmp_path), range(6)))
    assert found == [number * number for number in range(6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3"]


def test_an_item_that_kills_every_worker_is_named(connection, tasks):
    with pytest.raises(DataError, match=r"died 6 times on 1: .*take that file out"):
        list(connection.open_pool(0).map(functools.partial(tasks.die_on, 1), range(3)))


def test_so_many_tasks_as_the_pool_has_workers_are_in_flight(tmp_path, connection, tasks):
    results = connection.open_pool(1).map(functools.partial(tasks.wait_for, tmp_path), range(3))
    threading.Timer(1.0, (tmp_path / "go").touch).start()
    assert next(results) == 0
    assert not (tmp_path / "begun-1").exists()
    assert list(results) == [1, 2]


def test_a_node_that_dies_takes_no_item_with_it(tmp_path, nodes, connection, tasks):
    raylet = nodes.list_all_nodes()[1].all_processes["raylet"][0].process
    found = []
    results = connection.open_pool(0).map(functools.partial(tasks.wait_for, tmp_path), range(4))
    consumer = threading.Thread(target=lambda: found.extend(results))
    consumer.start()
    while len(list(tmp_path.glob("begun-*"))) < 2:
        time.sleep(0.02)
    os.kill(raylet.pid, signal.SIGKILL)  # both nodes are at work
    (tmp_path / "go").touch()
    consumer.join()
    assert found == [0, 1, 2, 3]


def test_an_address_where_no_cluster_is_is_refused_with_the_remedy(monkeypatch):
    from bloomery.core.ray_pool import RayCluster

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r'address = "ray://far:1": Ray Client is not supported.*"auto"'):
        RayCluster("ray://far:1").connect(2)
