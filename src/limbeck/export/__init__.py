"""Export of students: folders, transformers, ONNX, 8 bits, model cards, citations."""

from __future__ import annotations

from limbeck.export.citations import Citation, bibtex, cite
from limbeck.export.exporter import export_run
from limbeck.export.finished_run import open_student
from limbeck.export.folder import to_folder, to_hf
from limbeck.export.formats import FORMATS, ExportedRun
from limbeck.export.int8 import QuantizationChoice, choose_int8, to_int8
from limbeck.export.onnx_file import Parity, to_onnx
from limbeck.export.onnx_session import predict_onnx
from limbeck.export.table_graph import include_encoding
from limbeck.export.trained_scales import to_int8_trained
from limbeck.export.usage import write_reader

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
    "to_int8_trained",
    "to_onnx",
    "write_reader",
]
