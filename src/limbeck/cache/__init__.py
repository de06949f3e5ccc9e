"""Teacher outputs on disk: written once, complete, and checked before they are used."""

from limbeck.cache.column import Column
from limbeck.cache.encodings import Encoding, encoding, encoding_type, kl_error, make_encoding, validate_encoding
from limbeck.cache.location import Location
from limbeck.cache.manifest import Manifest, ManifestDifference, Shard, TeacherProvenance, find_mismatch
from limbeck.cache.reader import CacheReader, DecodedTable, find_manifest, is_cache, read_file
from limbeck.cache.shard import Keys
from limbeck.cache.writer import (
    SHARD_BYTES,
    CachePart,
    CacheWriter,
    add_files,
    are_all_parts_done,
    has_parts,
    join_parts,
    mark_part,
    open_writer,
    repair,
)

__all__ = [
    "SHARD_BYTES",
    "CachePart",
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
    "add_files",
    "are_all_parts_done",
    "encoding",
    "encoding_type",
    "find_manifest",
    "find_mismatch",
    "has_parts",
    "is_cache",
    "join_parts",
    "kl_error",
    "make_encoding",
    "mark_part",
    "open_writer",
    "read_file",
    "repair",
    "validate_encoding",
]
