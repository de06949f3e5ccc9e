"""Teacher outputs on disk: written once, complete, and checked before they are used."""

from limbeck.cache.column import Column
from limbeck.cache.compatibility import find_mismatch
from limbeck.cache.encodings import Encoding, encoding, kl_error, make_encoding, validate_encoding
from limbeck.cache.location import Location
from limbeck.cache.manifest import Manifest, ManifestDifference, Shard, TeacherProvenance
from limbeck.cache.shard import Keys
from limbeck.cache.store import DecodedTable, Store, find_manifest, is_store
from limbeck.cache.writer import SHARD_BYTES, Writer, repair, writing

__all__ = [
    "SHARD_BYTES",
    "Column",
    "DecodedTable",
    "Encoding",
    "Keys",
    "Location",
    "Manifest",
    "ManifestDifference",
    "Shard",
    "Store",
    "TeacherProvenance",
    "Writer",
    "encoding",
    "find_manifest",
    "find_mismatch",
    "is_store",
    "kl_error",
    "make_encoding",
    "repair",
    "validate_encoding",
    "writing",
]
