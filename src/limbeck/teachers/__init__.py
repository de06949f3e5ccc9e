"""Teachers: models, ensembles, estimators, stored outputs."""

from limbeck.teachers.cache_request import predict_padded
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.fill_cache import fill_cache
from limbeck.teachers.model import ModelTeacher, TeacherRef
from limbeck.teachers.moving_average import MovingAverage
from limbeck.teachers.precomputed import PrecomputedTeacher
from limbeck.teachers.shuffled import ShuffledTeacher
from limbeck.teachers.sklearn_teacher import SklearnTeacher
from limbeck.teachers.specialists import Groups, Specialists, check_groups, special_classes
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn, get_adaptor, read_inputs
from limbeck.teachers.verify_cache import CacheVerification, verify_cache

__all__ = [
    "CacheVerification",
    "CachedTeacher",
    "Ensemble",
    "Groups",
    "ModelTeacher",
    "MovingAverage",
    "PrecomputedTeacher",
    "Preprocess",
    "ShuffledTeacher",
    "SklearnTeacher",
    "Specialists",
    "Stream",
    "Teacher",
    "TeacherFn",
    "TeacherRef",
    "as_teacher",
    "check_groups",
    "fill_cache",
    "get_adaptor",
    "predict_padded",
    "read_inputs",
    "special_classes",
    "verify_cache",
]
