"""maskmill used by others: as a module of another workflow, deployed by snakedeploy, with conda, in a container.

There are no channels of conda and no builder of images here. A stand-in for `conda` shows what Snakemake asks of it and
how a job starts in its environment; the Containerfile is read, not built.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import BASELINE, draw, environment, jobs, masks, snakemake

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
LOCAL = f'"{ROOT / "workflow/Snakefile"}"'
HOST = "git.example.org"
SETTINGS: dict[str, Any] = BASELINE | {"rounds": {"count": 0}}
CALLER = """\
configfile: "study.yaml"


rule all:
    input:
        "areas.csv",


module maskmill:
    snakefile:
        {source}
    config:
        config["segmentation"]
    prefix:
        "seg"


use rule * from maskmill as mm_*


rule areas:
    input:
        "seg/results/recipes/kmeans/seed0/export",
    output:
        "areas.csv",
    run:
        import numpy as np
        from PIL import Image

        files = sorted(Path(input[0], "masks").rglob("*.png"))
        rows = [(file.stem, np.unique(np.asarray(Image.open(file)), return_counts=True)) for file in files]
        lines = [f"{{name}},{{value}},{{count}}" for name, found in rows for value, count in zip(*found)]
        Path(output[0]).write_text("\\n".join(lines) + "\\n")
"""
PLANNED = {"mm_inputs": 1, "mm_export": 1, "areas": 1, "all": 1, "total": 4}  # until the shards are known
CONDA = """\
#!/usr/bin/env bash
# What Snakemake asks of conda; an environment is a `python` that notes that it ran.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
echo "conda $*" >> "$root/asked.txt"
case "$*" in
    "info --json") echo "{\\"conda_prefix\\": \\"$root\\", \\"platform\\": \\"linux-64\\"}" ;;
    --version) echo "conda 24.9.2" ;;
    "config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
    "clean "*) ;;
    "env create "*)
        while [ "$1" != --prefix ]; do shift; done
        mkdir -p "$2/bin"
        printf '#!/usr/bin/env bash\\necho "$*" >> "%s"\\nexec "%s" "$@"\\n' "$2/started.txt" "$PYTHON_OF_TEST" \\
            > "$2/bin/python"
        chmod +x "$2/bin/python" ;;
    *) echo "unexpected: conda $*" >&2; exit 1 ;;
esac
"""


def study(work: Path, source: str = LOCAL, more: str = "", settings: dict[str, Any] | None = None) -> Path:
    """A folder with another workflow that takes ours as a module from `source`, and six small pictures."""
    work.mkdir(parents=True)
    for i in range(6):
        draw(work / f"photos/im{i}.png", i)
    ours = SETTINGS | {"images": "photos"} | (settings or {})
    (work / "study.yaml").write_text(yaml.safe_dump({"of the caller": 1, "segmentation": ours}))
    (work / "Snakefile").write_text(CALLER.format(source=source) + more)
    return work


def call(work: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Plain snakemake in that folder."""
    triggers = ["--rerun-triggers", "mtime", "params", "input"]  # those of our profile
    command = [sys.executable, "-m", "snakemake", *triggers, "--cores", "2", *options]
    env = environment() | {"XDG_CACHE_HOME": str(work / "cache")} | variables
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=work)


def good(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the repository, as it is now, in a Git repository of its own."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    where = tmp_path_factory.mktemp("source") / "maskmill"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("workflow", "recipes", "envs", "config", "profiles"):
        shutil.copytree(ROOT / name, where / name, symlinks=True, ignore=unwanted)
    for name in ("Snakefile", "config.yaml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, where)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "all"], ["tag", "v1"]):
        subprocess.run(["git", *identity, *arguments], cwd=where, check=True)
    return where


# As a module


def test_a_module_from_a_local_path_plans_with_our_recipes(tmp_path: Path) -> None:
    done = good(call(study(tmp_path / "study"), "--dry-run", "--printshellcmds"))
    assert jobs(done) == PLANNED, "and the default target is the caller's"
    assert not re.search(r"(?<![\w/])(results|logs|benchmarks|resources)/", done.stdout + done.stderr), (
        "all behind seg/"
    )


@pytest.mark.parametrize("how", ["path", "wrapper", "gitfile", "git+file"])
def test_a_module_from_a_local_git_source(repository: Path, tmp_path: Path, how: str) -> None:
    source = {
        "path": f'"{repository}/workflow/Snakefile"',
        "wrapper": f'"{repository}/Snakefile"',
        "gitfile": f'gitfile("{repository}", path="workflow/Snakefile", tag="v1")',
        "git+file": f'"git+file://{repository}/workflow/Snakefile@v1"',
    }[how]
    assert jobs(good(call(study(tmp_path / "study", source), "--dry-run"))) == PLANNED


@pytest.mark.parametrize("ref", ['tag="v1"', 'branch="main"'])
def test_a_module_from_a_hosted_git_source(repository: Path, tmp_path: Path, ref: str) -> None:
    """The host is this disk: Git is told to look there for its name."""
    source = f'github("someone/maskmill", path="workflow/Snakefile", {ref}, host="{HOST}")'
    (tmp_path / "host/someone").mkdir(parents=True)
    (tmp_path / "host/someone/maskmill").symlink_to(repository)
    redirect = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/host/.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://{HOST}/",
    }
    assert jobs(good(call(study(tmp_path / "study", source), "--dry-run", **redirect))) == PLANNED


def test_recipes_by_path_are_the_callers(tmp_path: Path) -> None:
    work = study(tmp_path / "study", settings={"recipes": ["own/mine.yaml"]})
    (work / "own").mkdir()
    shutil.copy(ROOT / "recipes/kmeans.yaml", work / "own/mine.yaml")
    assert jobs(good(call(work, "--dry-run", "seg/results/recipes/mine/seed0/export")))["mm_export"] == 1


def test_an_unknown_recipe_names_ours(tmp_path: Path) -> None:
    done = call(study(tmp_path / "study", settings={"recipes": ["kmean"]}), "--dry-run")
    assert done.returncode != 0
    assert "no recipe 'kmean' (did you mean 'kmeans'?)" in done.stdout + done.stderr
    assert "tokencut" in done.stdout + done.stderr


def test_a_caller_may_change_a_rule(tmp_path: Path) -> None:
    """Snakemake then reads our files once more, for that rule alone, and without the checkpoint."""
    more = "\n\nuse rule export from maskmill as mm_export with:\n    threads: 2\n"
    done = good(call(study(tmp_path / "study", more=more), "--dry-run"))
    block = (done.stdout + done.stderr).split("rule mm_export:")[1].split("rule areas:")[0]
    assert "threads: 2" in block


def test_a_caller_may_leave_a_rule_out(tmp_path: Path) -> None:
    """`features_temporary` inherits from `features`, which is not there then."""
    work = study(tmp_path / "study")
    text = (
        (work / "Snakefile")
        .read_text()
        .replace("use rule * from maskmill as", "use rule * from maskmill exclude features as")
    )
    (work / "Snakefile").write_text(text)
    assert jobs(good(call(work, "--dry-run", "seg/results/inputs/manifest.parquet")))["mm_inputs"] == 1


def test_a_module_twice_in_one_workflow(tmp_path: Path) -> None:
    more = f"""

module other:
    snakefile:
        {LOCAL}
    config:
        config["segmentation"] | {{"cluster": {{"clusters": 4}}}}
    prefix:
        "other"


use rule * from other as other_*


rule both:
    input:
        rules.mm_all.input,
        rules.other_all.input,
"""
    planned = jobs(good(call(study(tmp_path / "study", more=more), "--dry-run", "both")))
    assert {name for name in planned if name.endswith("_export")} == {"mm_export", "other_export"}


@pytest.mark.parametrize(("allowed", "lists"), [("mm_inputs", True), ("mm_report", False)])
def test_a_job_in_its_own_process_lists_only_what_its_rule_watches(tmp_path: Path, allowed: str, lists: bool) -> None:
    """Such a job is told its rule's name in the caller's workflow, which is not the name that we gave it."""
    more = """

rule look:
    output:
        "listing.txt",
    params:
        listing=lambda wc: maskmill.watched("inputs", "photos", None),
    shell:
        "printf %s {params.listing:q} > {output}"
"""
    work = study(tmp_path / "study", more=more)
    good(call(work, "--mode", "remote", "--force", "--allowed-rules", "look", allowed, "--target-jobs", "look:"))
    assert bool((work / "listing.txt").read_text()) is lists


@pytest.mark.slow
def test_a_rule_of_the_caller_reads_our_masks(tmp_path: Path) -> None:
    more = "\n\nonstart:\n    maskmill.onstart()\n\n\nonsuccess:\n    maskmill.onsuccess()\n"
    work = study(tmp_path / "study", more=more)
    (work / ".snakemake").mkdir(mode=0o755)
    done = good(call(work, "seg/results/report.html", "areas.csv"))
    rows = [row.split(",") for row in (work / "areas.csv").read_text().splitlines()]
    assert {name for name, *_ in rows} == {f"im{i}" for i in range(6)}
    assert f"Report: {work}/seg/results/report.html" in done.stdout + done.stderr

    made = {path.name for path in work.iterdir()}
    assert made == {"Snakefile", "study.yaml", "photos", "cache", ".snakemake", "seg", "areas.csv"}
    assert {path.name for path in (work / "seg").iterdir()} == {"results", "logs", "benchmarks", "resources"}

    def others(path: Path) -> int:
        return stat.S_IMODE(os.stat(path).st_mode) & 0o077

    usual = 0o666 & ~_shell_umask() & 0o077
    assert others(work / "areas.csv") == usual, "a module leaves the caller's files as they are"
    assert others(work / ".snakemake") == 0o055
    ours = [p for p in (work / "seg/results").rglob("*") if p.is_file() and ".snakemake" not in p.name]
    assert ours
    assert all(others(p) == 0 for p in ours), "and keeps ours to their owner (readers: owner)"

    again = call(work, "--dry-run", "seg/results/report.html", "areas.csv")
    assert "Nothing to be done" in again.stdout, again.stdout + again.stderr

    alone = tmp_path / "alone"
    good(snakemake(alone, SETTINGS | {"images": str(work / "photos")}))
    found = masks(work / "seg")
    assert found
    assert found == masks(alone), "a prefix changes nothing of what is found"


def _shell_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# With conda


@pytest.fixture
def conda(tmp_path: Path) -> Path:
    """The stand-in: a folder with `bin/conda` and `bin/activate`."""
    root = tmp_path / "conda"
    (root / "bin").mkdir(parents=True)
    (root / "bin/conda").write_text(CONDA)
    (root / "bin/conda").chmod(0o755)
    (root / "bin/activate").write_text('export PATH="$1/bin:$PATH"\n')
    return root


def with_conda(work: Path, conda: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = f"{conda / 'bin'}:{environment()['PATH']}"
    return good(call(work, *options, "--sdm", "conda", PATH=path, PYTHON_OF_TEST=sys.executable))


def test_every_rule_with_a_command_names_the_environment(tmp_path: Path, conda: Path) -> None:
    more = """

found = {
    r.name: r.conda_env and str(r.basedir.join(r.conda_env))
    for r in workflow.rules
    if r.shellcmd and r.name.startswith("mm_")
}
Path("environments.json").write_text(json.dumps(found))
"""
    work = study(tmp_path / "study", more=more.replace("found", "import json\n\nfound", 1))
    done = with_conda(work, conda, "--dry-run")
    assert (done.stdout + done.stderr).count("envs/maskmill.yaml will be created") == 1
    environments = json.loads((work / "environments.json").read_text())
    assert len(environments) > 20
    assert {Path(file).resolve() for file in environments.values()} == {ROOT / "envs/maskmill.yaml"}


def test_a_job_runs_this_package_with_the_interpreter_of_the_environment(tmp_path: Path, conda: Path) -> None:
    work = study(tmp_path / "study")
    manifest = "seg/results/inputs/manifest.parquet"
    with_conda(work, conda, manifest)
    (started,) = (work / ".snakemake/conda").glob("*_/started.txt")
    (command, *_) = started.read_text().splitlines()
    import maskmill

    words = shlex.split(command)
    assert words[:3] == ["-P", str(Path(maskmill.__file__).with_name("__main__.py")), "--job"]
    assert words[4] == "inputs"
    asked = (conda / "asked.txt").read_text()
    assert len(re.findall("^conda env create", asked, re.M)) == 1
    assert "Nothing to be done" in call(work, "--dry-run", manifest).stdout, "conda or not makes no result outdated"


def test_the_package_runs_as_a_file_without_being_installed(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere/maskmill"
    shutil.copytree(ROOT / "workflow/maskmill", copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text('__version__ = "the copy"\n')
    command = [sys.executable, "-I", str(copy / "__main__.py"), "--version"]  # -I: no PYTHONPATH, no working directory
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "the copy\n", done.stderr


# Deployed


def test_the_layout_that_the_catalogue_wants() -> None:
    settings = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert set(settings) == {"usage"}
    assert set(settings["usage"]) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert settings["usage"]["software-stack-deployment"] == {
        "conda": True,
        "apptainer": False,
        "apptainer+conda": False,
    }
    assert (ROOT / "workflow/Snakefile").is_file()
    assert all(file.suffix == ".smk" for file in (ROOT / "workflow/rules").iterdir() if file.is_file())
    assert (ROOT / "config/config.yaml").read_text() == (ROOT / "config.yaml").read_text(), "one file, under two names"


def test_the_documentation_of_the_configuration_is_complete() -> None:
    text = (ROOT / "config/README.md").read_text()
    keys = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())["properties"]
    assert [key for key in keys if f"`{key}`" not in text] == []
    for link in re.findall(r"\]\(((?!http)[^)#]+)", text):
        assert (ROOT / "config" / link).exists(), link


def deployed(repository: Path, where: Path) -> Path:
    """What `snakedeploy deploy-workflow` writes: copies of three things, and a workflow that has ours as a module."""
    where.mkdir()
    shutil.copytree(repository / "config", where / "config")
    shutil.copytree(repository / "profiles", where / "profiles")
    shutil.copy(repository / "LICENSE", where)
    (where / "workflow").mkdir()
    (where / "workflow/Snakefile").write_text(
        'configfile: "config/config.yaml"\n\n\nmodule maskmill:\n    snakefile:\n'
        f'        gitfile("{repository}", path="workflow/Snakefile", tag="v1")\n'
        "    config:\n        config\n\n\nuse rule * from maskmill\n"
    )
    return where


def test_a_deployed_workflow_plans_the_whole_run(repository: Path, tmp_path: Path) -> None:
    where = deployed(repository, tmp_path / "deployed")
    planned = jobs(good(call(where, "--dry-run")))
    assert planned["all"] == 1, "our default target"
    assert planned["export"] == 2, "one of each recipe of config/config.yaml"
    assert {path.name for path in where.iterdir()} >= {"config", "profiles", "workflow", "LICENSE"}


def test_snakedeploy_finds_what_it_looks_for(repository: Path, tmp_path: Path) -> None:
    program = shutil.which("snakedeploy")
    if program is None:
        pytest.skip("snakedeploy is not installed; the test before has what it writes")
    where = tmp_path / "deployed"
    command = [program, "deploy-workflow", str(repository), str(where), "--tag", "v1", "--name", "maskmill"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No config directory" not in done.stderr
    assert "not found in traditional path" not in done.stderr
    expected = deployed(repository, tmp_path / "expected")

    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert files(where) == files(expected)
    assert not (where / "config/config.yaml").is_symlink()
    text = (where / "workflow/Snakefile").read_text()
    assert 'configfile: "config/config.yaml"' in text
    assert "use rule * from maskmill" in text


# In a container


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Containerfile, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_containerfile_copies_what_exists_and_runs_as_nobody_special() -> None:
    found = instructions(ROOT / "Containerfile")
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known
    assert found[0][0] == "FROM"
    copied = {source for name, text in found if name == "COPY" for source in text.split()[:-1]}
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []
    assert {"Snakefile", "config.yaml", "workflow", "recipes", "envs", "profiles", "pyproject.toml"} <= copied
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    assert {source.split("/")[0] for source in copied} <= {line[1:] for line in ignored if line.startswith("!")}

    pip = [text for name, text in found if name == "RUN" and "pip install" in text]
    assert pip
    assert all("--constraint constraints.txt" in text for text in pip)
    names = [name for name, _ in found]
    user = dict(found)["USER"]
    assert user not in {"root", "0"}
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN"), "the last user is this one"
    entry = json.loads(dict(found)["ENTRYPOINT"])
    home = next(text for name, text in found if name == "WORKDIR")
    assert entry == ["snakemake", "--snakefile", f"{home}/Snakefile"]
    assert json.loads(dict(found)["CMD"]) == ["--cores", "all"]
    for name, text in found:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", text], check=True)


def test_the_containers_python_is_the_one_that_we_ask_for() -> None:
    version = re.search(r"python:(\d+\.\d+)", dict(instructions(ROOT / "Containerfile"))["FROM"])
    assert version
    wanted = re.search(r'requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted
    assert version[1] == wanted[1]
