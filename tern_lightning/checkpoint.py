"""Load Lightning checkpoints safely, with errors that say what is wrong with the file or the class."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tern_lightning.nn.activation_quantizer import layer_quantizers
from tern_lightning.nn.learned_input import learned_hooks
from tvm_schedules.common.files import user_path
from tvm_schedules.common.near import meant
from tvm_schedules.common.reading import reading, reason


class CheckpointError(ValueError):
    """A file is no checkpoint of the wanted network."""


Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class that a file may hold objects of, or a function; with its name in the file where that is another one."""


def load_module(
    path: str | os.PathLike[str],
    target: type[nn.Module] | nn.Module,
    *,
    allow_classes: Sequence[Allowed] = (),
    **hyper_parameters: Any,
) -> nn.Module:
    """Load a checkpoint into a network, without running code that the file contains.

    Args:
        path: A Lightning checkpoint, or a file of ``torch.save(module.state_dict())``.
        target: The network's class, built with the checkpoint's hyper-parameters, or an instance, which is filled.
        allow_classes: Classes that the file may hold besides tensors and plain values, such as ``pathlib.PosixPath`` or
            an enumeration among the hyper-parameters. The file may call them with any arguments, so that only classes
            that do nothing else should be here.
        hyper_parameters: Arguments of the class; they go before those of the checkpoint.

    Returns:
        The network on the CPU (an instance stays where it is), in evaluation mode. Where it was trained with rounded
        layer inputs, which are no part of the network, a warning says that they are not.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated, foreign or unsafe, or does not fit the class or its hyper-parameters.
    """
    path = user_path(path, "checkpoint")
    checkpoint = read_checkpoint(path, allow_classes)
    if isinstance(target, nn.Module):
        if hyper_parameters:
            raise TypeError(f"hyper_parameters are for a class, got {sorted(hyper_parameters)} with an instance")
        module = target
    else:
        module = _build(target, checkpoint, hyper_parameters, path)
    with reading(f"checkpoint {os.fspath(path)!r}", CheckpointError):
        if hasattr(module, "on_load_checkpoint"):
            module.on_load_checkpoint(checkpoint)  # type: ignore[operator]  # as Lightning does
        weights = checkpoint["state_dict"]
        _check_keys(module, weights, path)
        module.load_state_dict(weights)
    _warn_of_rounding(module, checkpoint)
    return module.eval()


ROUNDING_CALLBACKS = ("ActivationQuantization", "CoarseActivation", "MultiLevelActivation")
"""The callbacks whose state is needed to compute what was trained."""


def rounding_callbacks(checkpoint: Mapping[str, Any]) -> list[str]:
    """The names of the callbacks that rounded layer inputs in the training of a checkpoint."""
    keys = [str(key) for key in checkpoint.get("callbacks") or ()]
    return [name for name in ROUNDING_CALLBACKS if any(key.startswith(name) for key in keys)]


def _warn_of_rounding(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Warn where a network was trained with rounded layer inputs, which are no part of its weights."""
    names = rounding_callbacks(checkpoint)
    if names and not layer_quantizers(module) and not learned_hooks(module):
        warnings.warn(
            f"the checkpoint was trained with layer inputs rounded by {' and '.join(names)}, and the loaded network "
            "computes without. HINT: Trainer(callbacks=[...]).test(network, ckpt_path=...) has the rounding, "
            "and tern-export takes it from the checkpoint",
            stacklevel=3,
        )


def read_checkpoint(path: str | os.PathLike[str], allow_classes: Sequence[Allowed] = ()) -> dict[str, Any]:
    """Read a checkpoint file; only tensors, plain values and objects of ``allow_classes`` are accepted.

    Returns:
        The checkpoint with at least ``state_dict``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated, foreign or unsafe.
    """
    path = user_path(path, "checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {os.fspath(path)!r} does not exist or is not a file")
    name = f"checkpoint {os.fspath(path)!r}"
    try:
        with torch.serialization.safe_globals(list(allow_classes)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error):
            names = _foreign(path, allow_classes) or [_foreign_name(error)]
            flags = " ".join(f"--allow-class {name}" for name in names)
            raise CheckpointError(
                f"{name} holds objects of {', '.join(names)}, which could run code when they are loaded. HINT: if you "
                f"know these classes and where the file comes from, allow them: {flags} or "
                f"load_module(..., allow_classes=[{', '.join(names)}]); better, save plain values as hyper-parameters."
            ) from error
        raise CheckpointError(
            f"{os.fspath(path)!r} is not a PyTorch checkpoint, or it is damaged: {reason(error)}"
        ) from error
    except Exception as error:  # zip files, pickles and tensors each have errors of their own
        raise CheckpointError(f"{name} is truncated or damaged: {reason(error)}") from error
    if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
        found = {"state_dict": dict(found)}
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), Mapping):
        keys = sorted(map(str, found))[:10] if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{os.fspath(path)!r} is not a Lightning checkpoint: it has no state_dict, it has {keys}")
    for part in ("state_dict", "hyper_parameters", "callbacks"):
        content = found.get(part)
        if content is not None and not (isinstance(content, Mapping) and all(isinstance(key, str) for key in content)):
            raise CheckpointError(
                f"checkpoint {os.fspath(path)!r} is damaged: its {part} must be values by names, got "
                f"{'other names' if isinstance(content, Mapping) else type(content).__name__}"
            )
    return found


def class_of_name(name: str) -> tuple[Callable[..., Any], str]:
    """Find what ``pkg.mod.Name`` names, for ``allow_classes``.

    Raises:
        ValueError: The module cannot be imported, or it has no class or function of that name.
    """
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"an allowed class must be given as pkg.mod.Name, got {name!r}")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:  # a module of the user, which may do anything
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                continue  # a class within a class, or nothing
            raise ValueError(f"class {name!r} cannot be allowed: its import fails: {reason(error)}") from error
        for part in parts[length:]:
            found = getattr(found, part, None)
        if callable(found):
            return found, name
        break
    raise ValueError(f"class {name!r} cannot be allowed: there is no such class")


def _foreign(path: str | os.PathLike[str], allowed: Sequence[Allowed]) -> list[str]:
    """Names of all classes and functions in a file that are not allowed; empty where PyTorch cannot tell."""
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # files of other formats
        return []


def _foreign_name(error: Exception) -> str:
    """The name in PyTorch's message about one."""
    line = next(line for line in str(error).splitlines() if "Unsupported global" in line)
    return line.partition("GLOBAL ")[2].split(" ")[0] or line.strip()


def _build(
    cls: type[nn.Module], checkpoint: Mapping[str, Any], given: Mapping[str, Any], path: str | os.PathLike[str]
) -> nn.Module:
    """Build the class from the checkpoint's hyper-parameters and those given."""
    parameters = inspect.signature(cls).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(set(given) - set(parameters)) if not takes_all else []
    if unknown:
        wrong = f"got the unknown hyper-parameters {unknown}{meant(unknown[0], parameters)}"
        raise CheckpointError(f"{cls.__name__} takes {list(parameters)}, {wrong}")
    # Names with an underscore are notes of LightningCLI.
    saved = {k: v for k, v in (checkpoint.get("hyper_parameters") or {}).items() if not str(k).startswith("_")}
    bundle = checkpoint.get("hparams_name")
    if isinstance(bundle, str) and bundle in parameters and bundle != "kwargs":
        saved = {bundle: saved}
    arguments = {name: value for name, value in {**saved, **given}.items() if takes_all or name in parameters}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from checkpoint {os.fspath(path)!r}: {error}. The checkpoint has the "
            f"hyper-parameters {sorted(saved)}. HINT: pass what is missing, or save_hyperparameters() in the class."
        ) from error
    try:
        module = cls(**arguments)
        # Lightning modules may build their layers late.
        if hasattr(module, "configure_model"):
            module.configure_model()  # type: ignore[operator]
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from checkpoint {os.fspath(path)!r} with {_shown(arguments)}: "
            f"{reason(error)}"
        ) from error
    return module


def _shown(arguments: Mapping[str, Any]) -> str:
    """Arguments for a message, each in a few words."""
    words = {name: repr(value) for name, value in arguments.items()}
    return _some([f"{name}={text if len(text) < 40 else text[:40] + '...'}" for name, text in words.items()]) or "none"


def _check_keys(module: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Raise where the checkpoint's keys or shapes are not those of the network."""
    own = module.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name} ({tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the class)"
        for name in own
        if name in weights and isinstance(own[name], Tensor) and weights[name].shape != own[name].shape
    ]
    problems = [
        f"{title}: {_some(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("other shapes", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {os.fspath(path)!r} does not fit {type(module).__name__}; {'; '.join(problems)}. "
            "HINT: is it the right class, with the right hyper-parameters?"
        )


def _some(names: Sequence[str], count: int = 10) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
