"""A daemon's KELM_HOME on somebody else's store: its own run/, logs/ and jobs/, links to everything else.

    KELM_HOME/cluster/replica-0/run, logs, jobs     this daemon's
                               /blobs, manifests, variants, lock, VERSION ...  -> KELM_HOME's

The lock is the shared one too, so replicas and whoever else writes the store take turns; what is pulled, published or
rolled back there is so for every replica.
"""

from __future__ import annotations

from pathlib import Path

from kelm.store import Store
from kelm.store.atomic import disk_errors

FOLDER = "cluster"
OWN = {"run", "logs", "jobs", FOLDER}
"""What each daemon has for itself."""
_CONFIG = "config.yaml"
"""The door hands the settings on."""


def share(store: Store, name: str) -> Path:
    """The home of replica ``name`` on the store of ``store``'s home; made, or brought up to date. Raises StoreError."""
    root = store.home.root
    home = root / FOLDER / name
    with disk_errors(f"the home of {name} can't be made"):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.home.lock.touch()
        for entry in root.iterdir():
            link = home / entry.name
            if entry.name not in OWN | {_CONFIG} and not entry.name.startswith(".") and not link.is_symlink():
                link.symlink_to(entry)
        for link in home.iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink()
    return home
