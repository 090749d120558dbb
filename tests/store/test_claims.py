"""Of two jobs that write one file the later one wins, and a job ends with its driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskmill.driver import VARIABLE
from maskmill.errors import StoreError, UserError
from maskmill.store import claims, expected
from maskmill.store.artefact import write_json
from maskmill.store.names import Leftover, leftovers
from maskmill.store.writer import Writer

OTHER = Writer("0123abcd", 1, 1)


def job(*writes: Path) -> str:
    return json.dumps({"asked": "", "reads": {}, "writes": [str(path) for path in writes]})


def test_a_job_alone_writes_and_leaves_nothing_beside(tmp_path: Path) -> None:
    out = tmp_path / "deep/a.json"
    with expected.commissioned(job(out)):
        assert [path.name for path in out.parent.iterdir()] == [".a.json.claim"]
        write_json(out, {"by": "me"})
    assert [path.name for path in out.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("finished", [False, True], ids=["the later one runs", "the later one has finished"])
def test_an_earlier_job_leaves_the_file_to_a_later_one(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "a.json"
    with expected.commissioned(job(out)):
        claims.claim(out, OTHER)
        if finished:
            out.write_text("theirs")
            claims.release(out, OTHER)
        with pytest.raises(StoreError, match=r"a\.json: a later job writes it"):
            write_json(out, {"by": "me"})
        write_json(tmp_path / "b.json", {})  # no output of the job
    assert out.exists() == finished
    assert not finished or out.read_text() == "theirs"
    assert (tmp_path / ".a.json.claim").exists() != finished  # theirs stays


def test_of_the_processes_of_one_training_the_first_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are told of the job; one that ends early takes nothing away from the first, which writes."""
    out = tmp_path / "student.json"
    with expected.commissioned(job(out)):
        monkeypatch.setenv("RANK", "1")
        with expected.commissioned(job(out)):
            assert expected.asked() == ""
        write_json(out, {})
    assert out.exists()


def test_a_claim_that_cannot_be_read_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk that does not answer is no reason to throw work away."""
    monkeypatch.setattr(claims, "_PAUSE", 0.0)
    (tmp_path / ".a.json.claim").mkdir()  # reading it is an OSError
    assert claims.holds(tmp_path / "a.json", OTHER)


def test_a_claim_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match=r"results.*a file stands where a folder belongs"), \
            expected.commissioned(job(tmp_path / "results/a.json")):  # fmt: skip
        pass


def test_leftovers_are_known_and_whether_their_writer_lives(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    dead = Writer(Writer.current().host, done.pid, 1)
    done.wait()
    mine = Writer.current()
    old = time.time() - 2 * 24 * 3600
    expectations = {
        f".a.zarr.tmp-{dead.tag}": True,
        f".b.zarr.tmp-{mine.tag}": False,
        f".c.json.tmp-{OTHER.tag}": False,  # on another host, written just now
        f".d.json.tmp-{OTHER.tag}": True,  # on another host, untouched for two days
        ".e.json.tmp-4711": False,  # of an older version
    }
    for name in expectations:
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_bytes(b"1234")
    os.utime(tmp_path / "deep" / f".d.json.tmp-{OTHER.tag}", (old, old))
    claims.claim(tmp_path / "long.json", OTHER)  # of a training on another host that takes days
    os.utime(tmp_path / ".long.json.claim", (old, old))
    claims.claim(tmp_path / "f.json", dead)
    claims.claim(tmp_path / "g.json", mine)
    inside = tmp_path / "x.zarr"
    inside.mkdir()
    (inside / f".h.tmp-{dead.tag}").touch()  # not looked at: stores are complete or absent
    (tmp_path / ".gitkeep").touch()
    found = {leftover.path.name: leftover for leftover in leftovers(tmp_path)}
    assert {name: leftover.gone for name, leftover in found.items()} == expectations | {
        ".f.json.claim": True,
        ".g.json.claim": False,
        ".long.json.claim": False,
    }
    assert found[".e.json.tmp-4711"] == Leftover(tmp_path / "deep/.e.json.tmp-4711", 4, False)


def test_a_job_ends_with_its_driver_and_leaves_nothing(tmp_path: Path) -> None:
    """Its driver is killed without a word while it writes."""
    body = """
        import signal, sys, time
        from pathlib import Path
        from maskmill import driver
        from maskmill.cli import app
        from maskmill.store import expected
        from maskmill.store.atomic import atomic
        signal.signal(signal.SIGTERM, app._end)
        driver.end_with_driver()
        with expected.commissioned(sys.argv[1]), atomic("out.json") as temporary:
            temporary.write_text("half")
            Path("writing").touch()
            time.sleep(60)
    """
    driver = textwrap.dedent(f"""
        import subprocess, sys, time
        from maskmill import driver
        driver.announce()
        command = [sys.executable, "-c", {textwrap.dedent(body)!r}, sys.argv[1]]
        child = subprocess.Popen(command, stderr=open("log", "w"))
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    started = subprocess.Popen(
        [sys.executable, "-c", driver, job(Path("out.json"))],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    wait_for(lambda: (tmp_path / "writing").exists())
    started.send_signal(signal.SIGKILL)
    started.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert "so does the job" in (tmp_path / "log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "writing"]


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)
