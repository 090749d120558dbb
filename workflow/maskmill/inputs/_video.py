"""Videos become folders of PNG frames, without loss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import InputError
from maskmill.progress import track
from maskmill.store.atomic import atomic
from maskmill.store.hashing import json_hash

if TYPE_CHECKING:
    import av


# FFmpeg goes by content: a text with the suffix .mp4 may be a list of other files or of addresses to fetch.
SAFE = {"format_whitelist": "mov,matroska,avi,mpeg,mpegvideo,mpegts,m4v", "protocol_whitelist": "file"}


def extract_frames(video: Path, frames: Path, step: int, max_pixels: int) -> Path:
    """Every `step`-th frame as `<number>.png`, turned upright, in a folder of its own below `frames`.

    The folder is complete or absent, and made once for the same file and step.

    Raises:
        InputError: not a video, no frame of it decodes, or its frames have more than `max_pixels`.
    """
    from PIL import Image

    stat = video.stat()
    stem = video.stem.encode()[:100].decode(errors="ignore")  # the longest name may not become longer
    folder = frames / f"{stem}-{json_hash([str(video.resolve()), stat.st_size, stat.st_mtime_ns, step])[:8]}"
    if folder.is_dir():
        return folder
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        count = 0
        for number, image in track(_frames(video, step, max_pixels), None, f"inputs: frames of {video.name}"):
            Image.fromarray(image).save(temporary / f"{number:06d}.png", compress_level=1)
            count += 1
        if not count:
            raise InputError(f"{video}: no frame of it decodes; convert it, for example to H.264 in MP4")
    return folder


def _frames(video: Path, step: int, max_pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number, uint8 RGB [H, W, 3]) of every `step`-th frame; damaged packets are skipped and counted."""
    import av

    number = damaged = promised = 0
    try:
        with av.open(str(video), options=SAFE) as container:
            if not container.streams.video:
                raise InputError(f"{video}: has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            promised = _promised(stream, container.duration)
            _check_size(video, stream.width, stream.height, max_pixels)
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    damaged += 1
                    continue
                for frame in decoded:
                    _check_size(video, frame.width, frame.height, max_pixels)  # it may change on the way
                    if number % step == 0:
                        yield number, _upright(frame)
                    number += 1
    except av.error.FFmpegError as error:
        if not number:
            raise InputError(f"{video}: not a readable video ({error.strerror})") from None
        damaged += 1
    if number < promised:
        print(f"inputs: {video}: cut off: {number} frames read of {promised} that its header says", file=sys.stderr)
    if damaged:
        print(f"inputs: {video}: {damaged} damaged packets skipped, {number} frames read", file=sys.stderr)


def _promised(stream: av.VideoStream, duration: int | None) -> int:
    """How many frames the header says there are; 0 where it says nothing. By its duration a few less, to be sure."""
    if stream.frames:
        return int(stream.frames)
    length = stream.duration and stream.time_base and float(stream.duration * stream.time_base)
    if not length and duration:
        length = duration / 1e6
    return int(0.98 * length * float(stream.average_rate)) - 2 if length and stream.average_rate else 0


def _check_size(video: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"{video}: frames of {width}x{height} pixels, inputs.max_pixels allows {max_pixels}; scale it down"
        )


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """A frame as players show it: telephones store portrait videos lying, with a rotation beside them."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
