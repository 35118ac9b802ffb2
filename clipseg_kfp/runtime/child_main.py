"""Becomes a program that ends with the process which started it, however that ends.

Run as a script, ``python tethered.py <process ID of the parent> <program> <arguments>``; it imports nothing of the
package, so that it is quick. Where the system cannot do this (it is not Linux), the program starts all the same.
"""

import ctypes
import os
import signal
import sys

_SIGNAL_ON_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>; it outlives the exec


def main(parent: str, program: str, *arguments: str) -> None:
    """Asks for the signal, makes sure that the parent is still there, and becomes the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before that
            sys.exit(1)
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
