"""maskmill.dag.slurm against a SLURM that is played: the real one is in test_slurm.py."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskmill.dag import slurm
from maskmill.errors import UserError

RUN = "bf94c5d3-16f8-4a3e-a7ce-66a8fc9c2b04"


class Queue:
    """Answers squeue with its rows, one list a call (the last one for ever), and notes everything else."""

    def __init__(self, *answers: Sequence[str], fails: str = "") -> None:
        self.answers, self.fails, self.commands = [list(rows) for rows in answers], fails, []  # type: ignore[var-annotated]
        self.done = threading.Event()

    def __call__(self, command: Sequence[str]) -> str:
        if command[0] == "squeue":
            if len(self.answers) == 1:
                self.done.set()
            return "\n".join(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        self.commands.append(list(command))
        if self.fails:
            raise UserError(self.fails)
        return ""


def row(id_: str, folder: Path, name: str = RUN, state: str = "RUNNING") -> str:
    return f"{id_}|{state}|{name}|{folder}"


def test_only_jobs_of_a_run_in_this_folder_count(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    rows = [
        row("1", tmp_path / "here"),
        row("2_[3-7]", tmp_path / "link", f"mine_{RUN}"),
        row("3", tmp_path / "elsewhere"),
        row("4", tmp_path / "here", "the driver itself"),
        "slurm says something else",
        row("5", tmp_path / "here|with a bar"),
    ]
    found = slurm.jobs(tmp_path / "here", slurm.LIVE, Queue(rows))
    assert [job.id for job in found] == ["1", "2_[3-7]"]


def test_orphans_are_cancelled_and_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queue = Queue([row("7", tmp_path), row("8", tmp_path)], [row("8", tmp_path, state="COMPLETING")], [])
    assert [job.id for job in slurm.cancel_orphans(tmp_path, ask=queue)] == ["7", "8"]
    assert queue.commands == [["scancel", "7", "8"]]
    assert "left 2 SLURM jobs (7 8); cancelling them first" in capsys.readouterr().err
    assert slurm.cancel_orphans(tmp_path, ask=Queue([])) == []


def test_orphans_that_stay_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"still run 0 s after .* \(7\); `scancel --signal=KILL --full 7`"):
        slurm.cancel_orphans(tmp_path, seconds=0, ask=Queue([row("7", tmp_path)]))


def test_a_job_that_stays_preempted_is_requeued_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not at first sight, and not those of an earlier run; again after it ran again."""
    old, new = row("1", tmp_path, state="PREEMPTED"), row("2", tmp_path, state="PREEMPTED")
    queue = Queue([old], [old, new], [old], [old, new], [old, new], [old, new], [old], [old, new], [old, new], [old])
    stop = slurm.watch_preempted(tmp_path, 0.01, queue)
    assert queue.done.wait(20)
    stop.set()
    assert queue.commands == [["scontrol", "requeue", "2"]] * 2
    assert capsys.readouterr().err.count("SLURM job 2 was pre-empted and cancelled; put back into the queue") == 2


def test_what_can_not_be_requeued_says_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    slurm.requeue("3", Queue([], fails="Job is disabled"))
    assert "can not be requeued (Job is disabled)" in (error := capsys.readouterr().err)
    assert "press Ctrl-C" in error


def test_commands_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no-such-program x: .*; ask it by hand"):
        slurm.ask(["no-such-program", "x"])
    with pytest.raises(UserError, match="false: ; ask it by hand"):
        slurm.ask(["false"])


def test_a_local_run_goes_on_where_slurm_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it does not even ask where no job was ever submitted."""
    asked = []

    def fail(folder: Path) -> None:
        asked.append(folder)
        raise UserError("no controller")

    submits = type("Settings", (), {"__module__": "snakemake_executor_plugin_slurm"})()
    monkeypatch.setattr(slurm, "cancel_orphans", fail)
    monkeypatch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/squeue")
    slurm.before_first_job(tmp_path, None)
    assert asked == []
    (tmp_path / ".snakemake/slurm_logs").mkdir(parents=True)
    slurm.before_first_job(tmp_path, None)
    assert "looking for SLURM jobs of an earlier run: no controller" in capsys.readouterr().err
    with pytest.raises(UserError, match="no controller"):
        slurm.before_first_job(tmp_path, submits)
    assert asked == [tmp_path] * 2


@pytest.mark.parametrize(("arrays", "limit", "fits"), [("cut", 5999, False), ("cut", 6000, True), (None, 1, True)])
def test_arrays_must_fit_into_jobs(arrays: str | None, limit: int, fits: bool) -> None:
    settings = SimpleNamespace(array_jobs=arrays)
    if fits:
        slurm.arrays_fit(settings, limit, 2000, 3)
    else:
        with pytest.raises(UserError, match=r"--jobs 5999: 2000 shards .* set jobs to 6000 or more, or remove"):
            slurm.arrays_fit(settings, limit, 2000, 3)
