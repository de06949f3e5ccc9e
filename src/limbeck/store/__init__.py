"""A teacher's answers on disk: written once, whole, and checked before they are believed."""

from limbeck.store.column import Column
from limbeck.store.encodings import Encoding, checked, encoding, kl_error, make
from limbeck.store.manifest import Difference, Manifest, Origin, Shard
from limbeck.store.mismatch import mismatch
from limbeck.store.place import Place
from limbeck.store.shard import Keys
from limbeck.store.store import Store, find_manifest, is_store
from limbeck.store.table import Table
from limbeck.store.writer import SHARD_BYTES, Writer, mend, writing

__all__ = [
    "SHARD_BYTES",
    "Column",
    "Difference",
    "Encoding",
    "Keys",
    "Manifest",
    "Origin",
    "Place",
    "Shard",
    "Store",
    "Table",
    "Writer",
    "checked",
    "encoding",
    "find_manifest",
    "is_store",
    "kl_error",
    "make",
    "mend",
    "mismatch",
    "writing",
]
