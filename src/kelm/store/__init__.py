"""The parameter store: what a machine knows how to run, and the only writer of weights.

Owns KELM_HOME's blobs and manifests (the layout is drawn in home.py), the importers and the parsers of untrusted
checkpoint files. An acknowledged write survives kill -9 and a full disk. Never reads pickles, never runs or imports
anything from a model's folder, never loads a tensor. May import: limits, errors, clock, suggest.
"""

from kelm.store.manifest import BlobRef, Manifest
from kelm.store.names import Name
from kelm.store.progress import Progress
from kelm.store.store import Store
from kelm.store.versions import History, Variant, Version

__all__ = ["BlobRef", "History", "Manifest", "Name", "Progress", "Store", "Variant", "Version"]
