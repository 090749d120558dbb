"""A `maskmill` whose jobs start in milliseconds: forks of one process that has imported everything already.

A whole run starts hundreds of jobs, each of which would spend more on imports than on its work. The command that
Snakemake finds hands its arguments, folder, variables, umask and descriptors to the server, whose fork runs the real
command line with them. Other tests start jobs the plain way and compare what both leave, byte by byte.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# What takes the place of `maskmill`: no site packages, so that it starts at once.
CLIENT = """#!{python} -SEs
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    umask = os.umask(0)
    body = json.dumps([sys.argv, os.getcwd(), dict(os.environ), umask]).encode("utf-8", "surrogateescape")
    descriptors = array.array("i", [0, 1, 2])
    line.sendmsg([len(body).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    line.sendall(body)
    code = line.recv(1)
sys.exit(code[0] if code else 137)
"""
LIBRARIES = ("torch", "sklearn.cluster", "pycocotools.mask", "umap", "hnne", "igraph", "infomap", "onnx")


@contextlib.contextmanager
def serving() -> Iterator[Path]:
    """The folder to put in front of PATH; its `maskmill` works until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="maskmill-jobs-") as name:
        folder, address = Path(name), f"{name}/socket"  # a short name: sockets may not have long ones
        (folder / "maskmill").write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / "maskmill").chmod(0o755)
        server = subprocess.Popen([sys.executable, __file__, address], start_new_session=True)
        try:
            while not Path(address).exists():
                if server.poll() is not None:
                    raise RuntimeError("the server of jobs did not start")
                time.sleep(0.05)
            yield folder
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def serve(address: str) -> None:
    """Fork a job for every caller, until this process is killed."""
    import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended jobs are nobody's business: they answer their callers
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{address}~")
        door.listen(64)
        os.rename(f"{address}~", address)
        while True:
            line, _ = door.accept()
            with line:
                if os.fork() == 0:
                    door.close()
                    answer(line)


def import_everything() -> None:
    """Modules of maskmill and of what it imports late; none starts a thread or opens a file."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as maskmill.cli.app does
    import maskmill

    names = [module.name for module in pkgutil.walk_packages(maskmill.__path__, "maskmill.")]
    for name in (*LIBRARIES, *(name for name in names if not name.endswith("__main__"))):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            getattr(module, "import_timm", int)()  # timm, which needs its own way in


def answer(line: socket.socket) -> None:
    """Be the job of one caller: run the command line, send its exit code, end."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        head, found, _, _ = line.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        size, body = int.from_bytes(head, "big"), b""
        while len(body) < size:
            body += line.recv(size - len(body))
        descriptors = array.array("i", found[0][2])
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        argv, folder, variables, umask = json.loads(body.decode("utf-8", "surrogateescape"))
        os.chdir(folder)
        os.umask(umask)
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = argv
        code = run(int(variables.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        line.sendall(bytes([code]))
        os._exit(code)


def run(threads: int) -> int:
    """The command line; its exit code. Libraries that read the number of threads when they load are told it."""
    import threadpoolctl
    import torch

    from maskmill.cli import main

    torch.set_num_threads(threads)
    with threadpoolctl.threadpool_limits(threads):
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
