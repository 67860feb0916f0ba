"""Where a training runs: one process on one device, several on this machine, or those that `torchrun` started.

One process needs nothing but torch. More are started and joined by Lightning Fabric.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sbm_cli.errors import SbmError, TrainingError, needing
from sbm_cli.hardware import cores

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One of `size` processes that share each batch; `host` is their group for messages that pass by the GPU."""

    device: torch.device
    rank: int = 0
    size: int = 1
    host: Any = None

    def add_up(self, tensor: Tensor) -> None:
        """Sum a tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def agree(self, flag: bool) -> bool:
        """Return process 0's flag: clocks differ, and all must stop at the same step."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)])
        dist.broadcast(shared, 0, self.host)
        return bool(shared)

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Let process 0 through; the others follow when it is done."""
        if self.rank:
            self.agree(True)
        yield
        if not self.rank:
            self.agree(True)


def chosen_processes(wanted: int | None, device: str, batch: int) -> int:
    """Return how many processes share a batch; None takes one per core, or one GPU."""
    return min(batch, wanted or (cores() if device == "cpu" else 1))


def launch(function: Callable[..., T], device: str, processes: int, *arguments: object) -> T:
    """Call `function(worker, *arguments)` in every process and return what the first one gives.

    device: "cpu" or "cuda". processes: to start here, one thread each on a CPU, one GPU each on CUDA; under
    `torchrun` its processes are taken instead.

    Raises DependencyError if several are wanted without Lightning Fabric; whatever SbmError or OSError one raises;
    TrainingError if one dies.
    """
    joined = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if not joined and processes == 1:
        return function(Worker(torch.device(device)), *arguments)
    # Through a queue of our own: Fabric's takes no frozen dataclass, and an error crosses as the text of a traceback.
    answers: Any = None if joined else multiprocessing.get_context("spawn").SimpleQueue()
    process = _Process(answers, function, arguments)
    fabric = _fabric(device, processes, joined)
    if joined:
        return fabric.launch(process)
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        for child in multiprocessing.active_children():
            child.terminate()  # they end the step and write a checkpoint

    answer: Any = None
    with on_stop(stop):
        try:
            fabric.launch(process)
        except Exception as error:  # torch's, about the process that failed
            if stopped.is_set():  # before that process listened
                raise KeyboardInterrupt from None
            answer = TrainingError(f"a process of the training failed: {str(error).strip().splitlines()[-1]}")
        finally:
            os.environ.pop("MASTER_PORT", None)  # of this launch only
    if not answers.empty():
        answer = answers.get()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _fabric(device: str, processes: int, joined: bool) -> Fabric:
    with needing("train", "a training with several --processes"):
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    _hush()
    if joined:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // here
        return Fabric(accelerator=device, devices=here, num_nodes=nodes, strategy="ddp")
    # Activations of a few MB come and go all the time: glibc shall keep their pages, not fault them in again (20 %).
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(16 << 30))
    return Fabric(accelerator=device, devices=processes, strategy="ddp_spawn", plugins=[LightningEnvironment()])


class _Process:
    """What each process runs, in the group that Fabric has made; answers: where it puts its result, None returns it."""

    def __init__(self, answers: Any, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.answers, self.function, self.arguments = answers, function, arguments

    def __setstate__(self, state: dict[str, object]) -> None:  # in a new process, before Fabric announces itself
        self.__dict__.update(state)
        _hush()

    def __call__(self, fabric: Fabric) -> object:
        on_cpu = fabric.device.type == "cpu"
        if on_cpu:
            torch.set_num_threads(1)
        host = None if on_cpu else dist.new_group(backend="gloo")
        worker = Worker(fabric.device, fabric.global_rank, fabric.world_size, host)
        try:
            result = self.function(worker, *self.arguments)
            if self.answers is None:
                return result
            if worker.rank == 0:
                self.answers.put(result)
        except (SbmError, OSError) as error:
            if self.answers is not None:
                self.answers.put(error)
            raise
        finally:
            dist.destroy_process_group()
        return None


def _hush() -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # which process it ends after an error


@contextlib.contextmanager
def on_stop(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` when the process is interrupted or told to end, instead of ending it."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
