"""Ranks as processes of their own: what they exchange, how they meet, how they end.

group_test.py RANK_PROGRAM quick|patient|cuda, by an interpreter that has torch, for its torchrun. With cuda
there are as many ranks as GPUs, two or more.
"""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time

from ports import free_port

PROGRAM = sys.argv[1]
WHICH = sys.argv[2]
DEVICE = "cuda" if WHICH == "cuda" else "cpu"
SECONDS = 100  # for anything that ends by itself much sooner
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMIX_", "SLURM_")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}


def start(what, rank, size, port, heartbeat_ms=1000, rendezvous_s=60):
    environment = CLEAN | {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([PROGRAM, what, str(heartbeat_ms), str(rendezvous_s * 1000), DEVICE],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def end(process):
    output, errors = process.communicate(timeout=SECONDS)
    return process.returncode, output, errors


def launch(what, size, **options):
    port = free_port()
    return [start(what, rank, size, port, **options) for rank in range(size)]


def sums(size):
    """All ranks get the same bits, and get them again."""
    results = [end(p) for _ in range(2) for p in launch("sums", size)]
    for code, output, errors in results:
        assert code == 0 and output == results[0][1], results
        # What is left of libtorch's own words at the end of a run.
        assert not errors, errors
    lines = results[0][1].splitlines()
    assert len(set(lines[:12])) == 12, lines
    assert lines[12:] == 3 * [f"[distributed] the recipe of rank {size - 1} of {size} "
                              "is not that of rank 0"], lines


def by_torchrun():
    """The launcher's own store; a second start of the same ranks is another run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", str(free_port()), "--no-python", PROGRAM, "sums", "1000", "60000", DEVICE]
    ran = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran
    assert ran.stdout.count("the recipe of rank 1 of 2") == 6, ran


def by_mpirun():
    port = str(free_port())
    processes = []
    for rank in range(2):
        variables = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2",
                     "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                     "MASTER_PORT": port}
        processes.append(subprocess.Popen([PROGRAM, "leave", "1000", "60000", DEVICE], env=CLEAN | variables,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert [end(p)[0] for p in processes] == [0, 0]


def an_error_is_told(size):
    codes, outputs, _ = zip(*[end(p) for p in launch("throw", size)])
    assert set(codes) == {1}, (codes, outputs)
    assert outputs[1] == "ready\n[train] the norm is nan\n", outputs
    for rank in {*range(size)} - {1}:
        assert outputs[rank] == (f"ready\n[distributed] rank 1 of {size} ended with an error: "
                                 "[train] the norm is nan\n"), outputs


def lost(victim, sign, what="loop", size=3):
    """A rank is killed or stopped in the middle of collectives: the others name it."""
    processes = launch(what, size, heartbeat_ms=600)
    for process in processes:
        line = process.stdout.readline()
        assert line == "ready\n", (line, end(process))
    begin = time.monotonic()
    processes[victim].send_signal(sign)
    for rank, process in enumerate(processes):
        if rank == victim:
            continue
        code, output, errors = end(process)
        name = f"[distributed] rank {victim} of {size}"
        busy = what == "compute"  # does not look at the group: its last word is on_stuck's
        assert output.startswith("stuck: " + name if busy else name), (code, output, errors)
        assert code == (3 if busy else 1), (code, output, errors)
        # 30 s with heartbeats of 1 s, and here they are shorter; the machine may be busy.
        assert time.monotonic() - begin < 60, output
    processes[victim].kill()
    processes[victim].communicate()


def nobody_comes():
    one = start("leave", 0, 3, free_port(), rendezvous_s=2)
    code, output, _ = end(one)
    assert code == 1 and "[distributed] rank 1, 2 of 3 has not come to the store at " in output, output
    assert "within 2 s" in output, output
    port = free_port()
    code, output, _ = end(start("leave", 1, 2, port, rendezvous_s=2))
    assert code == 1 and f"rank 1 of 2 has not found the store at 127.0.0.1:{port}" in output, output


def two_of_a_kind():
    port = free_port()
    processes = [start("leave", rank, 3, port) for rank in (0, 1, 1)]
    for process in processes:
        code, output, _ = end(process)
        assert code == 1 and output == ("[distributed] rank 1 of 3 is there twice: two processes "
                                        "have its number\n"), output


def other_numbers():
    port = free_port()
    processes = [start("leave", 0, 2, port), start("leave", 1, 3, port)]
    for process in processes:
        code, output, _ = end(process)
        assert code == 1 and output == ("[distributed] rank 0 was started as one of 2 ranks, "
                                        "rank 1 as one of 3\n"), output


def taken_port():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        code, output, _ = end(start("leave", 0, 2, port))
    assert code == 1 and f"rank 0 of 2 cannot serve the store at 127.0.0.1:{port}" in output, output


def alone():
    ran = subprocess.run([PROGRAM, "sums", "1000", "1000", DEVICE], env=CLEAN, capture_output=True, text=True,
                         timeout=SECONDS)
    assert ran.returncode == 0 and "recipe" not in ran.stdout, ran


QUICK = [(by_torchrun,), (sums, 2), (by_mpirun,), (an_error_is_told, 3), (lost, 1, signal.SIGKILL),
         (nobody_comes,), (two_of_a_kind,), (other_numbers,), (taken_port,), (alone,)]
PATIENT = [(sums, 3), (lost, 0, signal.SIGKILL), (lost, 2, signal.SIGSTOP), (lost, 0, signal.SIGSTOP),
           (lost, 1, signal.SIGKILL, "compute")]


def on_gpus():
    count = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.count("GPU ")
    if count < 2:
        print(f"needs two GPUs, there are {count}")
        sys.exit(77)
    return [(sums, count), (by_torchrun,), (an_error_is_told, count), (alone,),
            *[(lost, victim, sign, what, count) for what in ("loop", "graph")
              for victim, sign in ((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP))]]


TESTS = {"quick": QUICK, "patient": PATIENT}.get(WHICH) or on_gpus()

with concurrent.futures.ThreadPoolExecutor(4 if DEVICE == "cpu" else 1) as pool:  # they wait, mostly
    futures = [(test, pool.submit(*test)) for test in TESTS]
for (function, *arguments), future in futures:
    try:
        future.result()
    except BaseException:
        print("failed:", function.__name__, *arguments)
        raise
