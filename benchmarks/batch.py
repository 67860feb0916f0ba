"""Time `sbm batch` against one process, or kill it: python benchmarks/batch.py speed|kill|cluster DIR [--trials N]

speed: `sbm batch DIR` and a loop of `enhance_file` over the same files in one process with one thread, both from the
start of Python to its end, in turns; the outputs must be the same bytes.
kill: `sbm batch DIR` is killed (-9) at a random moment, all its processes or the first alone, and started again, until
N were killed; each time one comes to its end, its outputs must be those of a run that nobody disturbed.
cluster: `sbm batch DIR --engine ray` on two machines of a Ray cluster (two raylets on this one), of which one is killed
when a random number of files is done, N times; its outputs must be those of a batch without Ray.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LOOP = """
import sys
from pathlib import Path
from sbm_cli import Enhancer
from sbm_cli.batch.plan import find_jobs
jobs = find_jobs([Path(sys.argv[1])], Path(sys.argv[2])).jobs
enhancer = Enhancer.load(device="cpu", threads=1)
for job in jobs:
    job.target.parent.mkdir(parents=True, exist_ok=True)
    enhancer.enhance_file(job.source, job.target)
"""


def loop(source: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", LOOP, str(source), str(out)]


def batch(source: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "sbm_cli", "batch", str(source), "-o", str(out), "--device", "cpu", "-q", *options]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder but the journal, half-written ones too."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".sbm-batch.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def measure(command: list[str]) -> tuple[float, float]:
    """Return the seconds that a command took, and the processor seconds of it and of its processes."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True)
    took, after = time.perf_counter() - start, os.times()
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def speed(source: Path, rounds: int) -> None:
    print("| round | loop, s | its CPU s | batch, s | its CPU s | faster |\n|---|---|---|---|---|---|")
    best: dict[str, float] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, all_cores = Path(folder, "one"), Path(folder, "batch")
            results = {"loop": measure(loop(source, one)), "batch": measure(batch(source, all_cores))}
            assert contents(one) == contents(all_cores), "the outputs differ"
        (took, cpu), (batch_took, batch_cpu) = results["loop"], results["batch"]
        print(f"| {number} | {took:.2f} | {cpu:.2f} | {batch_took:.2f} | {batch_cpu:.2f} | {took / batch_took:.2f} |")
        for name, (seconds, _) in results.items():
            best[name] = min(best.get(name, seconds), seconds)
    print(f"| best | {best['loop']:.2f} | | {best['batch']:.2f} | | {best['loop'] / best['batch']:.2f} |")


def kill(source: Path, trials: int, seed: int) -> None:
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, out = Path(folder, "undisturbed"), Path(folder, "out")
        took, _ = measure(batch(source, undisturbed))
        whole = contents(undisturbed)
        killed = ended = begun = 0
        while killed < trials or begun:
            process = subprocess.Popen(batch(source, out), start_new_session=True)
            begun += 1
            if killed < trials:
                alone = moments.random() < 0.5
                try:
                    process.wait(moments.uniform(0, took))
                except subprocess.TimeoutExpired:
                    process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
                    killed += 1
            if process.wait() != -signal.SIGKILL:
                assert process.returncode == 0, f"status {process.returncode}"
                assert contents(out) == whole, "the outputs differ, or something is left over"
                ended, begun = ended + 1, 0
                out.rename(Path(folder, f"out-{ended}"))
        print(
            f"killed {killed} times, came to its end {ended} times with the outputs of an undisturbed run, {len(whole)}"
        )


def cluster(source: Path, trials: int, seed: int) -> None:
    from ray.cluster_utils import Cluster

    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain")
        measure(batch(source, plain))
        whole = contents(plain)
        machines = Cluster()
        add_machine(machines)
        for trial in range(trials):
            out, moment, second = Path(folder, f"out-{trial}"), moments.randrange(len(whole)), add_machine(machines)
            process = subprocess.Popen(batch(source, out, "--engine", "ray", "--address", machines.address))
            while process.poll() is None and sum(not path.name.startswith(".") for path in out.rglob("*.*")) < moment:
                time.sleep(0.01)
            machines.remove_node(second, allow_graceful=False)
            assert process.wait() == 0, f"status {process.returncode}"
            found = contents(out)
            differing = [name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)]
            assert not differing, f"they differ, or are left over: {differing}"
            print(f"{trial + 1}: a machine killed with {moment} of {len(whole)} files done", flush=True)
        machines.shutdown()


def add_machine(machines: Any) -> Any:
    """Add a machine of one core to a cluster; on a busy host Ray gives up too early, so perhaps again."""
    while True:
        try:
            return machines.add_node(num_cpus=1, include_dashboard=False)
        except Exception as error:
            print(f"once more: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kill", "cluster"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=200, help="10 are enough for cluster")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.folder, arguments.rounds)
    else:
        (kill if arguments.what == "kill" else cluster)(arguments.folder, arguments.trials, arguments.seed)


if __name__ == "__main__":
    main()
