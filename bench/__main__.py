"""The command: ``python -m bench``, or ``peft-verdict`` where it is installed.

Python puts the working folder of ``-m`` first on the path of imports, and that of each child process too: there a
``random.py`` or ``datasets/`` of the person's own would be taken for a library's.
"""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line."""
    if not sys.flags.safe_path:
        _look_there_last()
    from bench.cli import main as run

    run()


def _look_there_last() -> None:
    """Moves the working folder to the end of the path, in this process and in its children.

    Not off the path: a method of the person's own may lie there (``method._target_=my_module.MyMethod``). A checkout
    that is the working folder itself stays where it is, for this package may be found by that alone.
    """
    try:
        folder = os.getcwd()  # noqa: PTH109  # pathlib is one of the modules that may lie there
    except FileNotFoundError:  # it was removed: nothing can lie there
        return
    if os.path.samefile(folder, os.path.dirname(os.path.dirname(__file__))):  # noqa: PTH120, PTH121
        return
    if sys.path[0] in ("", folder):  # not so for an installed command
        del sys.path[0]
    sys.path.append(folder)
    os.environ["PYTHONSAFEPATH"] = "1"  # children take the path itself from this process


if __name__ == "__main__":
    main()
