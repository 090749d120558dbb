"""A real SLURM cluster on one machine: munged, slurmctld and several slurmd, each of them a node of its own.

    python tests/support/slurm_cluster.py [--install] COMMAND ...     runs COMMAND on it and takes everything down

Needs root, and Debian's or Ubuntu's `slurm-wlm` and `munge` (`--install` fetches them with apt). The configuration must
be reachable as /etc/slurm/slurm.conf: the plugin's jobs drop SLURM_CONF from their environment. A machine that has a
SLURM of its own is left alone. Every daemon is a child of this process and dies with it, also when it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
MARK = "MASKMILL_SLURM_CLUSTER"  # in the environment of all daemons and jobs: what to clean up
ETC = Path("/etc/slurm")
NODES = ("cpu1", "cpu2", "cpu3", "cpu4", "cpu5", "cpu6", "cpu7", "gpu1")

# config_overrides lets a node claim more CPUs and memory than the machine has. A lost node is noticed in about 15 s, a
# requeued job starts again after cred_expire. OverMemoryKill measures once a second, as there are no cgroups.
SLURM_CONF = """\
ClusterName=maskmill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
SlurmdTimeout=10
KillWait=5
MinJobAge=300
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
MaxArraySize=1001
NodeName=cpu[1-7] NodeHostname={host} NodeAddr=127.0.0.1 \
Port={ports[1]},{ports[2]},{ports[3]},{ports[4]},{ports[5]},{ports[7]},{ports[8]} \
CPUs=4 RealMemory=32000 State=UNKNOWN
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[6]} CPUs=4 RealMemory=32000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=cpu[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=frail Nodes=cpu[3,5] MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=remote Nodes=cpu[6-7] MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=gpu Nodes=gpu1 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=spare Nodes=cpu4 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=scavenge Nodes=cpu4 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=cpu4 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
GRES_CONF = "NodeName=gpu1 Name=gpu File={folder}/gpu[0-1]\n"


class UnavailableError(Exception):
    """Why there can be no cluster on this machine."""


@dataclass
class Cluster:
    """The running daemons; `folder` holds configuration, state and logs."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What jobs must be submitted with, so that nothing of theirs outlives the cluster."""
        return {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {MARK: str(self.folder)}

    def start(self, name: str, *command: str) -> None:
        """Start one daemon in the foreground, as our child."""
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment() | {"MASKMILL_SLURM_NODE": name},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def start_node(self, name: str) -> None:
        """Start (again) one node."""
        self.start(name, "slurmd", "-D", "-N", name)

    def crash_node(self, name: str) -> None:
        """What a power cut does: the daemon and everything that runs on the node are gone at once."""
        self.daemons.pop(name).kill()
        for pid in _marked(self.folder, name):
            _kill(pid)

    def isolate_node(self, name: str) -> None:
        """What a broken network does: SLURM sees the node no more, and what runs there goes on."""
        self.daemons.pop(name).kill()

    def ask(self, *command: str) -> str:
        """Output of a SLURM command; empty where it fails."""
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment()).stdout

    def jobs(self) -> list[str]:
        """Ids of the jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%A").split()

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until every node is idle."""
        deadline = time.monotonic() + seconds
        while True:
            states = dict(line.split() for line in self.ask("sinfo", "-h", "-N", "-o", "%N %t").splitlines())
            if states == dict.fromkeys(NODES, "idle"):
                return
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"SLURM does not start: nodes {states}, ended {dead}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        """The last lines of every log."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"== {f.name}\n" + "\n".join(f.read_text(errors="replace").splitlines()[-15:]) for f in files)

    def stop(self) -> None:
        """Cancel all jobs, end all daemons, then whatever they left."""
        if "slurmctld" in self.daemons and (jobs := self.jobs()):
            self.ask("scancel", "--signal=KILL", "--full", *jobs)
            self.ask("scancel", *jobs)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            daemon.kill()
            daemon.wait()
        for _ in range(3):  # a process may have started another one meanwhile
            for pid in _marked(self.folder):
                _kill(pid)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _marked(folder: Path, node: str | None = None) -> Iterator[int]:
    """Ids of the processes of this cluster (or of one node of it): marked, or with its files open.

    SLURM's step daemons overwrite their environment with their title, but they hold their node's log open.
    """
    marks = {f"MASKMILL_SLURM_NODE={node}", f"SLURMD_NODENAME={node}"}
    log = str(folder / "log" / f"slurmd-{node}.log")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            entries = set((process / "environ").read_bytes().decode(errors="replace").split("\0"))
            files = {os.readlink(file) for file in (process / "fd").iterdir()}
        except OSError:
            continue
        ours = f"{MARK}={folder}" in entries
        if node is None:
            ours = ours or any(file.startswith(f"{folder}/") for file in files)
        else:
            ours = (ours and bool(marks & entries)) or log in files
        if ours and int(process.name) != os.getpid():
            yield int(process.name)


def install() -> None:
    """Fetch what is missing with apt; raises UnavailableError where that can not be."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise UnavailableError("SLURM is not installed, and installing it needs root and apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(["apt-get", *command], capture_output=True, text=True, check=False, env=environment)
    if not all(map(shutil.which, PROGRAMS)):
        raise UnavailableError(f"apt-get could not install slurm-wlm and munge: {done.stderr.strip()[-300:]}")


def check() -> None:
    """Raise UnavailableError where no cluster can be started."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise UnavailableError(
            f"SLURM is not installed ({', '.join(missing)}): run tests/support/slurm_cluster.py --install true"
        )
    if os.geteuid() != 0:
        raise UnavailableError("starting SLURM nodes needs root")
    for name in ("slurm.conf", "gres.conf"):
        if (ETC / name).exists() and not ((ETC / name).is_symlink() and "maskmill-slurm" in os.readlink(ETC / name)):
            raise UnavailableError(f"{ETC / name} exists: this machine belongs to a SLURM cluster")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(folder: Path) -> None:
    for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    for i in range(2):  # any character device will do as a GPU
        os.mknod(folder / f"gpu{i}", 0o20666, os.makedev(1, 3))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    facts = {"folder": folder, "host": socket.gethostname().split(".")[0], "ports": _free_ports(len(NODES) + 1)}
    ETC.mkdir(exist_ok=True)
    for name, text in {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF}.items():
        (folder / name).write_text(text.format(**facts))
        (ETC / name).unlink(missing_ok=True)
        (ETC / name).symlink_to(folder / name)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster whose nodes are idle; one at a time on a machine, the next one waits.

    Raises:
        UnavailableError: why it can not be started here.
    """
    check()
    with (
        (Path(tempfile.gettempdir()) / "maskmill-slurm.lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="maskmill-slurm-") as name,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Cluster(Path(name))
        made.folder.chmod(0o755)  # munged refuses a socket in a private folder
        _configure(made.folder)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        munge = [f"--{option}={made.folder / file}" for option, file in files.items()]
        try:
            made.start(
                "munged", "munged", "--foreground", "--force", f"--log-file={made.folder}/log/munged.log", *munge
            )
            while not (made.folder / "munge.socket").exists() and made.daemons["munged"].poll() is None:
                time.sleep(0.02)
            made.start("slurmctld", "slurmctld", "-D")
            for node in NODES:
                made.start_node(node)
            made.wait_idle()
            yield made
        finally:
            made.stop()
            for file in ("slurm.conf", "gres.conf"):
                (ETC / file).unlink(missing_ok=True)


def main() -> int:
    """Run a command on a cluster."""
    words = sys.argv[1:]
    try:
        if words[:1] == ["--install"]:
            words = words[1:]
            install()
        if not words:
            print(__doc__)
            return 2
        with cluster() as running:
            return subprocess.run(words, check=False, env=running.environment()).returncode
    except UnavailableError as error:
        print(f"no SLURM here: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
