"""The same function for many tasks: in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def each_result(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int = 0, cluster: str | None = None
) -> Iterator[Result]:
    """Yield the results as they come, in any order; stops everything when one task fails or the consumer leaves.

    Args:
        function: importable by its name and picklable, as are tasks and results.
        tasks: its arguments.
        workers: how many tasks run at once; 0 means as many as there are cores, here or in the cluster.
        cluster: address of a Ray cluster: ``auto`` finds the running one, ``local`` starts one on this machine.
    """
    if cluster is not None:
        return _on_ray(function, tasks, workers, cluster)
    workers = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    return map(function, tasks) if workers <= 1 else _in_processes(function, tasks, workers)


def _in_processes(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    # spawn: forking after torch has started its threads can deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        pending = {pool.submit(function, task) for task in tasks}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, cluster: str) -> Iterator[Result]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ImportError("a cluster needs the module 'ray'; install it with: pip install 'jepakit[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here and cluster == "local":
        ray.init(address="local", num_cpus=workers or len(os.sched_getaffinity(0)), include_dashboard=False)
    elif started_here:
        ray.init(address=cluster)
    remote: Any = ray.remote(_call)
    waiting = list(reversed(tasks))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < (workers or len(tasks)):
                running.append(remote.remote(function, waiting.pop()))
            finished, running = ray.wait(running)
            yield from ray.get(finished)
    finally:
        for task in running:
            ray.cancel(task, force=True)
        if started_here:
            ray.shutdown()


def _end_with_parent() -> None:
    """End this process when its parent does: the workers of a killed run would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(function: Callable[[Task], Result], task: Task) -> Result:
    """Apply a function that came by its name; Ray takes plain functions only."""
    return function(task)
