"""What the classes are called: for the stages that follow, and as a file that a person can edit and give back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskmill.images.palette import hexadecimal, palette
from maskmill.store.calibration import Calibration
from maskmill.store.class_names import case_twins
from maskmill.store.classes import BACKGROUND, IGNORE, Classes
from maskmill.store.codebook import Codebook
from maskmill.taxonomy._document import RESERVED, VERSION, leaf_name
from maskmill.taxonomy._merge import clusters_of
from maskmill.taxonomy._words import listed

_AWKWARD = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
HEAD = """\
# maskmill taxonomy: classes and the clusters that they own. Clusters have the numbers that the report shows; 17b is
# the second part of cluster 17, where `split: {17: 3}` clusters it again. Edit this file, or name clusters in the
# report and save it there; give it back with `taxonomy: {source: file, file: taxonomy.yaml}` and run the same command.
"""
MEMBERS = "# Where the clusters lay, so that the file can be carried over to another clustering. Leave it as it is.\n"


def described(found: Classes, book: Codebook, naming: Mapping[str, Any]) -> dict[str, Any]:
    """Names, colours and clusters of all classes, as JSON values.

    Args:
        naming: {"classes": [[number, name, colour or None], ...]}, or {"label_names": {label id: name}} of classes that
            labels made. A class that it does not have is called after its label id, or after the cluster that was kept.
    """
    leaves = clusters_of(found, book)
    owned: dict[int, list[str]] = {value: [] for value in (*range(1, len(found) + 1), BACKGROUND, IGNORE)}
    for leaf, (value, _) in leaves.items():
        owned[value].append(leaf_name(*leaf))
    known = _known(found, naming)
    taken = {name for name, _ in known.values()}
    colours = palette(len(found) + 1)
    classes: list[dict[str, Any]] = []
    for number in range(1, len(found) + 1):
        name, colour = known.get(number) or (_kept(owned[number], taken), None)
        sure = math.nan if found.confidence is None else float(found.confidence[number - 1])
        classes.append(
            {
                "id": number,
                "name": name,
                "colour": (colour or hexadecimal(colours[number])).lower(),
                "clusters": owned[number],
                "confidence": None if math.isnan(sure) else round(sure, 4),
            }
        )
    calibration = {} if found.calibration is None else {"calibration": _calibration(found.calibration)}
    parts = {str(cluster): 1 + max(p or 0 for c, p in leaves if c == cluster) for cluster, part in leaves if part}
    return {
        "classes": classes,
        "background": owned[BACKGROUND],
        "ignore": owned[IGNORE],
        "split": parts,
        "unnamed": found.unnamed,
        "label_ids": _label_ids(found),
        "open": [leaf_name(*leaf) for leaf, (_, decided) in leaves.items() if not decided],
        "examples": list(found.examples),
        "notes": [*found.notes, *_notes(found, naming, [each["name"] for each in classes])],
    } | calibration


def _notes(found: Classes, naming: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What a person may not have meant: names that differ in case only, and names of labels without a pixel."""
    known = {str(label) for label in (*found.label_ids, found.background_label)}
    absent = [f"{name} ({label})" for label, name in naming.get("label_names", {}).items() if label not in known]
    notes = [f"class_names: no labelled image has a pixel of {listed(absent)}"] if absent else []
    return [*case_twins(names), *notes]


def _calibration(found: Calibration) -> dict[str, Any]:
    """What the confidence of regions rests on, and the mean confidence of the sampled images."""
    return found.facts() | {"sampled": dict(found.seen)}


def _label_ids(found: Classes) -> dict[str, int]:
    """Value in the masks -> label id, of classes that labels made."""
    ids = {str(value): label for value, label in enumerate(found.label_ids, 1)}
    return ids if found.background_label is None else {"0": found.background_label} | ids


def _known(found: Classes, naming: Mapping[str, Any]) -> dict[int, tuple[str, str | None]]:
    """Number -> name and colour, if any; classes of one label name are told apart by their label ids."""
    if "classes" in naming:
        return {number: (name, colour) for number, name, colour in naming["classes"]}
    names = [naming["label_names"].get(str(label), f"class {label}") for label in found.label_ids]
    taken = {*names, *RESERVED}
    known: dict[int, tuple[str, str | None]] = {}
    for number, (name, label) in enumerate(zip(names, found.label_ids, strict=True), 1):
        own = name
        if names.count(name) > 1 or name in RESERVED:
            while own in taken:
                own += f" ({label})"
        taken.add(own)
        known[number] = own, None
    return known


def _kept(clusters: Sequence[str], taken: set[str]) -> str:
    name = f"cluster {clusters[0]}" if clusters else "empty"
    while name in taken or name in RESERVED:
        name += " (unnamed)"
    taken.add(name)
    return name


def document_text(body: Mapping[str, Any], found: Classes, members: str) -> str:
    """`taxonomy.yaml` of what `names` has found; reading it gives the same classes."""
    names = {each["id"]: each["name"] for each in body["classes"]} | {v: name for name, v in RESERVED.items()}
    undecided = set(body["open"])
    kept = [each for each in body["classes"] if not each["clusters"] or not undecided.issuperset(each["clusters"])]
    lines = [HEAD.rstrip(), f"taxonomy: {VERSION}"]
    lines += [f"{key}: {_text(body[key])}" for key in ("recipe", "seed", "codebook")]
    lines.append("classes:" if kept else "classes: []")
    lines += [
        f"  - {{name: {_text(each['name'])}, colour: {_text(each['colour'])}, clusters: {_flow(each['clusters'])}}}"
        for each in kept
    ]
    lines += [f"{name}: {_flow([each for each in body[name] if each not in undecided])}" for name in RESERVED]
    lines.append(f"unnamed: {body['unnamed']}")
    lines.append(f"split: {{{', '.join(f'{k}: {v}' for k, v in body['split'].items())}}}")
    lines.append("corrections:" if found.corrections else "corrections: []")
    for each in found.corrections:
        what = f"region: {each.region}, " if each.region is not None else ""
        what += f"was: {_text(names[each.was])}, " if each.was is not None else ""
        lines.append(f"  - {{image: {_text(each.image)}, {what}class: {_text(names[each.value])}}}")
    block = "".join(f"  {line}\n" for line in members.splitlines())
    return "\n".join(lines) + f"\n{MEMBERS}members: |\n{block}"


def _text(value: Any) -> str:
    """A scalar that YAML reads as the same: JSON, with what YAML takes for line breaks or refuses as escapes."""
    return _AWKWARD.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _flow(clusters: Sequence[str]) -> str:
    return f"[{', '.join(clusters)}]"
