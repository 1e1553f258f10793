"""Look at the machine: folders, disk, secret, time zone, address."""

import ipaddress
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url

from app.operations.findings import Finding, Patient

LEAST_FREE_BYTES = 200 * 2**20
LITTLE_FREE_BYTES = 2 * 2**30
SHORTEST_SECRET = 32
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
}


def folders(patient: Patient) -> Iterator[Finding]:
    """Data and artifacts can be written, and there is room."""
    settings = patient.settings
    for name, folder in (("data folder", settings.data_dir.resolve()), ("artifact folder", settings.artifacts)):
        if not folder.is_dir():
            yield Finding(name, "warn", f"{folder} is not there", "it is made by `intentloop migrate`, or set its path")
            continue
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            advice = f"give the user that runs intentloop the right to write there ({error.strerror})"
            yield Finding(name, "fail", f"{folder} cannot be written", advice)
            continue
        free = shutil.disk_usage(folder).free
        level = "fail" if free < LEAST_FREE_BYTES else "warn" if free < LITTLE_FREE_BYTES else "ok"
        says = f"{folder} can be written, {free / 2**30:.1f} GiB free"
        yield Finding(name, level, says, "make room: nothing is logged on a full disk" if level != "ok" else "")


def secret(patient: Patient) -> Iterator[Finding]:
    """The key of all hashes is there, long enough, and nobody else's to read."""
    settings = patient.settings
    if settings.secret_key is not None:
        length = len(settings.secret_key.get_secret_value())
        if length < SHORTEST_SECRET:
            yield Finding("secret", "warn", f"it has {length} characters", f"use {SHORTEST_SECRET} random ones or more")
        else:
            yield Finding("secret", "ok", "INTENTLOOP_SECRET_KEY is set")
        return
    path = settings.data_dir / "secret.key"
    if not path.exists():
        yield Finding("secret", "warn", f"there is no {path}", "it is made at the first start; then keep a copy of it")
        return
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("secret", "fail", f"others can read {path}", f"chmod 600 {path}")
    elif status.st_size < SHORTEST_SECRET:
        yield Finding("secret", "fail", f"{path} is too short to be a key", "put the former key back")
    else:
        yield Finding("secret", "ok", f"{path} is there, and only its owner's")


def file_system(patient: Patient) -> Iterator[Finding]:
    """SQLite's file lies on a disk of this machine: its locks do not work on others."""
    path = sqlite_file(patient)
    if path is None:
        return
    kind = file_system_of(path, Path("/proc/mounts"))
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "move it to a disk of this machine, or take PostgreSQL or MySQL"
        yield Finding("file system", "fail", f"the SQLite file lies on a network file system ({kind})", advice)
    else:
        yield Finding("file system", "ok", f"the SQLite file lies on {kind or 'a file system that is not told'}")


def sqlite_file(patient: Patient) -> Path | None:
    """Where the SQLite file is; None for a server or a database in memory."""
    url = make_url(patient.settings.url)
    return Path(url.database).resolve() if url.get_backend_name() == "sqlite" and url.database else None


def file_system_of(path: Path, mounts: Path) -> str | None:
    """The kind of the file system that holds a path, by the system's table of mounts; None where there is none."""
    if not mounts.exists():
        return None
    best, kind = "", None
    for line in mounts.read_text(errors="replace").splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The table writes a space as \040.
        point = fields[1].replace("\\040", " ")
        inside = point == "/" or path == Path(point) or str(path).startswith(point.rstrip("/") + os.sep)
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def time_zone(patient: Patient) -> Iterator[Finding]:
    """In which zone crontabs and days are read."""
    local = datetime.now(UTC).astimezone(patient.settings.zone)
    yield Finding("time zone", "ok", f"{patient.settings.timezone}, where it is {local:%Y-%m-%d %H:%M}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
