"""Runs a command in a pseudo-terminal and plays a script to it.

usage: play_terminal.py COMMAND ARGUMENT...   with the script on standard input: a JSON list of {"wait": text}, {"send": text},
{"columns": number} and, as the last one, {"hangUp": true}, which closes the terminal. A wait reads until the text comes, after
what the wait before it found. Prints JSON: the exit code, and what was read up to each wait, then what was read until the end.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

SECONDS = 30


def main():
    steps = json.load(sys.stdin)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    resize(terminal, 100)
    unread = b""
    pieces = []

    def more(deadline):
        """Reads a little; None at the end of the output, an error when the time is over."""
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            sys.exit(f"nothing came for {SECONDS} s; after {pieces[-3:]} there was {unread[-2000:]!r}")
        if not select.select([terminal], [], [], 0.1)[0]:
            return b""
        try:
            return os.read(terminal, 65536) or None
        except OSError:
            return None

    for step in steps:
        if "send" in step:
            os.write(terminal, step["send"].encode())
            continue
        if "columns" in step:
            resize(terminal, step["columns"])
            continue
        if "hangUp" in step:
            os.close(terminal)
            finish(pid, pieces)
            return
        wanted = step["wait"].encode()
        deadline = time.monotonic() + SECONDS
        while wanted not in unread:
            data = more(deadline)
            if data is None:
                sys.exit(f"ended before {step['wait']!r}; after {pieces[-3:]} there was {unread[-2000:]!r}")
            unread += data
        end = unread.index(wanted) + len(wanted)
        pieces.append(unread[:end].decode(errors="replace"))
        unread = unread[end:]
    deadline = time.monotonic() + SECONDS
    while (data := more(deadline)) is not None:
        unread += data
    finish(pid, pieces + [unread.decode(errors="replace")])


def resize(terminal, columns):
    """Makes the terminal so wide, as its window does."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def finish(pid, pieces):
    """Waits for the command's end, and prints how it went."""
    status = os.waitpid(pid, 0)[1]
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "pieces": pieces}))


main()
