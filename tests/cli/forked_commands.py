"""Command lines in processes of their own that cost no import: forked from one that has it behind it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SERVER = """
import json, os, sys
import accelerate, matplotlib.pyplot, safetensors.torch, scipy.stats, sklearn.datasets, torch, tqdm.auto
import torchvision
torch.set_num_threads(1)
from difflow.cli import root
root._load_commands()
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ.update(job['environment'])
        os.chdir(job['folder'])
        for number, name in ((1, 'log'), (2, 'errors')):
            os.dup2(os.open(job[name], os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        code = 1
        try: root.main(job['words'])
        except SystemExit as end: code = end.code or 0
        except BaseException: import traceback; traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Commands:
    "A process that forks one for each command line"

    def __init__(self, log, errors=None):
        "Begin; what commands write goes to the file `log`, what they write on stderr to `errors`, if given"
        environment = os.environ | {'MPLBACKEND': 'Agg', 'OMP_NUM_THREADS': '1'}
        self.log, self.errors = Path(log), Path(errors or log)
        self.server = subprocess.Popen(
            [sys.executable, '-c', SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, words, folder, **environment):
        "Start a command in `folder` and return its process number"
        files = dict(log=str(self.log), errors=str(self.errors))
        job = dict(words=words, folder=str(folder), environment=environment, **files)
        self.server.stdin.write(json.dumps(job) + '\n')
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self):
        "Return how the command that was started ended: its exit status, or minus the signal"
        return int(self.server.stdout.readline())

    def run(self, words, folder, **environment):
        "Run a command to its end; return its exit status and the seconds that it took"
        began = time.monotonic()
        self.start(words, folder, **environment)
        return self.wait(), time.monotonic() - began

    def struck(self, words, folder, after, number=signal.SIGKILL):
        "Start a command, send a signal after so many seconds, and return how it ended"
        child = self.start(words, folder)
        time.sleep(after)
        try:
            os.kill(child, number)
        except ProcessLookupError:
            pass
        return self.wait()

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def content(folder):
    "Return {relative name: bytes} of all files below a folder, hidden ones too"
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(Path(folder).rglob('*')) if f.is_file()
    }
