"""What a privileged container is given: all that we have ourselves, since more cannot be had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
"""By their numbers, from 0."""


def ours(status: Path = Path("/proc/self/status")) -> Sequence[str]:
    """Names of the capabilities that a process of ours may have."""
    found = re.search(r"^CapBnd:\s+([0-9a-f]+)", status.read_text(encoding="utf-8"), re.MULTILINE)
    held = int(found[1], 16) if found else 0
    return [f"CAP_{name}" for number, name in enumerate(_NAMES.split()) if held >> number & 1]
