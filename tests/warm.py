"""Real processes that need not import torch and transformers first: forks of one that has.

A test that starts ``refarch run`` as its user would, kills it and starts it again spends most of its time importing.
What is forked here is a process of its own (a killed one leaves nothing behind, arguments, folder and environment are
its own, it ends like any other) in which these two are imported and nothing else has happened: no plugin, no model, no
test. What a fresh interpreter is asked about, such as what an import brings along, is no question for such a fork.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SERVERS: list[Server] = []
"""All that were started in this process."""


class Process:
    """A forked process; like ``subprocess.Popen``, as far as tests need it."""

    def __init__(self, server: Server, pid: int, folder: tempfile.TemporaryDirectory) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = (Path(folder.name) / name for name in ("out", "err"))
        self._server, self._folder = server, folder

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        self.returncode = self._server.ended(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """How it ended, once it has.

        Raises:
            subprocess.TimeoutExpired: it has not, in time; it is killed.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Server:
    """The process that is forked.

    Args:
        python: the interpreter, for a virtual environment of a test's own.
    """

    def __init__(self, python: str | Path = sys.executable) -> None:
        command = [str(python), "-c", "import warm; warm.serve()"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._ended: dict[int, int] = {}
        SERVERS.append(self)

    def close(self) -> None:
        """End it, and wait for it, so that what it and its forks took counts as this process's."""
        assert self._popen.stdin
        self._popen.stdin.close()
        self._popen.wait(60)

    def start(self, job: dict[str, Any]) -> int:
        """Fork it to do a job; gives the process's number."""
        return self._ask(job)

    def ended(self, pid: int) -> int | None:
        """The exit status of a process that has ended; the negative signal that ended it."""
        if pid not in self._ended:
            self._ended.update({int(pid): code for pid, code in self._ask({"ended": True}).items()})
        return self._ended.get(pid)

    def _ask(self, message: dict[str, Any]) -> Any:
        assert self._popen.stdin and self._popen.stdout
        self._popen.stdin.write(json.dumps(message) + "\n")
        self._popen.stdin.flush()
        return json.loads(self._popen.stdout.readline())


@functools.cache
def server() -> Server:
    """One for each worker; it ends with it."""
    return Server()


def start(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, on: Server | None = None
) -> Process:
    """Start ``python ARGUMENTS``, where they are ``-c CODE`` or ``-m MODULE`` with its own.

    Args:
        arguments: of the interpreter.
        cwd: its working folder.
        env: its environment; this process's when left out. ``PYTHONPATH`` counts.
        on: the server that is forked; this worker's when left out.
    """
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    job = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env or os.environ), "files": folder.name}
    on = on or server()
    return Process(on, on.start(job), folder)


def run(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    on: Server | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; arguments as above."""
    process = start(arguments, cwd, env, on)
    code = process.wait(timeout)
    return subprocess.CompletedProcess(list(arguments), code, process.stdout.read_text(), process.stderr.read_text())


def close() -> None:
    """End all servers."""
    while SERVERS:
        SERVERS.pop().close()


def serve() -> None:
    """The server's loop: a line is a job, or the question which processes have ended."""
    import torch  # noqa: F401
    import transformers

    _ = (
        transformers.Trainer,
        transformers.PreTrainedModel,
        transformers.AutoModelForCausalLM,
        transformers.AutoTokenizer,
    )
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all that is shared
    for line in sys.stdin:
        message = json.loads(line)
        answer = _ended() if "ended" in message else os.fork()
        if answer == 0:
            os._exit(_do(message))
        print(json.dumps(answer), flush=True)


def _ended() -> dict[int, int]:
    """The children that have ended since it was asked last."""
    found = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found[pid] = os.waitstatus_to_exitcode(status)


def _do(job: dict[str, Any]) -> int:
    """In the fork: become the process that was asked for; gives its exit status."""
    for number, name in enumerate(("in", "out", "err")):
        path = os.devnull if number == 0 else os.path.join(job["files"], name)
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.path[:] = ["", *filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep)), *sys.path[1:]]
    sys.path.remove(str(Path(__file__).parent))
    flag, what, *arguments = job["arguments"]
    sys.argv = [flag if flag == "-c" else what, *arguments]
    code: Any = 0
    try:
        if flag == "-c":
            main = sys.modules["__main__"] = type(sys)("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # and then at once: taking an interpreter down touches, and so copies, all that is shared
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code) if isinstance(code, (int, type(None))) and code else int(isinstance(code, str))
