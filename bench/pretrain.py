"""What pretraining does to a backbone: read-outs of weights, curves of a training, and its speed.

    python bench/pretrain.py score vit_small_focus efficientnet_lite0 random:resnet18 FILE=resnet18 [--held-out]
    python bench/pretrain.py curve --method moco --backbone resnet18 --side 96 --steps 600 --start scratch
        [--preset small] [--set queue=4096 ...] [--seed 0] [--quarters 4] [--held-out] --out moco.json
    python bench/pretrain.py speed --method moco --backbone resnet18 --side 96 --start scratch

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

`curve` trains with the stage's own job on the photos of all sets together (`--sets`), from the settings of the method's
recipe (`--preset`, then `--set`). It scores the weights that would be the result: at the start, when the trainer first
looks at features (50 times in a training) at or after each quarter, and at the end. Stopped by a signal, the same
command goes on. `speed` compares the trainer with the bare passes that it asks of the network.
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
import yaml
from _photos import data_folder
from _pretrain_score import CLUSTERS, RETRIEVED, Asked, Sizes, score
from _pretrain_train import SETS, Trained, figures, section_of, speed, train

from maskmill.backbones import weights_file
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.hashing import json_hash

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


def trained_of(asked: argparse.Namespace) -> Trained:
    """The training of the command line; its folder is named by everything that it depends on."""
    given = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in asked.set)}
    named = {"steps": asked.steps, "start": asked.start, "seed": asked.seed}
    given |= {key: value for key, value in named.items() if value is not None}
    section = section_of(asked.method, asked.preset, given, asked.side)
    told = [asked.backbone, section, asked.held_out, asked.sets, asked.command, asked.quarters]
    folder = asked.work / f"{asked.method}-{asked.backbone}-{json_hash(told)[:8]}"
    return Trained(asked.backbone, section, folder, asked.held_out, asked.sets, asked.quarters, asked.threads)


def run_curve(asked: argparse.Namespace) -> None:
    """Train, then score every copy of the weights; one table."""
    training = trained_of(asked)
    print(f"{training.work}: {json.dumps(training.section)}", flush=True)
    ended = train(training)
    found: dict[str, Any] = {"backbone": asked.backbone, "section": training.section, "ended": ended, "curve": {}}
    for name in ("timing", "monitor"):
        path = training.work / f"{name}.json"
        found |= {name: figures(path)} if path.is_file() else {}
    for copy in training.copies():
        _, facts = weights_file.read(copy)
        torch.set_num_threads(asked.threads)  # the training has set it to one
        row = f"step {facts['bench']['step']}"
        found["curve"][row] = score(copy, asked.backbone, readouts(asked)) | facts["bench"]
        save(asked.out, found)
        print(f"{asked.method}, {row}", flush=True)
    if ended:
        print(f"ended early: {ended}")
    print("\n" + table(found["curve"]))


def run_speed(asked: argparse.Namespace) -> None:
    """Time a short training and the bare passes of its network."""
    asked.steps = asked.steps or 6
    found = speed(trained_of(asked))
    save(asked.out, found)
    print("\n".join(f"{name}: {value:.4g}" for name, value in found.items()))


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
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("score", help="read-outs of weights")
    one.add_argument("weights", nargs="+", help="an embedded backbone, random:<timm name>, or FILE=<backbone>")
    one.set_defaults(run=run_score)
    curve = commands.add_parser("curve", help="train, and read-outs at every quarter")
    fast = commands.add_parser("speed", help="the trainer beside the bare passes of the network")
    for each, run in ((curve, run_curve), (fast, run_speed)):
        add_training(each)
        each.set_defaults(run=run)
    for each in (one, curve):
        add_readouts(each)
    for each in (one, curve, fast):
        each.add_argument("--seed", type=int, default=0, help="of random weights, and of a training")
        each.add_argument("--held-out", action="store_true")
        each.add_argument("--threads", type=int, default=1)
        each.add_argument("--out", type=Path, help="JSON of all figures")
    return parser.parse_args(words)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Options of a training."""
    parser.add_argument("--method", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--preset", help="of recipes/<method>.yaml, such as small")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--side", type=int, help="of the large crops")
    parser.add_argument("--start", choices=("scratch", "weights"))
    parser.add_argument("--set", nargs="+", default=[], help="settings of the section, KEY=VALUE")
    parser.add_argument("--quarters", type=int, default=4)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="whose photos are learnt from")
    parser.add_argument("--work", type=Path, default=Path("bench_pretrain"), help="folder of weights and checkpoints")


def add_readouts(parser: argparse.ArgumentParser) -> None:
    """Options of the read-outs."""
    parser.add_argument("--photo-side", type=int, default=Sizes.photo, help="pixels of whole photos")
    parser.add_argument("--dense-side", type=int, default=Sizes.dense, help="pixels where tokens are clustered")
    parser.add_argument("--dense-stride", type=int, default=Sizes.stride, help="of a CNN's tokens; 0: its own")
    parser.add_argument("--facet", default="token", help="of a ViT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of k-means")
    parser.add_argument("--parts", nargs="+", default=list(Asked.parts), choices=list(Asked.parts))


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
