"""The command in a process that is forked from one which has imported torch: that takes longer than most of what is tested.

Nothing of streamexport is loaded before the fork, and the rest is as `python -m streamexport` has it: words, environment,
working directory, paths, pipes and exit status. Run as a script this is the process that forks.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path


def run(words: Sequence[str], cwd: str | os.PathLike[str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command; output as text."""
    command = [sys.executable, "-m", "streamexport", *words]
    server = _server()
    (out, standard_output), (err, standard_error) = os.pipe(), os.pipe()
    request = json.dumps([command, os.fspath(cwd or Path.cwd()), dict(os.environ)]).encode()
    socket.send_fds(server, [request + b"\n"], [standard_output, standard_error])
    os.close(standard_output)
    os.close(standard_error)
    with ThreadPoolExecutor(2) as pool, os.fdopen(out) as first, os.fdopen(err) as second:
        texts = [*pool.map(lambda file: file.read(), (first, second))]
    return subprocess.CompletedProcess(command, int(server.recv(16)), *texts)


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(client: socket.socket) -> None:
    """Answers requests by the exit statuses of its forks. Returns in each fork, with nothing left to do but the command."""
    while True:
        request, pipes, _, _ = socket.recv_fds(client, 1 << 20, 2)
        if not request:
            os._exit(0)
        child = os.fork()
        if not child:
            break
        for pipe in pipes:
            os.close(pipe)
        client.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    client.close()
    for number, pipe in enumerate((os.open(os.devnull, os.O_RDONLY), *pipes)):
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdin, sys.stdout = sys.__stdin__, sys.__stdout__ = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace")
    sys.orig_argv, directory, environment = json.loads(request)
    sys.argv = ["-m", *sys.orig_argv[3:]]
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [directory, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


def _main() -> None:
    import torch
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # a thread of its own
    example = (torch.empty(1, 1, device="meta"),)
    torch.export.export(torch.nn.Linear(1, 1, device="meta"), example, strict=False).run_decompositions({})
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack threads"
    gc.collect()
    gc.freeze()  # a fork that ends looks through none of it
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("streamexport", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
