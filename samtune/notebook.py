"""Whether this process is the kernel of a notebook."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether what is displayed here goes to a notebook: Jupyter's, VS Code's, Colab's."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has imported it
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
