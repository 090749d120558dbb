"""Which precision a device is asked for."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from maskmill import device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_asked_of_devices_that_compute_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_bf16_supported()` alone is true on every CUDA device, because torch emulates the type."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    device.has_bfloat16.cache_clear()
    assert device.has_bfloat16(CUDA) is native
    assert not device.has_bfloat16(CPU)
    device.has_bfloat16.cache_clear()


def test_nothing_is_cast_on_the_cpu() -> None:
    x = torch.ones(2, 2)
    with device.autocast(CPU):
        assert (x @ x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with device.float32(CPU):
            assert (x @ x).dtype == torch.float32


def test_on_the_cpu_an_array_is_not_copied() -> None:
    x = np.zeros(3, np.float16)
    device.pinned(x, CPU)[0] = 1
    assert x[0] == 1
