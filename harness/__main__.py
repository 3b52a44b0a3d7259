"""The entry point of ``python -m harness``."""

from __future__ import annotations

import sys

from harness.support.interrupts import interrupts


def main() -> int:
    """Run the command line and return the exit code; interrupts are heard from here on."""
    if sys.platform == "win32":
        text = "needs Linux or macOS, on Windows WSL; harness.decoding runs wherever torch does"
        print(f"harness: error: {text}", file=sys.stderr)
        return 2
    with interrupts():
        try:
            from harness import cli  # noqa: PLC0415  # An import can be interrupted.

            return cli.entry()
        except KeyboardInterrupt:
            # It came before there was anybody to tell it.
            print("\ninterrupted", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main())
