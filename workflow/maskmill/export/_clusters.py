"""clusters.csv: one line a cluster, collected while the images stream by."""

from __future__ import annotations

import csv
import heapq
import shlex
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.export.naming import Naming

TYPICAL = 8  # images named a cluster
COLUMNS = ["cluster", "name", "colour", "images", "pixels", "share", "regions", "confidence", "typical"]
CALIBRATED = "calibrated"


class Clusters:
    """Counts of every mask value 0..k; memory grows with k, not with the images.

    Args:
        keep: every score is kept, for `parts`: a sum of sums would be another number in its last digits.
        calibrated: the table has a column more, the mean calibrated confidence of the regions.
    """

    def __init__(self, naming: Naming, calibrated: bool = False, keep: bool = False) -> None:
        self.naming, self.keep = naming, keep
        clusters = naming.count
        self.images = np.zeros(clusters + 1, np.int64)
        self.pixels = np.zeros(clusters + 1, np.int64)
        self.total = 0
        self.regions = np.zeros(clusters + 1, np.int64)
        self.calibrated = calibrated
        self._sure = np.zeros(clusters + 1, np.float64)
        self._score = np.zeros(clusters + 1, np.float64)
        self._large: list[list[tuple[float, str]]] = [[] for _ in range(clusters + 1)]
        self._close: list[dict[str, float]] = [{} for _ in range(clusters + 1)]
        self._seen: tuple[array[Any], ...] = array("i"), array("d"), array("d")

    def add_mask(self, image_id: str, counts: np.ndarray, total: int) -> None:
        """Pixels [k + 1] of one image that has `total` pixels, ignored ones included, but not those without data."""
        self.total += total
        self.pixels += counts
        for cluster in np.flatnonzero(counts):
            self.images[cluster] += 1
            self._offer(self._large[cluster], float(counts[cluster] / total), image_id)

    def add_region(
        self, image_id: str, cluster: int, score: float, distance: float, confidence: float | None = None
    ) -> None:
        """One region of a cluster >= 1."""
        self.regions[cluster] += 1
        self._score[cluster] += score
        self._sure[cluster] += confidence or 0.0
        if self.keep:
            for kept, value in zip(self._seen, (cluster, score, confidence or 0.0), strict=True):
                kept.append(value)
        close = self._close[cluster]
        if distance < close.get(image_id, np.inf):
            close[image_id] = distance
            if len(close) > TYPICAL:
                del close[max(close, key=lambda i: (close[i], i))]

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `add` needs of some of the images, as JSON and as arrays."""
        arrays = {"images": self.images, "pixels": self.pixels, "regions": self.regions}
        arrays |= {"cluster": np.array(self._seen[0], np.int32), "score": np.array(self._seen[1], np.float64)}
        arrays |= {"confidence": np.array(self._seen[2], np.float64)}
        return {"total": self.total, "large": self._large, "close": self._close}, arrays

    def add(self, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """The images that follow, as `parts` gave them: the same as if each of them had been added here."""
        self.total += body["total"]
        self.images += arrays["images"]
        self.pixels += arrays["pixels"]
        self.regions += arrays["regions"]
        np.add.at(self._score, arrays["cluster"], arrays["score"])  # one after the other
        np.add.at(self._sure, arrays["cluster"], arrays["confidence"])
        for heap, more in zip(self._large, body["large"], strict=True):
            for value, image_id in more:
                self._offer(heap, value, image_id)
        for close, others in zip(self._close, body["close"], strict=True):
            close |= others
            for image_id in sorted(close, key=lambda i: (close[i], i))[TYPICAL:]:
                del close[image_id]

    @staticmethod
    def _offer(heap: list[tuple[float, str]], value: float, image_id: str) -> None:
        (heapq.heappush if len(heap) < TYPICAL else heapq.heappushpop)(heap, (value, image_id))

    def typical(self, cluster: int) -> list[str]:
        """Image ids, best first: those of the regions closest to the centre, else those with the largest share."""
        close = self._close[cluster]
        if close:
            return sorted(close, key=lambda i: (close[i], i))
        return [image_id for _, image_id in sorted(self._large[cluster], key=lambda pair: (-pair[0], pair[1]))]

    def write(self, path: Path, classes: Mapping[str, str] | None, iou: Mapping[str, float | None] | None) -> None:
        """Write the table; with scores also each cluster's matched class and that class's IoU."""
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            columns = COLUMNS + ([CALIBRATED] if self.calibrated else [])
            out.writerow(columns + (["class", "class_iou"] if classes is not None else []))
            for cluster in range(len(self.naming.names)):
                row = self._row(cluster) | {"colour": self.naming.hexadecimal(cluster)}
                line = [row[name] for name in columns]
                if classes is not None:
                    matched = classes.get(str(cluster), "")
                    value = (iou or {}).get(matched)
                    line += [matched, "" if value is None else f"{value:.4f}"]
                out.writerow(line)

    def _row(self, cluster: int) -> dict[str, object]:
        regions = int(self.regions[cluster])
        return {
            "cluster": cluster,
            "name": self.naming.names[cluster],
            "images": int(self.images[cluster]),
            "pixels": int(self.pixels[cluster]),
            "share": f"{self.pixels[cluster] / max(1, self.total):.6f}",
            "regions": regions,
            "confidence": f"{self._score[cluster] / regions:.4f}" if regions else "",
            CALIBRATED: f"{self._sure[cluster] / regions:.4f}" if regions else "",
            "typical": shlex.join(self.typical(cluster)),
        }
