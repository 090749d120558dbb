"""Holds torch code to the rule that it reads no number back from a device, with which the host would wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# A number that is read, and operations whose result has a size that only the device knows.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero"}


class NothingRead(TorchDispatchMode):
    """Within it such an operation is an AssertionError, on the CPU as well, where nobody would wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
        assert name not in READING, f"{name} makes the host wait"
        assert not by_mask, f"{name} by a mask makes the host wait"
        return func(*args, **(kwargs or {}))
