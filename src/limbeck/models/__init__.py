"""How are models named, built, loaded, saved, measured and made anew?"""

from __future__ import annotations

from limbeck.models.bias import add_bias
from limbeck.models.class_names import class_names_in, class_names_of, first_moved, match_order
from limbeck.models.cnn import Cnn
from limbeck.models.description import describe_model, description_of
from limbeck.models.folder import (
    NoModuleError,
    OtherModelError,
    is_student_folder,
    load,
    opens_alone,
    read_config,
    save,
)
from limbeck.models.fresh import check_fresh, fresh
from limbeck.models.hf_folder import is_hf_folder, is_transformers, name_classes
from limbeck.models.hub import open_hf, open_timm
from limbeck.models.mlp import Mlp
from limbeck.models.opening import open_model
from limbeck.models.pickled import convert_pickle
from limbeck.models.reference import build, fit_arguments, reference_names, seeded, spec_of
from limbeck.models.resnet import ResNet
from limbeck.models.shallow import chosen_layers, layer_list, shallow
from limbeck.models.size import count_parameters, fingerprint, size_in_bytes
from limbeck.models.spec import ModelSpec
from limbeck.models.userfile import UserFile
from limbeck.models.weights import load_weights

__all__ = [
    "Cnn",
    "Mlp",
    "ModelSpec",
    "NoModuleError",
    "OtherModelError",
    "ResNet",
    "UserFile",
    "add_bias",
    "build",
    "check_fresh",
    "chosen_layers",
    "class_names_in",
    "class_names_of",
    "convert_pickle",
    "count_parameters",
    "describe_model",
    "description_of",
    "fingerprint",
    "first_moved",
    "fit_arguments",
    "fresh",
    "is_hf_folder",
    "is_student_folder",
    "is_transformers",
    "layer_list",
    "load",
    "load_weights",
    "match_order",
    "name_classes",
    "open_hf",
    "open_model",
    "open_timm",
    "opens_alone",
    "read_config",
    "reference_names",
    "save",
    "seeded",
    "shallow",
    "size_in_bytes",
    "spec_of",
]
