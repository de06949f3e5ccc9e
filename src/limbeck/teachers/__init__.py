"""Teachers: models, ensembles, estimators, servers, stored outputs."""

from limbeck.teachers.aligned import AlignedLogits, AlignedTeacher, TranslatedTeacher
from limbeck.teachers.averaging_teacher import AveragingTeacher
from limbeck.teachers.batch_alignment import BatchAlignment
from limbeck.teachers.cache_request import predict_padded
from limbeck.teachers.cached_teacher import CachedTeacher, without_cache
from limbeck.teachers.cross_tokenizer import CrossTokenizerTeacher, has_other_tokenizer
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.fill_cache import CacheVerification, fill_cache, verify_cache
from limbeck.teachers.mean_embedding_teacher import MeanEmbeddingTeacher
from limbeck.teachers.model import ModelTeacher, TeacherRef, as_teacher
from limbeck.teachers.moving_average import MovingAverage, MovingAverageSession
from limbeck.teachers.precomputed import PrecomputedTeacher
from limbeck.teachers.privileged_context import PrivilegedContextTeacher
from limbeck.teachers.routed import RoutedTeacher
from limbeck.teachers.served import ServedTeacher, ServedTextWriter, WrittenText
from limbeck.teachers.sklearn_teacher import EstimatorFile, SklearnTeacher
from limbeck.teachers.specialists import Groups, Specialists, check_groups, special_classes
from limbeck.teachers.teacher import (
    FunctionSession,
    Preprocess,
    SharedInputs,
    Stream,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherFn,
    TeacherSession,
    describe_preprocess,
    read_inputs,
)
from limbeck.teachers.wrapper import ShuffledTeacher, TeacherWrapper, WrapperSession

__all__ = [
    "AlignedLogits",
    "AlignedTeacher",
    "AveragingTeacher",
    "BatchAlignment",
    "CacheVerification",
    "CachedTeacher",
    "CrossTokenizerTeacher",
    "Ensemble",
    "EstimatorFile",
    "FunctionSession",
    "Groups",
    "MeanEmbeddingTeacher",
    "ModelTeacher",
    "MovingAverage",
    "MovingAverageSession",
    "PrecomputedTeacher",
    "Preprocess",
    "PrivilegedContextTeacher",
    "RoutedTeacher",
    "ServedTeacher",
    "ServedTextWriter",
    "SharedInputs",
    "ShuffledTeacher",
    "SklearnTeacher",
    "Specialists",
    "Stream",
    "Teacher",
    "TeacherCapabilities",
    "TeacherContext",
    "TeacherFn",
    "TeacherRef",
    "TeacherSession",
    "TeacherWrapper",
    "TranslatedTeacher",
    "WrapperSession",
    "WrittenText",
    "as_teacher",
    "check_groups",
    "describe_preprocess",
    "fill_cache",
    "has_other_tokenizer",
    "predict_padded",
    "read_inputs",
    "special_classes",
    "verify_cache",
    "without_cache",
]
