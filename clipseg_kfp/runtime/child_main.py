"""Becomes a program that ends with the process that started it, even if that is killed.

Run as a script: ``python child_main.py <process ID of the parent> <program> <arguments>``. It imports nothing of
the package, so that it starts quickly. Systems other than Linux cannot do this; the program starts there, too.
"""

import ctypes
import os
import signal
import sys

_SIGNAL_ON_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>; it outlives the exec


def main(parent: str, program: str, *arguments: str) -> None:
    """Asks for the signal, checks that the parent is still there, and becomes the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        if os.getppid() != int(parent):  # it has ended already
            sys.exit(1)
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
