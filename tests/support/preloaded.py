"""A process that has imported torch and its compiler, and runs each script in a fork of itself.

Importing them takes longer than most scripts. A fork is a process of its own all the same: it may
crash, hang, exhaust its memory and change what it likes. Run by path, as the main module; what it
is asked comes as lines of JSON, what it answers are exit codes, negative for a signal.
"""

import json
import os
import runpy
import sys

import torch._inductor.compile_fx
import torch.nn.attention.flex_attention  # noqa: F401  (for the scripts)


def become(order: dict) -> None:
    """Run what was ordered, as ``python script.py ...`` or ``python -m module ...`` would."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for name, fd in (("stdout", 1), ("stderr", 2)):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, fd)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.modules.update(dict.fromkeys(order["without"]))
    first, *rest = order["arguments"]
    if first == "-m":
        sys.path[:0] = [order["folder"], *order["path"]]
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [os.path.dirname(os.path.abspath(first)), *order["path"]]
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
