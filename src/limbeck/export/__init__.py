"""Export of a student, and citations."""

from __future__ import annotations

from limbeck.export.cite import Citation, bibtex, cite
from limbeck.export.exported_run import ExportedRun
from limbeck.export.exporting import export_run
from limbeck.export.finished_run import open_student
from limbeck.export.folder import to_folder, to_hf
from limbeck.export.formats import FORMATS
from limbeck.export.int8 import to_int8
from limbeck.export.int8_search import QuantizationChoice, choose_int8
from limbeck.export.onnx_file import to_onnx
from limbeck.export.onnx_session import predict_onnx
from limbeck.export.parity import Parity
from limbeck.export.reader import write_reader
from limbeck.export.table_graph import include_encoding

__all__ = [
    "FORMATS",
    "Citation",
    "ExportedRun",
    "Parity",
    "QuantizationChoice",
    "bibtex",
    "choose_int8",
    "cite",
    "export_run",
    "include_encoding",
    "open_student",
    "predict_onnx",
    "to_folder",
    "to_hf",
    "to_int8",
    "to_onnx",
    "write_reader",
]
