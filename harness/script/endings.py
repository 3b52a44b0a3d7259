"""Statements of a standalone script that show what no output does: how a call ends, and what it
changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.case import DecodeCase
from harness.function.limits import MEMORY
from harness.script.inputs import parameters
from harness.script.text import bracketed
from harness.verdict import Verdict

_RETURNED = 42


def crash() -> Iterator[str]:
    """Statements that run the rest of the script in a child process.

    The child ends with a special status where all calls return, since a function that ends the
    process with status 0 counts as a crash too."""
    yield 'if sys.argv[1:] != ["call"]:'
    yield '    child = subprocess.run([sys.executable, __file__, "call"]).returncode'
    yield f'    print("returned" if child == {_RETURNED} else f"the process ended with {{child}}")'
    yield f"    sys.exit(child != {_RETURNED})"
    yield ""


def returned() -> str:
    """The statement with which that child says that all calls returned."""
    return f"sys.exit({_RETURNED})"


def ending(verdict: Verdict, timeout: float, device: str, others: Iterable[str]) -> Iterator[str]:
    """Statements with calls that may not return: the first one, then ``others``."""
    if verdict is Verdict.TIMEOUT:
        yield f"faulthandler.dump_traceback_later({timeout!r}, exit=True)  # with status 1"
    if verdict is Verdict.OOM and device == "cpu":
        yield 'with open("/proc/self/statm") as file:'
        yield "    used = int(file.read().split()[0]) * resource.getpagesize()"
        yield f"limit = used + {MEMORY}  # of addresses, in bytes"
        yield "hard = resource.getrlimit(resource.RLIMIT_AS)[1]"
        yield "resource.setrlimit(resource.RLIMIT_AS, (limit, hard))"
    yield "call(key, value)"
    yield from others
    if verdict is Verdict.CRASH:
        yield returned()
    else:
        yield 'print("all calls returned")'


_STATE = """
def checksum(x):
    # Of all memory that a tensor lies in, also what is outside of its view.
    memory = x.untyped_storage().cpu()
    return zlib.crc32((ctypes.c_char * memory.nbytes()).from_address(memory.data_ptr()))


def state(**tensors):
    tiny = torch.full((), 2.0**-149, device="cpu", dtype=torch.float32)
    return {name: checksum(x) for name, x in tensors.items()} | {
        "torch.get_num_threads": torch.get_num_threads(),
        "torch.get_default_dtype": torch.get_default_dtype(),
        "torch.get_default_device": torch.get_default_device(),
        "torch.is_grad_enabled": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "warnings of them": torch.is_deterministic_algorithms_warn_only_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "reduced": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "the flushing of subnormal numbers": bool(tiny * 1 == 0),
        "the state of torch's random numbers": torch.get_rng_state().tolist(),
        "the working directory": os.getcwd(),
        "sys.stdout and sys.stderr": (id(sys.stdout), id(sys.stderr)),
    }
"""


def mutated(case: DecodeCase) -> Iterator[str]:
    """Statements that make one call and print what it changed, memory of its inputs or settings of
    the process, and of which inputs it returned the memory."""
    yield ""
    yield from _STATE.rstrip().splitlines()
    yield ""
    yield ""
    given = ["query=q", "key_cache=k", "value_cache=v", "input_pos=p"]
    given += [f"{parameter.name}={parameter.short}" for parameter, _ in parameters(case)]
    yield from bracketed("inputs = dict(", given, ")")
    yield "with torch.no_grad():"
    yield "    before = state(**inputs)"
    yield "    out = decode(q, k, v, p, **options)"
    yield "    after = state(**inputs)"
    yield "changed = [name for name in before if before[name] != after[name]]"
    yield "at = out.untyped_storage().data_ptr()  # of the output, which may be an input's"
    yield "changed += [n for n, x in inputs.items() if x.untyped_storage().data_ptr() == at]"
    yield 'print("changed:", ", ".join(changed) or "nothing")'
    yield "sys.exit(bool(changed))"
