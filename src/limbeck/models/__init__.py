"""Models: builds, loads, saves and initializes them."""

from __future__ import annotations

from limbeck.models.folder import (
    OtherModelError,
    describe_model,
    describe_structure,
    find_first_moved,
    get_class_names,
    get_description,
    is_student_folder,
    load,
    loads_without_code,
    match_order,
    read_class_names,
    read_config,
    save,
)
from limbeck.models.fusion import fuse_networks
from limbeck.models.hf_folder import is_hf_folder, is_transformers, name_classes, set_token_ids
from limbeck.models.hub import open_hf, open_timm
from limbeck.models.layers import add_bias, chosen_layers, layer_list, shallow
from limbeck.models.model_transforms import MODEL_TRANSFORMS, ModelTransform, transform_model, transforms_of
from limbeck.models.networks import Cnn, Mlp, ModelSpec, ResNet
from limbeck.models.open_model import find_tokenizer, open_model
from limbeck.models.pickle_conversion import convert_pickle
from limbeck.models.projected_embedding import ProjectedEmbedding, add_projection
from limbeck.models.quantization import fake_quantize, is_fake_quantized, observe_ranges, remove_fake_quantize
from limbeck.models.reference import (
    argument_names,
    build,
    check_fresh,
    fit_arguments,
    get_model_spec,
    reference_names,
    reinitialize,
    seeded,
)
from limbeck.models.reused_classifier import ReusedClassifier, make_projector, reuse_classifier
from limbeck.models.shrinking import SHRINK_WAYS, ShrinkReport, check_shrink, get_shrink_report, parse_size, shrink
from limbeck.models.size_and_hash import count_parameters, fingerprint, size_in_bytes
from limbeck.models.token_alignment import TokenAligner, TokenSpelling, group_tokens
from limbeck.models.user_file import NoModuleError, UserFile
from limbeck.models.vocabulary import (
    TokenizersDifferError,
    VocabularyAlignment,
    align_vocabularies,
    count_outputs,
    read_context_length,
)
from limbeck.models.weights import load_weights
from limbeck.models.word_boundaries import find_boundary_tokens

__all__ = [
    "MODEL_TRANSFORMS",
    "SHRINK_WAYS",
    "Cnn",
    "Mlp",
    "ModelSpec",
    "ModelTransform",
    "NoModuleError",
    "OtherModelError",
    "ProjectedEmbedding",
    "ResNet",
    "ReusedClassifier",
    "ShrinkReport",
    "TokenAligner",
    "TokenSpelling",
    "TokenizersDifferError",
    "UserFile",
    "VocabularyAlignment",
    "add_bias",
    "add_projection",
    "align_vocabularies",
    "argument_names",
    "build",
    "check_fresh",
    "check_shrink",
    "chosen_layers",
    "convert_pickle",
    "count_outputs",
    "count_parameters",
    "describe_model",
    "describe_structure",
    "fake_quantize",
    "find_boundary_tokens",
    "find_first_moved",
    "find_tokenizer",
    "fingerprint",
    "fit_arguments",
    "fuse_networks",
    "get_class_names",
    "get_description",
    "get_model_spec",
    "get_shrink_report",
    "group_tokens",
    "is_fake_quantized",
    "is_hf_folder",
    "is_student_folder",
    "is_transformers",
    "layer_list",
    "load",
    "load_weights",
    "loads_without_code",
    "make_projector",
    "match_order",
    "name_classes",
    "observe_ranges",
    "open_hf",
    "open_model",
    "open_timm",
    "parse_size",
    "read_class_names",
    "read_config",
    "read_context_length",
    "reference_names",
    "reinitialize",
    "remove_fake_quantize",
    "reuse_classifier",
    "save",
    "seeded",
    "set_token_ids",
    "shallow",
    "shrink",
    "size_in_bytes",
    "transform_model",
    "transforms_of",
]
