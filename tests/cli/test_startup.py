"""What a job does not import: every job pays for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules} | set(sys.modules)))"


def loaded(code: str) -> set[str]:
    """Modules that a new process holds after `code`."""
    run = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import maskmill.cli.app",
        "from maskmill.recipe.resolve import load;"
        "load({'recipes': ['comus', 'cutler', 'hnne', 'umap', 'dsm']}, 'recipes')",
    ],
)
def test_command_line_and_configuration_load_no_numerics(code: str) -> None:
    assert not {"torch", "zarr", "numba", "pandas", "scipy", "sklearn", "pyarrow"} & loaded(code)


def test_a_table_is_read_without_pandas(tmp_path: Path) -> None:
    import pyarrow as pa

    from maskmill.store.artefact import write_table

    write_table(tmp_path / "t.parquet", pa.table({"a": ["x", "y"]}))
    read = f"assert len(read_table('{tmp_path}/t.parquet', ['a'], ('a', 'x'))) == 1"
    assert "pandas" not in loaded(f"from maskmill.store.artefact import read_table\n{read}")


def test_timm_loads_without_the_compiler_and_torch_finds_it_later() -> None:
    code = "from maskmill.backbones.network import import_timm; timm = import_timm()"
    assert not {"sympy", "torch._dynamo"} & loaded(code)
    later = (
        f"{code}\nimport torch\nnet = timm.create_model('resnet18', num_classes=2)\n"
        "torch.optim.AdamW(net.parameters()).step()\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]"
    )
    assert "torch._dynamo" in loaded(later)
