"""`python -m maskmill`, and `python .../maskmill/__main__.py` for an interpreter that has our libraries, but not us.

The second is how Snakemake's rules start jobs in an environment of conda: its packages, and this code.
"""

import importlib.util
import sys
from pathlib import Path

if not __package__ and "maskmill" not in sys.modules:  # run as a file, which Python takes for no part of a package
    folder = Path(__file__).resolve().parent
    # Python puts the folder of such a file first, where our `inputs` or `schema` would hide a library of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location("maskmill", folder / "__init__.py", submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not the package maskmill")
    sys.modules["maskmill"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["maskmill"])

if __name__ == "__main__":  # processes that a job starts run this file under another name, and need the package only
    from maskmill.cli import main

    main()
