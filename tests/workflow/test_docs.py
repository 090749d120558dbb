"""A command in the docs is a test: each one of README.md, CONTRIBUTING.md, docs/ and config/ is tried, or named here.

Commands are the lines of `sh` blocks, and words between backticks that begin with a known program. Snakemake's are
planned (`-n`) in a fresh folder that looks like a clone; of the others what they name must be there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from small_run import ROOT, draw, environment

from maskmill.cli.app import app

PAGES = ["README.md", "CONTRIBUTING.md", "config/README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
PROGRAMS = ("snakemake", "maskmill", "pip", "make", "python", "pytest", ".venv/bin/pytest")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
WORDS = {  # what stands for something of the reader's
    "/path/to/images": "photos", "/path": "photos", "new/*.jpg": "photos", "<name>": "lost",
    "/path/to/small/run": ".", "<stage>": "cut", "DATA": "photos", "FOLDER": "work",
}  # fmt: skip
NOT_TRIED = {  # why
    r"snakemake --report .*": "reads a finished run: tests/workflow/test_workflow.py",
    r"snakemake --cores all --sdm conda": "needs conda: tests/workflow/test_reuse.py has a stand-in",
    r"snakedeploy .*": "needs an address of the repository: tests/workflow/test_reuse.py",
    r"cd study": "of snakedeploy",
    r"podman .*": "needs a builder of images: tests/workflow/test_reuse.py reads the Containerfile",
    r"python3 -m venv .*|\. \.venv/bin/activate": "this test runs in such an environment",
    r"(sbatch|squeue|sinfo|scontrol) .*": "SLURM: tests/workflow/test_slurm.py",
    r"python -P \.\.\./maskmill/__main__\.py .*": "has a path left out: tests/workflow/test_reuse.py",
}  # fmt: skip


def commands() -> dict[str, str]:
    """Command -> the page on which it stands."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = [line for kind, body in BLOCK.findall(text) if kind == "sh" for line in body.splitlines()]
        inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
        lines += [code for code in inline if code.split(" ")[0] in (*PROGRAMS, "cp") and " " in code]
        for line in lines:
            for part in re.sub(r"(^| )#.*", "", line).split(" && "):
                found.setdefault(part.strip(), page)
    return {command: page for command, page in found.items() if command}


def of(*programs: str) -> list[str]:
    tried = [c for c in commands() if not any(re.fullmatch(pattern, c) for pattern in NOT_TRIED)]
    return [command for command in tried if command.split()[0] in programs]


def words(command: str) -> list[str]:
    for stands, real in WORDS.items():
        command = re.sub(rf"(?<![\w/]){re.escape(stands)}(?![\w/])", real, command)
    return shlex.split(command)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as after `git clone`, without results; the reader's photos and second configuration lie in it."""
    folder = tmp_path_factory.mktemp("clone")
    for file in ROOT.iterdir():
        if file.name in ("Snakefile", "workflow", "recipes", "config", "config.yaml", "profiles"):
            (folder / file.name).symlink_to(file)
    (folder / "profiles").unlink()
    (folder / "profiles").mkdir()
    for profile in (ROOT / "profiles").iterdir():
        (folder / "profiles" / profile.name).symlink_to(profile)
    for i in range(3):
        draw(folder / f"photos/{i}.png", i)
    (folder / "mine.yaml").write_text("seeds: [1]\n")
    assert of("cp") == ["cp -r profiles/slurm profiles/mysite"]
    subprocess.run(shlex.split(of("cp")[0]), cwd=folder, check=True)
    return folder


def test_every_command_is_known() -> None:
    kinds = (*PROGRAMS, "cp")
    left = [
        f"{page}: {command}"
        for command, page in commands().items()
        if command.split()[0] not in kinds and not any(re.fullmatch(pattern, command) for pattern in NOT_TRIED)
    ]
    assert left == []
    assert len(of("snakemake")) > 10
    assert len(of("maskmill")) > 7
    assert [p for p in NOT_TRIED if not any(re.fullmatch(p, command) for command in commands())] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", of("snakemake"))
def test_snakemake(command: str, clone: Path) -> None:
    plain = {"--unlock", "--delete-temp-output", "-n", "--dry-run"}.intersection(words(command))
    options = [*words(command)[1:], *([] if plain else ["-n"])]
    start = [sys.executable, "-m", "snakemake", *options]
    done = subprocess.run(start, cwd=clone, capture_output=True, text=True, check=False, env=environment())
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    if "--until" in options:
        assert re.search(rf"^{options[options.index('--until') + 1]} +[12]$", said, re.M), said


@pytest.mark.parametrize("command", of("maskmill"))
def test_maskmill(command: str) -> None:
    """The verb and its options exist, and their values are of the right kind."""
    given = [word for word in words(command)[1:] if word != "--help"]
    group = typer.main.get_command(app)
    verb, context = group, typer.Context(group)
    while hasattr(verb, "commands") and given:
        verb = verb.commands[given.pop(0)]
    for option in (word for word in given if word.startswith("--")):
        assert option in [name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)]
    if given and not hasattr(verb, "commands") and command.split()[1] in ("plan", "predict", "doctor"):
        verb.make_context(command, given, parent=context)


@pytest.mark.parametrize("command", of("make"))
def test_make(command: str) -> None:
    done = subprocess.run(["make", "-n", *words(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", of("python", "pytest", ".venv/bin/pytest"))
def test_scripts_and_tests(command: str) -> None:
    """The files are there, and a script has the options."""
    given = words(command)[1:]
    files = [word for word in given if word.startswith(("bench/", "tests/"))]
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
    if command.startswith("python "):
        text = (ROOT / files[-1]).read_text(encoding="utf-8")
        assert [word for word in given if word.startswith("--") and word not in text + "--install"] == []


@pytest.mark.parametrize("command", of("pip"))
def test_pip(command: str) -> None:
    given = words(command)[1:]
    assert given.pop(0) == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for before, word in zip(["", *given], given, strict=False):
        if before in ("-c", "-r"):
            assert (ROOT / word).is_file(), word
        elif not word.startswith("-"):
            assert re.sub(r"^\.\[(\w+)\]$", r"\1", word) in (".", *extras), word


@pytest.mark.slow
def test_weights_alone_are_fetched_in_a_fresh_folder(clone: Path, tmp_path: Path) -> None:
    """docs/slurm.md, step 3. The backbone is `colour`, whose weights need no network."""
    for name in ("Snakefile", "workflow", "recipes", "config.yaml", "profiles"):
        (tmp_path / name).symlink_to(clone / name)
    start = [sys.executable, "-m", "snakemake", "--until"]
    config = ["--config", f"images={clone / 'photos'}", "recipes=colours.yaml"]
    (tmp_path / "colours.yaml").write_text(
        "features: {semantic: {backbone: colour}}\nregions: {pool: token}\ncluster: {method: kmeans, clusters: 2}\n"
    )

    def run(rule: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*start, rule, *config], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment()
        )

    done = run("weights")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file.name for file in (tmp_path / "resources/weights").iterdir()] == ["colour.safetensors"]
    assert not (tmp_path / "results").exists()
    assert "Done until weights." in done.stdout + done.stderr
    assert "report.html" not in done.stdout + done.stderr

    late = run("cut")
    assert late.returncode != 0
    assert "--until cut: its jobs are known only once the images are listed" in late.stdout + late.stderr
