"""A Slurm of one node on loopback: munge, slurmctld, slurmd, and an sshd for its login node.

Decides their configuration and order. Refuses to know SkyPilot. The node
pretends to have more CPUs, memory and GPUs than the machine, so that many jobs
fit; jobs run as a user of their own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.sky import processes
from tests.sky.layout import Layout
from tests.sky.processes import StackError, until

CPUS = 64
MEMORY_MB = 256 * 1024
GPUS = 8
DAEMONS = ("sshd", "slurmd", "slurmctld", "munged")
HOST = "loop"
"""The name by which SkyPilot knows this cluster."""

SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports.slurmctld}
SlurmdPort={ports.slurmd}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/slurmd.log
StateSaveLocation={slurm}/state
SlurmdSpoolDir={slurm}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={site}/prolog.sh
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0,default_queue_depth=1000
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=300
KillWait=2
InactiveLimit=0
MaxJobCount=20000
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:h100:{gpus} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=7-00:00:00 State=UP OverSubscribe=NO
"""

SSHD_CONF = """\
ListenAddress 127.0.0.1
Port {ports.sshd}
HostKey {etc}/hostkey
PidFile {run}/sshd.pid
AuthorizedKeysFile {etc}/id.pub
AllowUsers {user}
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxSessions 500
MaxStartups 500:30:1000
PrintMotd no
UseDNS no
Subsystem sftp internal-sftp
SetEnv {environ}
"""


class Slurm:
    """The daemons of one layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.munge = layout.run / "munge.socket"
        self.node = socket.gethostname().partition(".")[0]

    def start(self) -> None:
        """Start whatever does not run."""
        self.make_user()
        self.configure()
        if not self.running("munged"):
            self.start_munge()
        for program in ("slurmctld", "slurmd"):
            if not self.running(program):
                self.call(f"/usr/sbin/{program}", "-f", str(self.layout.slurm_conf))
        if not self.running("sshd"):
            self.call("/usr/sbin/sshd", "-f", f"{self.layout.etc}/sshd_config", "-E", f"{self.layout.logs}/sshd.log")
        logs = [self.layout.logs / f"{name}.log" for name in ("slurmctld", "slurmd", "sshd")]
        until(self.serves, "a node that takes jobs", 60, logs=logs)
        until(self.lets_in, "a login", 30, logs=logs)

    def stop(self) -> None:
        """Daemons and jobs, at once; then their user, and what it left in the machine's temporary folders."""
        victims = list(processes.matching(processes.named(self.layout.root, *DAEMONS)))
        for daemon in [one for one in victims if one.name() == "slurmd"]:
            victims += daemon.children(recursive=True)
        processes.kill(victims)
        # A step's keeper has renamed itself and outlives slurmd; it is known by its spool folder.
        processes.kill(processes.matching(processes.inside(self.layout.slurm)))
        if (uid := self.uid()) is None:
            return
        processes.kill(processes.matching(processes.of_user(uid)))
        for folder in {Path("/tmp"), Path(tempfile.gettempdir())}:
            for left in folder.iterdir():
                if left.lstat().st_uid == uid:
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        self.call("/usr/sbin/userdel", "--force", self.layout.user)

    def running(self, program: str) -> bool:
        return any(processes.matching(processes.named(self.layout.root, program)))

    def uid(self) -> int | None:
        try:
            return pwd.getpwnam(self.layout.user).pw_uid
        except KeyError:
            return None

    def make_user(self) -> None:
        if self.uid() is None:
            # "*" is no password, but not a locked account, which sshd without PAM refuses.
            words = ["--password", "*", "--shell", "/bin/bash", "--home-dir", str(self.layout.jobs), "--create-home"]
            self.call("/usr/sbin/useradd", *words, self.layout.user)
        for name in ("id", "hostkey"):
            if not (self.layout.etc / name).exists():
                self.call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.layout.etc / name))

    def configure(self) -> None:
        layout = self.layout
        for folder in ("state", "spool"):
            (layout.slurm / folder).mkdir(exist_ok=True)
        trust = {
            name: os.environ[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT") if name in os.environ
        }
        environ = trust | {"SLURM_CONF": str(layout.slurm_conf), "UV_PYTHON_DOWNLOADS": "never"}
        known = {
            "cluster": HOST,
            "node": self.node,
            "ports": layout.ports,
            "munge": self.munge,
            "cpus": CPUS,
            "memory": MEMORY_MB,
            "gpus": GPUS,
            "environ": " ".join(f"{name}={value}" for name, value in environ.items()),
            **{name: getattr(layout, name) for name in ("run", "logs", "slurm", "site", "etc", "user")},
        }
        layout.slurm_conf.write_text(SLURM_CONF.format(**known))
        (layout.etc / "sshd_config").write_text(SSHD_CONF.format(**known))
        # A GPU needs a file to be counted; without device limits nobody opens it.
        for number in range(GPUS):
            (layout.etc / f"gpu{number}").touch()
        gres = f"NodeName={self.node} Name=gpu Type=h100 File={layout.etc}/gpu[0-{GPUS - 1}]\n"
        (layout.etc / "gres.conf").write_text(gres)

    def start_munge(self) -> None:
        key = self.layout.etc / "munge.key"
        if not key.exists():
            key.touch(0o400)
            key.write_bytes(os.urandom(1024))
        places = {
            "socket": self.munge,
            "key-file": key,
            "pid-file": self.layout.run / "munged.pid",
            "log-file": self.layout.logs / "munged.log",
            "seed-file": self.layout.run / "munge.seed",
        }
        self.call("/usr/sbin/munged", "--force", *[f"--{name}={place}" for name, place in places.items()])

    def serves(self) -> bool:
        state = self.ask("sinfo", "-h", "-o", "%T").strip()
        if state.startswith(("down", "drain")):
            self.ask("scontrol", "update", f"nodename={self.node}", "state=resume")
        return state.startswith(("idle", "mixed", "allocated"))

    def lets_in(self) -> bool:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        words = ["-F", "none", "-i", str(self.layout.key), "-p", str(self.layout.ports.sshd)]
        for option in options:
            words += ["-o", option]
        return bool(self.ask("ssh", *words, f"{self.layout.user}@127.0.0.1", "sinfo -h"))

    def ask(self, *command: str) -> str:
        """What it prints; nothing when it fails."""
        done = subprocess.run(command, env=self.layout.tools(), capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def call(self, *command: str) -> None:
        run(command, self.layout.tools(), self.layout.logs / "daemons.log")


def run(command: Sequence[str], environ: dict[str, str], log: Path, cwd: Path | None = None) -> None:
    """Its output goes to the log; its failure is an error that shows the log's end."""
    with log.open("ab") as output:
        done = subprocess.run(command, env=environ, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, check=False)
    if done.returncode:
        raise StackError(f"failed ({done.returncode}): {' '.join(command)}\n{processes.tails([log])}")
