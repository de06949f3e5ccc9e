"""Opens models of timm and Hugging Face by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.errors import LimbeckError, UnknownNameError, describe_hub_error, is_out_of_memory
from limbeck.models.hf_heads import (
    HEADS,
    LANGUAGE_HEADS,
    check_causal,
    check_vocabulary,
    choose_head,
    find_head,
    fit_to_tokenizer,
    override_config,
)
from limbeck.models.weights import load_weights
from limbeck.optional_imports import import_optional

LIBRARIES = ("timm", "hf")


class LibraryModel(NamedTuple):
    """A name of the form ``timm:NAME``, ``hf:NAME``, or one of these with ``@weights.safetensors`` or ``@folder``.

    Attributes:
        prefix: The part before the colon, ``timm`` or ``hf``.
        name: The library's name of the model.
        weights: A file or folder with weights of your own; None for the library's weights.
    """

    prefix: str
    name: str
    weights: Path | None

    @classmethod
    def parse(cls, name: str) -> LibraryModel | None:
        """Parse a name; None if it has another form.

        Example:
            >>> LibraryModel.parse("timm:resnet10t@mine.safetensors").name
            'resnet10t'
        """
        prefix, _, rest = name.partition(":")
        if prefix not in LIBRARIES or not rest:
            return None
        splits = [(rest[:at], rest[at + 1 :]) for at, sign in enumerate(rest) if sign == "@"]
        splits = [(own, weights) for own, weights in splits if own and weights]
        there = [(own, weights) for own, weights in splits if Path(weights).exists()]
        # timm writes a revision on the hub as NAME@REVISION, and a folder of transformers may have any name.
        if not splits or Path(rest).exists() or ("hf-hub:" in rest and not there):
            return cls(prefix, rest, None)
        own, weights = (there or splits)[0]
        return cls(prefix, own, Path(weights))

    def __str__(self) -> str:
        return f"{self.prefix}:{self.name}" + (f"@{self.weights}" if self.weights else "")


def import_library(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a library; the error names the command that installs it.

    Raises:
        LimbeckError: If it is not installed, or cannot be imported because torchvision does not match torch.
    """
    with torchvision_checked(purpose):
        return import_optional(module, extra=extra, purpose=purpose)


@contextmanager
def without_loading_bar(name: str) -> Iterator[None]:
    """A context without the progress bars of transformers, if `name` is a folder: a download keeps its bar."""
    if not Path(name).is_dir():
        yield
        return
    logging = import_optional("transformers.utils.logging", extra="hf")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def torchvision_checked(purpose: str) -> Iterator[None]:
    """A context that explains an error which comes from a torchvision that does not match torch.

    This happens when pip takes torchvision from another index than torch. transformers and timm always import it.

    Raises:
        LimbeckError: With the command to type.
    """
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:
        reason = _torchvision_error()
        if reason is None:
            raise
        major, minor = torch.__version__.split(".")[:2]
        fits = f"'torchvision=={'.'.join(('0', str(int(minor) + 15), '*'))}'" if major == "2" else "torchvision"
        without = "" if purpose.startswith("timm:") else "pip uninstall torchvision, which is not needed here, or "
        raise LimbeckError(
            f"{purpose} cannot be opened, because torchvision {_version()} does not fit torch {torch.__version__} "
            f"({reason}); type {without}pip install --force-reinstall --no-deps {fits} with the --index-url that torch "
            "came from."
        ) from error


def _torchvision_error() -> str | None:
    """The error of importing torchvision, in one line; None if there is none, or torchvision is not installed."""
    try:
        if importlib.util.find_spec("torchvision") is None:
            return None
        importlib.import_module("torchvision")
    except Exception as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def _version() -> str:
    try:
        return version("torchvision")
    except PackageNotFoundError:
        return "of unknown version"


_CODE = frozenset({
    "trust_remote_code", "code_revision", "custom_generate", "use_kernels", "kernel_config", "auto_map",
    "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "from_tf", "from_flax",
})  # fmt: skip

"""Arguments of both libraries that may run code or open a pickle: timm unpickles `checkpoint_path`."""


def open_library(
    model_name: LibraryModel,
    *,
    input_shape: tuple[int, ...] | None,
    classes: int | None,
    arguments: Mapping[str, Any],
    tokenizer: Any = None,
) -> nn.Module:
    """A model of timm or transformers, with the library's trained weights, with weights from a file, or with new ones.

    Args:
        model_name: The library, the model and its weights.
        input_shape: The shape of one example.
        classes: The number of classes of the labels.
        arguments: ``pretrained``, true by default, and arguments for the library.
        tokenizer: The tokenizer of the texts, for a language model.

    Raises:
        LimbeckError: As for `open_timm` and `open_hf`, or if there are both a file of weights and `pretrained`.
        DataError: If the weights are missing or do not match.
    """
    own = model_name.weights
    if own is not None:
        if arguments.get("pretrained"):
            raise LimbeckError(f"{model_name} has the weights of {own}; leave pretrained out.")
        arguments = {**arguments, "pretrained": False}
    with torchvision_checked(str(model_name)):
        if model_name.prefix == "timm":
            model = open_timm(model_name.name, input_shape=input_shape, classes=classes, **arguments)
        else:
            model = open_hf(model_name.name, classes=classes, tokenizer=tokenizer, **arguments)
    return model if own is None else load_weights(model, own)


def open_timm(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    pretrained: bool = True,
    **arguments: Any,
) -> nn.Module:
    """A model of timm: ``timm.create_model``, with ``num_classes`` and ``in_chans`` from the data.

    Args:
        name: timm's name, such as ``resnet18`` or ``hf-hub:...``.
        input_shape: The shape of one example; its first number is the channels.
        classes: The number of classes of the labels; None leaves timm's own.
        pretrained: Whether timm loads its weights, which it may download.
        **arguments: Arguments for ``timm.create_model``.

    Raises:
        UnknownNameError: If timm has no such model; the nearest are named.
        LimbeckError: If timm is not installed (extra ``vision``), its weights are not available, or they have another
            number of classes and ``num_classes`` was not passed for a new classifier.
    """
    timm = import_library("timm", extra="vision", purpose=f"timm:{name}")
    _check_no_code(f"timm:{name}", arguments)
    if ":" not in name and not timm.is_model(name):
        raise _unknown_in_timm(name, timm.list_models())
    if pretrained and classes is not None and "num_classes" not in arguments:
        _check_trained_classes(timm, name, classes)
    if classes is not None:
        arguments.setdefault("num_classes", classes)
    if input_shape is not None and len(input_shape) == 3:
        arguments.setdefault("in_chans", input_shape[0])
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    # The download of weights may raise errors of many libraries, and so may sizes that do not fit.
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, ImportError):
            raise
        if not pretrained:
            raise LimbeckError(f"timm:{name} cannot be opened{_with(arguments)}: {_typed_reason(error)}") from error
        raise LimbeckError(
            f"The trained weights of timm:{name} are not available ({_reason(error)}); type pretrained=false for new "
            f"ones, or name a file: timm:{name}@weights.safetensors."
        ) from error
    return model


def _unknown_in_timm(name: str, names: list[str]) -> UnknownNameError:
    near = get_close_matches(name, names, n=5, cutoff=0.4)
    hint = f" The nearest: {', '.join(near)}." if near else ""
    return UnknownNameError(
        f"Unknown timm model {name!r}.{hint} In Python, timm.list_models() lists all {len(names):,}."
    )


def _check_trained_classes(timm: Any, name: str, classes: int) -> None:
    """Refuse a trained classifier with other classes, as timm would replace it by an untrained one."""
    pretrained = timm.get_pretrained_cfg(name)
    trained = None if pretrained is None else pretrained.num_classes
    if isinstance(trained, int) and trained not in (0, classes):
        raise LimbeckError(
            f"timm:{name} was trained for {trained} classes; the data have {classes}. Pass num_classes={classes} for a "
            "new, untrained classifier on its trained layers, or pretrained=false for new weights throughout."
        )


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _typed_reason(error: Exception) -> str:
    """The reason after the type: the text of a KeyError or a ZeroDivisionError alone is no sentence."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}." if text else f"{type(error).__name__}."


def _with(settings: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{key}={value!r}' for key, value in settings.items())}" if settings else ""


def open_hf(
    name: str,
    *,
    classes: int | None = None,
    head: str | None = None,
    tokenizer: Any = None,
    pretrained: bool = True,
    **arguments: Any,
) -> nn.Module:
    """A Hugging Face classifier or language model, by the ``architectures`` in its configuration.

    Args:
        name: A name on the hub, or a folder. Without `pretrained`, also a kind of model, such as ``bert``, which then
            has the library's default configuration and is a sequence classifier unless `head` names another.
        classes: The number of classes of the labels; a language model has none.
        head: ``sequence_classification``, ``image_classification``, ``causal_lm``, ``seq2seq_lm``, or
            ``language_modeling``, which is one of the last two, where the configuration names another.
        tokenizer: The tokenizer of the texts of a language model. New weights get its number of tokens and its special
            tokens; trained weights must have a row for each of its tokens.
        pretrained: Whether the weights are loaded, from safetensors. If not, `arguments` change the configuration, such
            as ``num_hidden_layers=2``.
        **arguments: Arguments for ``from_pretrained``; those that would run the model's own code are refused.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``), there is no such model, the head is unknown, a
            trained classifier has another number of classes, or a language model lacks weights or tokens, or sees the
            tokens that it has to predict.
    """
    hf = import_library("transformers", extra="hf", purpose=f"hf:{name}")
    _check_no_code(f"hf:{name}", arguments)
    try:
        config = _config(hf, name, pretrained=pretrained)
        own = find_head(config)
        chosen = choose_head(name, head, config)
        auto = getattr(hf, HEADS[chosen])
        if chosen in LANGUAGE_HEADS:
            return _open_language_model(auto, name, config, tokenizer, pretrained=pretrained, arguments=arguments)
        if classes is not None:
            trained = pretrained and chosen == own and not arguments.get("ignore_mismatched_sizes")
            _set_classes(name, config, classes, trained=trained)
        if not pretrained:
            override_config(name, config, arguments)
            return _module(name, auto.from_config(config, trust_remote_code=False))
        arguments = {"use_safetensors": True, **arguments}
        with without_loading_bar(name):
            return _module(name, auto.from_pretrained(name, config=config, trust_remote_code=False, **arguments))
    except (LimbeckError, ImportError):  # `torchvision_checked` explains the latter
        raise
    # Sizes that do not fit raise errors of any type: a ZeroDivisionError for 0 heads, an AssertionError, a KeyError.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _explain_hf(name, error, {} if pretrained else arguments) from error


def _explain_hf(name: str, error: Exception, settings: Mapping[str, Any]) -> LimbeckError:
    """The error of a model that transformers does not open; `settings` are those that its configuration got."""
    clear = isinstance(error, (OSError, ValueError, TypeError))
    reason = describe_hub_error(name, error) if clear else _typed_reason(error)
    return LimbeckError(f"hf:{name} cannot be opened{_with(settings)}: {reason}")


def _open_language_model(
    auto: Any, name: str, config: Any, tokenizer: Any, *, pretrained: bool, arguments: Mapping[str, Any]
) -> nn.Module:
    """A language model with the weights of `name`, or with new ones that fit the tokenizer."""
    if pretrained:
        options = {"use_safetensors": True, **arguments, "output_loading_info": True}
        with without_loading_bar(name):
            opened, loading = auto.from_pretrained(name, config=config, trust_remote_code=False, **options)
        if lacking := sorted(map(str, loading["missing_keys"])):
            raise LimbeckError(
                f"hf:{name} is no trained language model: it lacks {', '.join(lacking[:3])}. Name one whose "
                "architectures end in ForCausalLM or ForConditionalGeneration, or type pretrained=false for new "
                "weights."
            )
    else:
        override_config(name, config, arguments)
        if tokenizer is not None:
            fit_to_tokenizer(config, tokenizer, arguments)
        opened = auto.from_config(config, trust_remote_code=False)
    model = _module(name, opened)
    if tokenizer is not None:
        check_vocabulary(name, model, tokenizer)
    if not config.is_encoder_decoder:
        check_causal(name, model, config)
    return model


def _config(hf: Any, name: str, *, pretrained: bool) -> Any:
    if not pretrained and name in hf.CONFIG_MAPPING and not Path(name).exists():
        config = hf.AutoConfig.for_model(name)
        config.architectures = ["ForSequenceClassification"]
        return config
    config = hf.AutoConfig.from_pretrained(name, trust_remote_code=False)
    # Settings that name a kernel; most configurations have none of them.
    kernels = {key: getattr(config, key, None) for key in ("_attn_implementation", "_experts_implementation")}
    _check_no_code(f"The configuration of hf:{name}", kernels)
    return config


def _check_no_code(who: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that would run code that comes with a model, or open a pickle.

    Raises:
        LimbeckError: If there is one; it names the argument and what to do instead.
    """
    for name, value in arguments.items():
        # A kernel of the hub, REPOSITORY/NAME, is code.
        kernel = name.endswith("_implementation") and any("/" in str(v) for v in _values(value))
        if (name in _CODE and value) or kernel or (name == "use_safetensors" and value is False):
            raise LimbeckError(
                f"{who} has {name}={value!r}, which would run code that comes with a model, or open a pickle; limbeck "
                "does neither. If you trust it, open it in a function of your own and name that: my.py:build."
            )


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else (value,)


def _set_classes(name: str, config: Any, classes: int, *, trained: bool) -> None:
    if trained and config.num_labels != classes:
        raise LimbeckError(
            f"hf:{name} was trained for {config.num_labels} classes; the data have {classes}. "
            "Pass ignore_mismatched_sizes=True for a new, untrained classifier."
        )
    config.num_labels = classes


def _module(name: str, model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise LimbeckError(f"hf:{name} opened as a {type(model).__name__}, which is not a torch.nn.Module.")
    return model
