"""Records the hashes of the whole run on this machine beside those of other machines: hashes.json.

    python tests/reference/record_hashes.py [--demo]

What it records is what later versions are compared with (tests/workflow/test_hashes.py): run it on code that is known
to be right, and name in the commit what has changed and why. `--demo` records those of the embedded footage, with the
configuration that is shipped; it takes some minutes and fetches the footage.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "hashes.json"
sys.path.insert(0, str(HERE.parent / "support"))


def record(demo: bool) -> None:
    """Run, hash, and write."""
    import job_server
    import outputs
    import whole_run

    facts = outputs.machine()
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    entry = recorded.setdefault(outputs.key(facts), {"machine": facts})
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "work"
        if demo:
            with job_server.serving() as folder:
                whole_run.run(work, whole_run.DEMO, folder)
        else:
            whole_run.draw_photos(Path(name) / "photos")
            whole_run.make(work, Path(name) / "photos")
        entry["demo" if demo else "recipes"] = outputs.outputs(work)
    FILE.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record("--demo" in sys.argv)
