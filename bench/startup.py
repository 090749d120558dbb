"""What does a job cost before it works? Prints the tables of docs/scaling.md, "The price of a job".

    python bench/startup.py [--repeats 3] [--photos 4]

Runs the whole workflow on a few drawn photos, in recipes that between them have a job of every rule, and keeps the
command line of each. Then starts one of every verb again, several times: what it takes on four tiny photos is
interpreter, imports and files. The second table is Snakemake's own start: a driver that finds nothing to do, and the
process that it starts inside a SLURM job (which starts one more like it, for its job step).

Columns: CPU seconds and wall seconds (the best of the repeats), seconds of wall within imports, and the packages that
took the most of them. On a shared machine the CPU seconds are the figure to keep.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SETS = {
    "grouping": {"backbone": "vit_small_focus", "facet": "key", "size": {"square": 224}},
    "semantic": {"backbone": "efficientnet_lite0", "size": {"square": 128}},
}
TWO = {"method": "kmeans", "clusters": 2}
PCA = {"method": "pca", "dimensions": 2}
SMALL = {"count": 2, "steps": 40, "batch_size": 4}
NETWORK = SMALL | {"student": "instance", "crop": 112, "size": {"short_side": 112}, "width": 32, "keep_score": 0.2}
RECIPES: dict[str, dict[str, object]] = {  # between them a job of every rule
    "tokens": {"regions": {"pool": "token", "features": "grouping"}, "cluster": TWO, "rounds": {"count": 0},
               "foreground": {"clusters": 4, "threshold": 0.5}},
    "head": {"cut": {"method": "ncut"}, "reduce": PCA, "cluster": TWO, "rounds": SMALL | {"refine": "crf"}},
    "crops": {"cut": {"method": "lost", "refine": "crf"}, "regions": {"pool": "crop_cls", "size": 96}, "cluster": TWO,
              "paint": {"refine": "crf"}},
    "network": {"cut": {"method": "maskcut"}, "cluster": TWO, "rounds": NETWORK},
}  # fmt: skip
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*([\w.]+)")


def photos(folder: Path, count: int) -> None:
    """Pictures with a bright square, and labels beside them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.normal(90, 12, (160, 200, 3))
        label = np.zeros((160, 200), np.uint8)
        inside = np.s_[40 + 10 * (i % 3) : 110, 60:140]
        picture[inside] += (120, 60, -40)
        label[inside] = 1
        for name, array in (("images", picture.clip(0, 255).astype(np.uint8)), ("labels", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / name / f"im{i:02d}.png")


def configure(folder: Path) -> None:
    """config.yaml and recipes of a run that ends in a minute."""
    for name, body in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"features": SETS} | body))
    config = {
        "images": str(folder / "images"),
        "labels": str(folder / "labels"),
        "recipes": [str(folder / f"{name}.yaml") for name in RECIPES],
        "evaluate": {"objects": True, "linear_probe": True, "retrieval": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of jobs, with a `maskmill` in front that writes its command line down."""
    wrapper = folder / "bin/maskmill"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(folder / 'commands.jsonl')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'maskmill', *sys.argv[1:]])\n"
    )
    wrapper.chmod(0o755)
    return os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}", "OMP_WAIT_POLICY": "PASSIVE"} | more


def snakemake(folder: Path, *options: str) -> list[str]:
    """Its command line."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*command, "--profile", str(ROOT / "profiles/default"), "--cores", "2", *options]


def verbs(folder: Path) -> dict[str, list[str]]:
    """Verb -> one of its command lines: the longest, which has most to do."""
    found: dict[str, list[str]] = {}
    for line in (folder / "commands.jsonl").read_text().splitlines():
        words = json.loads(line)
        verb = " ".join(word for word in words[:2] if not word.startswith("-"))
        for name, kind in (("crop_cls", "crops"), ('"method": "crf"', "refined"), ("--instances", "instances")):
            verb += f", {kind}" if any(name in word for word in words) and kind not in verb else ""
        found[verb] = max(words, found.get(verb, []), key=lambda words: len(" ".join(words)))
    return dict(sorted(found.items()))


def run(command: Sequence[str], folder: Path) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds with children, stderr) of a command that succeeds."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=errors, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        errors.seek(0)
        said = errors.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, said


def imports(said: str) -> tuple[float, Counter[str]]:
    """Seconds within imports, and by top-level package, of what -X importtime says."""
    found: Counter[str] = Counter()
    for microseconds, module in IMPORT.findall(said):
        found[module.partition(".")[0]] += int(microseconds) / 1e6
    return sum(found.values()), found


def row(name: str, command: Sequence[str], folder: Path, repeats: int) -> str:
    """One line of a table; `command` starts with the interpreter."""
    taken = [run(command, folder)[:2] for _ in range(repeats)]
    traced = [run([command[0], "-X", "importtime", *command[1:]], folder)[2] for _ in range(repeats)]
    seconds, packages = min((imports(said) for said in traced), key=lambda pair: pair[0])
    most = ", ".join(f"{package} {spent:.2f}" for package, spent in packages.most_common(4))
    best = f"{min(cpu for _, cpu in taken):.2f} | {min(wall for wall, _ in taken):.2f}"
    return f"| {name} | {best} | {seconds:.2f} | {most} |"


def inside_slurm(folder: Path, rule: str, wildcards: str) -> list[str]:
    """The snakemake that a SLURM job starts for one job, without that job's own work (its output is there)."""
    target = f"{rule}:{wildcards}"
    return snakemake(folder, "--target-jobs", target, "--allowed-rules", rule, "--mode", "subprocess", "--nolock",
                     "--force-use-threads", "--ignore-incomplete", "--quiet", "all")  # fmt: skip


def main() -> None:
    """Run the workflow once, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="keep the run here and use it again")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="maskmill-startup-"))
    try:
        if not (folder / "results/report.html").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            photos(folder, args.photos)
            configure(folder)
            subprocess.run(snakemake(folder, "--quiet", "all", "--keep-going"), env=environment(folder), check=True)
        report(folder, args.repeats)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


def report(folder: Path, repeats: int) -> None:
    """Both tables."""
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, best of {repeats}\n")
    print("| verb | CPU s | wall s | imports s | of which |\n|---|---|---|---|---|", flush=True)
    for verb, words in verbs(folder).items():
        print(row(f"`{verb}`", [sys.executable, "-m", "maskmill", *words], folder, repeats), flush=True)
    print("\n| Snakemake | CPU s | wall s | imports s | of which |\n|---|---|---|---|---|")
    shard = next((folder / "results/recipes/head/cut").glob("*.zarr")).stem
    print(row("driver, nothing to do", snakemake(folder, "--quiet", "all"), folder, repeats), flush=True)
    for rule, wildcards in (("cut", f"recipe=head,shard={shard}"), ("cluster_fit", "recipe=head,seed=0")):
        command = inside_slurm(folder, rule, wildcards)
        print(row(f"in a job of `{rule}`", command, folder, repeats), flush=True)


if __name__ == "__main__":
    main()
