"""MMSegmentation: img_dir and ann_dir, and a configuration with classes and palette.

Label PNGs hold the values of the masks: 0 background, 1..k, 255 ignore. Where no image has background (most recipes
that cluster tokens), class 0 would be one that never occurs: the configuration then says `reduce_zero_label=True`, with
which MMSegmentation takes 0 for ignore and counts classes from 1, and lists the k names only.
"""

from __future__ import annotations

from typing import Any

from maskmill.export._layout import suffix_of
from maskmill.export._picture import Picture
from maskmill.export.formats._base import Entry, Format
from maskmill.store.manifest import Row

_CONFIG = """# {title}
# Put photos into img_dir/train (export.photos: link), and this into _base_ of a configuration of MMSegmentation 1.x.
dataset_type = "BaseSegDataset"
data_root = "."  # this folder
metainfo = dict(
    classes={classes},
    palette={palette},
)
reduce_zero_label = {reduce}  # {why}
num_classes = {count}  # of the decode head; 255 is ignore, which is the default of the losses
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),  # takes reduce_zero_label from the data set
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="train.txt",
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        img_suffix={suffix},
        seg_map_suffix=".png",
        metainfo=metainfo,
        reduce_zero_label=reduce_zero_label,
        pipeline=train_pipeline,
    ),
)
"""


class Mmseg(Format):
    """Folder `mmseg`."""

    def begin(self) -> None:
        self._list = self.opened("train.txt")
        self._background = False

    def entry(self, picture: Picture) -> Entry:
        return Entry("" if picture.mask.all() else "background", picture.png)

    def add(self, row: Row, entry: Entry) -> None:
        # A list names images without img_suffix; where suffixes differ, that is empty and the names have their own.
        own = "" if self.facts.suffix is not None else suffix_of(row)
        name = self.put(row, "ann_dir/train", f"{own}.png", entry.body)
        self._list.write(f"{name}{own}\n")
        self._background = self._background or bool(entry.text)
        self.photo(row, f"img_dir/train/{name}{suffix_of(row)}", entry.photo)

    def end(self) -> None:
        first = 0 if self._background else 1
        names, colours = list(self.naming.names[first:]), self.naming.colours[first:].tolist()
        facts: dict[str, Any] = {"classes": names, "palette": colours}
        self.write_json("metainfo.json", facts | {"reduce_zero_label": bool(first), "ignore_index": 255})
        why = "no image has background (0)" if first else "0 is the class background"
        title = " ".join(self.facts.title.split())
        self.write("dataset.py", _CONFIG.format(
            title=title, classes=_tuple(names), palette=colours, reduce=bool(first), why=why, count=len(names),
            suffix=repr(self.facts.suffix or ""),
        ))  # fmt: skip


def _tuple(names: list[str]) -> str:
    return "(" + "".join(f"{name!r}, " for name in names).rstrip() + ")"
