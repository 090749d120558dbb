"""Does self-training find objects better than the cut that it started from? One line for the cut, one for each round.

    python bench/instances.py [--recipe cutler] [--cache FOLDER] [--set voc_animals] [--limit 240] [--rounds 2]
        [--param steps=400 ...]

A recipe of instances (cutler, freesolo) with its preset small, on photos of a labelled set; nothing but the scores sees
a label. --cache keeps features, cut and rounds (default: a temporary folder). --limit takes N photos, evenly spread
over the sorted names. All photos are trained on and scored, as in the workflow. About 20 CPU minutes.

* voc_animals: cat, cow, dog, horse, person and sheep are objects, each connected part of a class one, those below 0.1
  % of the photo void, as other classes are.
* coco200: the 80 thing classes in the same way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import objects as bench
from _photos import ROOT, WEIGHTS, data_folder

from maskmill.backbones.weights import prepare
from maskmill.cut.run import OptionalFiles
from maskmill.cut.run import run as run_cut
from maskmill.evaluate.run_objects import run as run_objects
from maskmill.evaluate.run_objects import score_instances
from maskmill.images.instances import InstanceWriter
from maskmill.paint.instances import instances_of
from maskmill.recipe.model import Stage
from maskmill.recipe.resolve import load
from maskmill.recipe.scoring import Evaluate
from maskmill.rounds.instance.teaching import teach
from maskmill.rounds.run import Detected, History, MaskFiles, Round, Sources, StudentFiles, detect, predict, train
from maskmill.store.artefact import read_json
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.resources import Resources

WANTED = {"metrics": ["corloc", "ap", "mbo"], "min_area": 0.001}
EVALUATE: dict[str, dict[str, Any]] = {
    "voc_animals": {"classes": [0, *bench.ANIMALS], "objects": {"foreground": bench.ANIMALS, **WANTED}},
    "coco200": {"objects": {"foreground": list(range(80)), **WANTED}},
}
COLUMNS = ("corloc", "mbo", "box_ap50", "box_ap", "box_ar100", "mask_ap50", "mask_ap", "mask_ar100")


def line(name: str, entry: dict[str, Any], note: str) -> str:
    """A row of the table, in percent."""
    return f"| {name} | " + " | ".join(f"{100 * entry[column]:.1f}" for column in COLUMNS) + f" | {note} |"


def start(folder: Path, listing: Path, cut: Path) -> None:
    """Masks and instances of round 0: every segment is an object of the one class."""
    import numpy as np

    table = (np.arange(256) > 0).astype(np.uint8)
    store = Ragged(cut, "segments")
    attrs = {"clusters": 1, "ignore": 255, "round": 0}
    with (
        InstanceWriter(folder / "round0/instances/s0.zarr", attrs) as out,
        RaggedWriter(folder / "round0/masks/s0.zarr", "masks", dtype="uint8", attrs=attrs) as masks,
    ):
        for image_id, segments in store.images():
            out.append(image_id, instances_of(segments, table))
            masks.append(image_id, np.where(segments.any(), table[segments], 255).astype(np.uint8))


def one_round(r: int, stage: Stage, folder: Path, listing: Path) -> str:
    """Teach, train, detect, paint; what it cost."""
    here, before = folder / f"round{r}", folder / f"round{r - 1}"
    taught = folder / "round0/instances/s0.zarr"
    if r > 1:
        old = taught if r == 2 else before / "taught/s0.zarr"
        taught = here / "taught/s0.zarr"
        teach(old, before / "instances/s0.zarr", stage.params, r, taught)
    student, clock = here / "student.safetensors", time.monotonic()
    history = History(before / "student.safetensors" if r > 1 else None)
    sources = Sources({}, listing, WEIGHTS, [taught])
    train(
        sources,
        [before / "masks/s0.zarr"],
        stage.as_dict(),
        StudentFiles(student),
        round=Round(r, 0, 1),
        history=history,
        resources=Resources(2, "cpu"),
    )
    trained, clock = time.monotonic() - clock, time.monotonic()
    detect(student, read_manifest(listing).of("s0"), here / "instances/s0.zarr", Resources(2, "cpu"))
    predict(student, Detected(here / "instances/s0.zarr"), MaskFiles(here / "masks/s0.zarr"))
    return f"{trained:.0f} s + {time.monotonic() - clock:.0f} s"


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cutler", help="whose cut and student: cutler or freesolo")
    parser.add_argument("--cache", type=Path, help="folder that keeps everything, of one recipe")
    parser.add_argument("--set", choices=list(EVALUATE), default="voc_animals")
    parser.add_argument("--limit", type=int, default=240, help="photos")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--param", nargs="*", default=[], metavar="KEY=VALUE", help="of the rounds section")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = data_folder(options.set)
    if data is None:
        print(f"{options.set} is not here: set MASKMILL_DATA to the folder that holds it")
        return
    with tempfile.TemporaryDirectory() as work:
        measure(options, data, options.cache or Path(work))


def measure(options: argparse.Namespace, data: Path, folder: Path) -> None:
    """Print the table, a line a step as it is known."""
    changes = dict(pair.split("=", 1) for pair in options.param)
    config = {"recipes": [options.recipe], "preset": ["small"], "rounds": {"count": options.rounds, **changes}}
    recipe = load(config, ROOT / "recipes").recipes[options.recipe]
    folder.mkdir(parents=True, exist_ok=True)
    photos, listing, cut = bench.chosen(data, options.limit), folder / "manifest.parquet", folder / "s0.zarr"
    bench.manifest(photos, data / bench.SETS[options.set]["labels"], listing)
    store = bench.features(listing, folder, options.set)
    if not cut.exists():
        run_cut(store, recipe.stage("cut").as_dict(), cut, 0, 2, optional=OptionalFiles(manifest=listing))
    if not WEIGHTS.is_file():
        prepare(recipe.features["grouping"], WEIGHTS)
    start(folder, listing, cut)
    wanted = EVALUATE[options.set]
    run_objects([cut], listing, wanted, folder / "objects.json", options.recipe)
    print("| step | " + " | ".join(COLUMNS) + " | training + prediction |\n|---|" + "---:|" * (len(COLUMNS) + 1))
    print(line("cut", read_json(folder / "objects.json")["scores"][0], ""), flush=True)
    for r in range(1, options.rounds + 1):
        note = one_round(r, recipe.rounds_at(r), folder, listing)
        found = score_instances(
            [folder / f"round{r}/instances/s0.zarr"], read_manifest(listing), Evaluate.model_validate(wanted)
        )
        print(line(f"round {r}", found[0], note), flush=True)


if __name__ == "__main__":
    main()
