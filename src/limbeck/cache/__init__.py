"""Teacher outputs on disk: written once, complete, and checked before they are used."""

from limbeck.cache.column import Column
from limbeck.cache.encodings import Encoding, encoding, kl_error, make_encoding, validate_encoding
from limbeck.cache.location import Location
from limbeck.cache.manifest import Manifest, ManifestDifference, Shard, TeacherProvenance, find_mismatch
from limbeck.cache.reader import CacheReader, DecodedTable, find_manifest, is_cache
from limbeck.cache.shard import Keys
from limbeck.cache.writer import SHARD_BYTES, CacheWriter, open_writer, repair

__all__ = [
    "SHARD_BYTES",
    "CacheReader",
    "CacheWriter",
    "Column",
    "DecodedTable",
    "Encoding",
    "Keys",
    "Location",
    "Manifest",
    "ManifestDifference",
    "Shard",
    "TeacherProvenance",
    "encoding",
    "find_manifest",
    "find_mismatch",
    "is_cache",
    "kl_error",
    "make_encoding",
    "open_writer",
    "repair",
    "validate_encoding",
]
