"""A SLURM of its own in a folder: munged, slurmctld and, on this machine too, two nodes of one core each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel")
# Debian puts the daemons where a user who is not root has no path to.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

# A job that was requeued waits until its old credential has expired: 120 seconds, unless cred_expire is less.
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=low Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=patient Nodes={nodes[0]},{nodes[1]} State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes={nodes[0]},{nodes[1]} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


def why_not() -> str:
    """Why there can be no cluster here; "" if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"SLURM: {missing[0]} is not installed (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.getuid() == 0 else "SLURM: its daemons need root"


class Cluster:
    """A running one; its commands are called with `environment`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        host = socket.gethostname().partition(".")[0]
        self.nodes = ("127.0.0.1", "second")  # those of a job meet at the first
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        config = CONFIG.format(folder=folder, host=host, nodes=self.nodes, ports=_free_ports(3))
        (folder / "slurm.conf").write_text(config, encoding="utf-8")

    def start(self) -> None:
        """Until both nodes are idle."""
        munge = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        files = dict(zip(munge, ("munge.socket", "munge.key", "munge.pid", "munged.log", "munge.seed"), strict=True))
        self.run("munged", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self.run("slurmctld", "-c")
        for node in self.nodes:
            self.run("slurmd", "-N", node)
        self.wait(lambda: self.run("sinfo", "--noheader", "--format=%D %T") == "2 idle\n", 60)

    def stop(self) -> None:
        """End the daemons and what they have started."""
        subprocess.run(["scontrol", "shutdown"], env=os.environ | self.environment, capture_output=True, check=False)
        for file in self.folder.glob("*.pid"):
            if file.exists():  # it may have been shut down by now
                subprocess.run(["kill", file.read_text(encoding="ascii").strip()], capture_output=True, check=False)

    def run(self, *words: str) -> str:
        """What a command says; it has to succeed."""
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Job → state, of all that it remembers."""
        said = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T")
        return dict(line.split() for line in said.splitlines())

    def begin_now(self) -> None:
        """What was queued again waits for a minute before it begins, these tests for some seconds.

        In the second in which a node revokes a job's credential it would refuse the next one too.
        """
        time.sleep(3)
        for job, state in self.states().items():
            if state == "PENDING":
                self.run("scontrol", "update", f"jobid={job}", "starttime=now")

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Until it is so; the test fails if that takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def log(self) -> str:
        """The last lines of the daemons."""
        return "\n".join(file.read_text(encoding="utf-8")[-1500:] for file in sorted(self.folder.glob("*.log")))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """One that runs meanwhile; the test skips where the daemons do not come up, which is no fault of the project."""
    made = Cluster(folder)
    try:
        try:
            made.start()
        except AssertionError as error:
            pytest.skip(f"SLURM does not come up here: {error}")
        yield made
    finally:
        made.stop()
