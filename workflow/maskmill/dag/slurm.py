"""What the SLURM plugin leaves to its user: jobs of a driver that was killed, and jobs that were pre-empted for good.

A driver is the `snakemake` process. Killed with SIGKILL, it leaves its jobs in the queue; the next driver would submit
the same work beside them. A job that SLURM pre-empts by cancelling ends as PREEMPTED, and the plugin waits for it for
ever. The Snakefile calls `cancel_orphans` and `watch_preempted` before its first job.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskmill.errors import UserError

# The plugin names its jobs after the run, a UUID, after a prefix that a site may choose.
RUN_NAME = re.compile(r"([\w-]+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIVE = "PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING,REQUEUED,RESIZING,STOPPED"

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class SlurmJob:
    """A job of a run: its id (`12`, or `12_3` and `12_[3-7]` of an array), its state and the run's name."""

    id: str
    state: str
    run: str


def ask(command: Sequence[str]) -> str:
    """Output of a SLURM command.

    Raises:
        UserError: it fails or does not answer within a minute; with what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{' '.join(command)}: {error}; ask it by hand, then run the same command again") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip()}; ask it by hand, then run the same command again")
    return done.stdout


def jobs(folder: Path, states: str, ask: Ask = ask) -> list[SlurmJob]:
    """This user's jobs in any of `states` that a driver submitted from `folder`."""
    command = ["squeue", "--noheader", f"--user={os.geteuid()}", f"--states={states}", "--format=%i|%T|%j|%Z"]
    rows = [line.split("|", 3) for line in ask(command).splitlines()]
    here = os.path.realpath(folder)
    return [
        SlurmJob(id_.strip(), state, run)
        for id_, state, run, place in (row for row in rows if len(row) == 4)
        if RUN_NAME.fullmatch(run) and os.path.realpath(place) == here
    ]


def cancel_orphans(folder: Path, seconds: float = 180, ask: Ask = ask) -> list[SlurmJob]:
    """Cancel the jobs that an earlier driver left in `folder` and wait until they are gone; what was cancelled.

    Snakemake's lock on the folder is held by the caller, so no living driver owns them. They can not be adopted: only
    the driver that submits a job records its output as complete.

    Raises:
        UserError: they are still there after `seconds`.
    """
    found = jobs(folder, LIVE, ask)
    left = found
    deadline = time.monotonic() + seconds
    while left:
        ids = " ".join(job.id for job in left)
        if left is found:
            print(
                f"{folder}: an earlier run was killed and left {len(found)} SLURM jobs ({ids}); cancelling them first",
                file=sys.stderr,
                flush=True,
            )
            ask(["scancel", *(job.id for job in found)])
        elif time.monotonic() > deadline:
            raise UserError(
                f"{folder}: SLURM jobs of an earlier run still run {seconds:.0f} s after their cancellation ({ids}); "
                f"`scancel --signal=KILL --full {ids}`, wait until squeue shows none, then run the same command again"
            )
        time.sleep(min(1, seconds))
        left = jobs(folder, LIVE, ask)
    return found


def requeue(id_: str, ask: Ask = ask) -> None:
    """Put a job that ended as PREEMPTED back into the queue under its id, and say so; if that fails, the way out."""
    try:
        ask(["scontrol", "requeue", id_])
        print(f"SLURM job {id_} was pre-empted and cancelled; put back into the queue", file=sys.stderr, flush=True)
    except UserError as error:
        print(
            f"SLURM job {id_} was pre-empted and cancelled, and can not be requeued ({error}). Snakemake would wait"
            " for it for ever: press Ctrl-C, choose another partition, and run the same command again",
            file=sys.stderr,
            flush=True,
        )


def watch_preempted(folder: Path, seconds: float, ask: Ask = ask) -> threading.Event:
    """`requeue` what stays PREEMPTED, in the background, until the process ends or the event is set.

    Looks every `seconds`; a job must be found twice, as one that SLURM requeues by itself may be seen in between. Jobs
    of earlier runs that SLURM still remembers are left alone.
    """
    stop, old = threading.Event(), {job.id for job in jobs(folder, "PREEMPTED", ask)}

    def loop() -> None:
        before: set[str] = set()
        handled: set[str] = set()
        while not stop.wait(seconds):
            try:
                now = {job.id for job in jobs(folder, "PREEMPTED", ask)} - old
            except UserError as error:  # the controller may be away for a while
                print(f"looking for pre-empted jobs: {error}", file=sys.stderr, flush=True)
                continue
            handled &= now  # what runs again may be pre-empted again
            for id_ in sorted(now & before - handled):
                requeue(id_, ask)
                handled.add(id_)
            before = now

    threading.Thread(target=loop, name="pre-empted", daemon=True).start()
    return stop


def before_first_job(folder: Path, executor: object) -> None:
    """What a driver does first: cancel orphans of SLURM runs; where it submits to SLURM, watch for pre-emption.

    Args:
        executor: the settings of Snakemake's executor; those of the SLURM plugin say how often to look.

    Raises:
        UserError: see `cancel_orphans`; a local run goes on where SLURM does not answer.
    """
    if type(executor).__module__.startswith("snakemake_executor_plugin_slurm"):
        cancel_orphans(folder)
        watch_preempted(folder, float(getattr(executor, "init_seconds_before_status_checks", None) or 40))
    # squeue without its cluster takes a minute to say so: a local run asks only where there was a SLURM run before
    elif (folder / ".snakemake/slurm_logs").is_dir() and shutil.which("squeue"):
        try:
            cancel_orphans(folder)
        except UserError as error:
            print(f"looking for SLURM jobs of an earlier run: {error}", file=sys.stderr, flush=True)


def arrays_fit(executor: object, limit: int, shards: int, sets: int) -> None:
    """Refuse job arrays that the plugin would never submit: it waits until all ready jobs of a rule fit into `--jobs`.

    Args:
        limit: `--jobs`. shards: of the manifest. sets: the most jobs of one rule a shard.

    Raises:
        UserError: they may not fit; with the two ways out.
    """
    if getattr(executor, "array_jobs", None) and shards * sets > limit:
        raise UserError(
            f"--jobs {limit}: {shards} shards need up to {shards * sets} jobs of one rule at once, and with"
            f" slurm-array-jobs the plugin waits for ever if they do not fit; set jobs to {shards * sets} or more, or"
            " remove slurm-array-jobs from the profile"
        )
