"""What pretraining does to a backbone: read-outs of weights, curves of a training, and its speed.

    python bench/pretrain.py score vit_small_focus efficientnet_lite0 random:resnet18 FILE=resnet18 [--held-out]
    python bench/pretrain.py curve --method moco --backbone resnet18 --steps 600 [--side 96] [--quarters 4]
        [--start scratch] [--seed 0] [--set queue=4096 ...] [--held-out] --out moco.json
    python bench/pretrain.py speed --method moco --backbone resnet18 [--side 96]

Read-outs, all with frozen weights (bench/_pretrain_readouts.py):

* neighbours: 20-nearest-neighbour accuracy of the animal of each photo of voc_animals (the one with the most pixels of
  cat, cow, dog, horse, sheep), cosine, leave one out, plain majority; beside it the share of the largest class.
* camvid_k11, camvid_k50, voc_animals_k100: mIoU of spherical k-means of the tokens of the photos scored, by the
  protocols of docs/benchmarks.md; mean and standard deviation over three seeds.
* drive, place: the frame nearest to a frame of CamVid among those of other videos and those of its own at least a
  second away is of the same video; is at most three seconds away. view: a crop of 30 to 70 percent of a photo under
  another light finds its photo. Beside each the score of a guess. No labels.

CamVid's clusters are those of val.txt. `--held-out` trains on every second photo by id, of CamVid on train.txt, and
scores on the others; retrieval of CamVid's frames looks at all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _photos import data_folder
from _pretrain_score import CLUSTERS, RETRIEVED, Asked, Sizes, score

from maskmill.recipe.sections import FeatureSet

COLUMNS = {
    "neighbours": "neighbours",
    "neighbours_majority": "majority",
    "camvid_k11_hungarian_counts_miou": "camvid K = 11, Hungarian on counts",
    "camvid_k11_many_to_one_miou": "K = 11, many-to-one",
    "camvid_k50_many_to_one_miou": "K = 50, many-to-one",
    "voc_animals_k100_many_to_one_miou": "voc_animals K = 100, many-to-one",
    "drive": "drive",
    "drive_chance": "chance",
    "place": "place",
    "place_chance": "chance",
    "view": "view",
    "view_chance": "chance",
}


def weights_of(name: str, folder: Path, seed: int) -> tuple[Path, str]:
    """A weights file and its backbone: of an embedded one, of `random:<timm name>`, or of FILE=<backbone>."""
    path, _, backbone = name.partition("=")
    if backbone:
        return Path(path), backbone
    backbone = name.removeprefix("random:")
    out = folder / f"{name.replace(':', '-')}-{seed}.safetensors"
    if name != backbone:
        untrained(backbone, seed, out)
    else:
        from maskmill.backbones.weights import prepare

        prepare(FeatureSet(backbone=backbone), out)
    return out, backbone


def untrained(backbone: str, seed: int, out: Path) -> None:
    """Write a network with random weights, as timm draws them after torch.manual_seed."""
    from maskmill.backbones import weights_file
    from maskmill.backbones.network import import_timm
    from maskmill.recipe import backbones

    architecture = str(backbones.of(backbone).architecture)
    torch.manual_seed(seed)
    model = import_timm().create_model(architecture, pretrained=False, num_classes=0)
    facts = {"architecture": architecture, "mean": model.pretrained_cfg["mean"], "std": model.pretrained_cfg["std"]}
    about = f"{backbone}, random weights, seed {seed}"
    weights_file.write(out, model.state_dict(), facts | {"about": about, "source": "random"})


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of scores by name, in Markdown."""
    columns = [key for key in COLUMNS if any(key in row for row in rows.values())]
    lines = ["| | " + " | ".join(COLUMNS[key] for key in columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(cell(row.get(key)) for key in columns) + " |" for name, row in rows.items()]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A score, with its spread where it has one."""
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return f"{value[0]:.1f} ± {value[1]:.1f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def run_score(asked: argparse.Namespace) -> None:
    """Score some files; one table."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.weights:
            start = time.process_time()
            weights, backbone = weights_of(name, Path(folder), asked.seed)
            rows[name] = score(weights, backbone, readouts(asked))
            rows[name]["cpu_seconds"] = time.process_time() - start
            save(asked.out, rows)
            print(f"{name}: {rows[name]['cpu_seconds']:.0f} CPU s", flush=True)
    print("\n" + table(rows))


def readouts(asked: argparse.Namespace) -> Asked:
    """How files are scored, of the command line."""
    sizes = Sizes(asked.photo_side, asked.dense_side, asked.dense_stride or None)
    return Asked(sizes, asked.facet, tuple(asked.seeds), asked.held_out, tuple(asked.parts))


def save(out: Path | None, found: Any) -> None:
    """Write JSON, where it was asked for."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".part").write_text(json.dumps(found, indent=1))
        out.with_suffix(".part").replace(out)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("score", help="read-outs of weights")
    one.add_argument("weights", nargs="+", help="an embedded backbone, random:<timm name>, or FILE=<backbone>")
    one.set_defaults(run=run_score)
    for each in (one,):
        each.add_argument("--photo-side", type=int, default=Sizes.photo, help="pixels of whole photos")
        each.add_argument("--dense-side", type=int, default=Sizes.dense, help="pixels where tokens are clustered")
        each.add_argument("--dense-stride", type=int, default=Sizes.stride, help="of a CNN's tokens; 0: its own")
        each.add_argument("--facet", default="token", help="of a ViT")
        each.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of k-means")
        each.add_argument("--seed", type=int, default=0, help="of random weights, and of a training")
        each.add_argument("--held-out", action="store_true")
        each.add_argument("--parts", nargs="+", default=list(Asked.parts), choices=list(Asked.parts))
        each.add_argument("--out", type=Path, help="JSON of all figures")
    return parser.parse_args(words)


def main() -> None:
    """Run a command."""
    asked = parsed()
    torch.set_num_threads(asked.threads)
    missing = [name for name in dict.fromkeys((*CLUSTERS, *RETRIEVED)) if data_folder(name) is None]
    if missing:
        print(f"no labelled sets ({', '.join(missing)}): nothing to measure; see MASKMILL_DATA")
        return
    asked.run(asked)


if __name__ == "__main__":
    main()
