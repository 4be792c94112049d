"""Who runs the embedded server: PostgreSQL refuses to run as root, so root lends it a user.

Invariant: for anybody but root nothing changes hands and no permission is touched.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

SYSTEM_USER = "pgserver"  # the name the wheel itself uses
FALLBACK_USER = "nobody"


class Identity(TypedDict, total=False):
    """The keywords of `subprocess.run` that change the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Owner:
    """The user that owns the cluster and runs the server."""

    uid: int
    gid: int

    def subprocess_identity(self) -> Identity:
        """What to pass to `subprocess.run`; nothing when no change of user is needed."""
        if self.uid == os.getuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def let_through(self, path: Path) -> None:
        """Let the owner pass (not list) every folder on the way to `path`."""
        if self.uid == os.getuid():
            return
        for folder in (path, *path.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH and folder.stat().st_uid != self.uid:
                folder.chmod(mode | stat.S_IXOTH)


def owner_of_server(binaries: Path, cluster: Path) -> Owner:
    """This process's user; for root whoever made the cluster, at first a system user of its own."""
    if os.getuid() != 0:
        return Owner(os.getuid(), os.getgid())
    if cluster.exists() and cluster.stat().st_uid != 0:
        owner = Owner(cluster.stat().st_uid, cluster.stat().st_gid)
    else:
        entry = _system_user()
        owner = Owner(entry.pw_uid, entry.pw_gid)
    if not _can_run(binaries, owner):
        owner.let_through(binaries)
        _open_for_reading(binaries.parent)
    return owner


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", SYSTEM_USER]
        made = subprocess.run(command, check=False, capture_output=True)
        if made.returncode in {0, 9}:  # 9: somebody made it at the same moment
            return pwd.getpwnam(SYSTEM_USER)
    return pwd.getpwnam(FALLBACK_USER)


def _can_run(binaries: Path, owner: Owner) -> bool:
    command = [str(binaries / "postgres"), "--version"]
    try:
        identity = owner.subprocess_identity()
        done = subprocess.run(command, check=False, capture_output=True, cwd="/", **identity)
    except PermissionError:
        return False
    return done.returncode == 0


def _open_for_reading(folder: Path) -> None:
    """Undo a strict umask at installation: everybody may read and run the wheel's files."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        runnable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if runnable else 0))
