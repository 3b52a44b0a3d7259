"""Extras: the packages that only parts of the harness need, and whether they are installed."""

from __future__ import annotations

import importlib.util

# By extra of the package, the modules of what it installs that are imported here. An extra that is
# there in part is missing: whoever has Hypothesis for other tests may lack what else is needed.
EXTRAS: dict[str, tuple[str, ...]] = {
    "strategies": ("hypothesis", "allpairspy"),
    "figures": ("matplotlib", "PIL"),
    "triton": ("triton", "packaging", "numpy"),
    "transformers": ("transformers",),
    "dask": ("distributed",),
}


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'flexdecode-harness[{extra}]'"


def missing(extra: str) -> str | None:
    """What is not installed of an extra, with the command that installs it; None where all of it
    is. Nothing is imported."""
    absent = [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
    return f"needs {', '.join(absent)}: {install(extra)}" if absent else None
