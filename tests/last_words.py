"""`python -m tests.last_words PID CAPTURED`: says why pytest, the process PID, ended without a summary.

When Ray's GCS or raylet is lost, its C++ side may end the process it is in, past Python and past pytest, whose capture
keeps the message; so does the kernel when memory is short. On stdin come the names of the tests as they start, and
`THE_END` from a pytest that ends as it should. CAPTURED is the descriptor where pytest keeps a test's stderr.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

THE_END = "the end"
SHOWN_LINES = 15
RAY_LOGS = ("gcs_server.out", "gcs_server.err", "raylet.out", "raylet.err", "python-core-driver-*_{pid}.log")
TROUBLE = re.compile(r"\[\d{4}-\S+ \S+ [WEC] ")


def listen(captured: int) -> subprocess.Popen[str]:
    """Start it beside this process; its stderr is that of this process."""
    command = [sys.executable, "-m", "tests.last_words", str(os.getpid()), str(captured)]
    folder = Path(__file__).parents[1]
    # A session of its own: Ctrl-C is for pytest.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, pass_fds=[captured], start_new_session=True, cwd=folder
    )


def tell(listener: subprocess.Popen[str], word: str) -> None:
    assert listener.stdin is not None
    listener.stdin.write(f"{word}\n")
    listener.stdin.flush()


def killed_for_memory() -> int:
    """How many processes the kernel has killed since it started because memory was short."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def last_lines(lines: Iterable[str]) -> str:
    return "".join(f"  {line[:1000]}\n" for line in list(lines)[-SHOWN_LINES:])


def troubles(folder: Path, pid: int) -> str:
    """What the logs of a Ray in `folder` say of warnings, errors and ends; what is on stderr all is."""
    said = ""
    for log in (found for name in RAY_LOGS for found in sorted(folder.glob(name.format(pid=pid)))):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if told := last_lines(line for line in lines if log.suffix == ".err" or TROUBLE.match(line)):
            said += f"{log}:\n{told}"
    return said


def main(pid: int, captured: int) -> None:
    before, test = killed_for_memory(), "no test"
    for line in sys.stdin:
        if line.strip() == THE_END:
            return
        test = line.strip()
    said = f"\npytest ended without a summary, in {test}\n"
    if killed := killed_for_memory() - before:
        said += f"meanwhile the kernel killed {killed} processes because memory was short\n"
    if not os.path.samestat(os.fstat(captured), os.fstat(sys.stderr.fileno())):
        text = os.pread(captured, os.fstat(captured).st_size, 0).decode(errors="replace")
        said += f"the test's stderr:\n{last_lines(text.splitlines())}"
    said += "".join(troubles(folder, pid) for folder in sorted(Path("/tmp/ray").glob(f"session_*_{pid}/logs")))
    print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
