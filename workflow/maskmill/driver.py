"""Jobs end with the `snakemake` process that started them, its driver, also when that is killed without a word.

The driver announces itself in a variable of the environment, which its jobs inherit. On SLURM, the `snakemake` process
inside a job announces itself anew. Standard library only: the Snakefile calls `announce`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

from maskmill.store.writer import Writer

VARIABLE = "MASKMILL_DRIVER"
_ENDED = "error: the snakemake process that started this job has ended; so does the job"
_GRACE = 60.0  # seconds between SIGTERM, on which trainings write a checkpoint, and the end
_STEP = 1.0  # seconds between two looks where the system cannot wait for a process


def announce() -> None:
    """This process is the driver of the jobs that it starts."""
    os.environ[VARIABLE] = Writer.current().tag


def end_with_driver() -> None:
    """From now on this process ends when its driver does; nothing happens where no driver of this host is known."""
    driver = Writer.parse(os.environ.get(VARIABLE, ""))
    alive = None if driver is None else driver.alive()
    if alive is False:
        raise SystemExit(_ENDED)
    if driver is not None and alive:
        threading.Thread(target=_follow, args=(driver,), daemon=True, name="driver").start()


def _follow(driver: Writer) -> None:
    _wait(driver)
    print(_ENDED, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(driver: Writer) -> None:
    """Returns when the driver has ended."""
    try:
        handle = os.pidfd_open(driver.pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not Linux, or no right
        while driver.alive():
            time.sleep(_STEP)
        return
    if driver.alive():  # and its number was not given to another process meanwhile
        select.select([handle], [], [])
    os.close(handle)
