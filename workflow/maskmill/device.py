"""Which device computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from maskmill.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Compute:
    """How a network runs: images at once, CPU threads, and the device (auto, cpu, cuda or cuda:0)."""

    batch_size: int = 8
    threads: int = 1
    device: str = "auto"


def pick(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a device that is not there is a DeviceError."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: no CUDA device is visible here; use --device cpu or ask for a GPU node")
    return device


def alike(device: torch.device) -> list[torch.device]:
    """All devices that a job may use: every visible CUDA device for plain `cuda`, else the one named."""
    import torch

    if device.type == "cuda" and device.index is None:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [device]


@lru_cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device computes bfloat16 itself (compute capability 8.0, or ROCm).

    Older devices emulate it, slower than float32. Nothing asks for it on the CPU.
    """
    import torch

    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision of what is trained, and of a trained network at work: bfloat16 where the device has it.

    Elsewhere nothing is cast. float16, which older devices have, would need a scaled loss.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def float32(device: torch.device) -> torch.autocast:
    """No mixed precision within `autocast`, for what is compared with a threshold; inputs must be float32 already."""
    import torch

    return torch.autocast(device.type, enabled=False)


def pinned(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor of the host; for CUDA in pinned memory, from where `.to(non_blocking=True)` does not wait.

    It is to be called in the thread that prepares batches: pinning copies.
    """
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


@contextlib.contextmanager
def memory_advice(key: str, value: int, last: str = "use smaller images (features.<name>.size)") -> Iterator[None]:
    """Turn running out of GPU memory into advice: which setting `key` to lower from `value`; `last` when it is 1."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"set {key}={value // 2}" if value > 1 else last
        raise DeviceError(f"out of GPU memory with {key}={value}; {advice} and run again") from error
