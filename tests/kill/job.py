"""What the tests' experiments run: ``job.py FOLDER SECONDS[,SECONDS…] [EXIT CODE [FLAGS…]]``.

Writes a line to ``FOLDER/ran/<experiment>`` when it begins and when it ends,
and one to ``FOLDER/twins`` when another of the same experiment is alive. The
n-th execution of an experiment takes the n-th number of seconds, or the last.
"""

import fcntl
import os
import sys
import time


def main(folder: str, seconds: str, code: str = "0", *_flags: str) -> None:
    name, attempt = os.environ["SKYDECK_EXPERIMENT"], os.environ["SKYDECK_ATTEMPT"]
    ran = os.open(f"{folder}/ran/{name}", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    lock = os.open(f"{folder}/ran/.{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    me = f"{attempt} {os.getpid()}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        twins = os.open(f"{folder}/twins", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(twins, f"TWIN {name} {me}\n".encode())
    before = os.pread(ran, 1 << 20, 0).count(b"start ")
    os.write(ran, f"start {me} {time.time_ns()}\n".encode())
    each = seconds.split(",")
    time.sleep(float(each[min(before, len(each) - 1)]))
    os.write(ran, f"end {me} {time.time_ns()}\n".encode())
    raise SystemExit(int(code))


main(*sys.argv[1:])
