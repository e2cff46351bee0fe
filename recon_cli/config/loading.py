"""From a file to a config, or to one message with all its errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.config import strict_yaml
from recon_cli.config.schema import Config, LoadedConfig
from recon_cli.errors import ReconError, did_you_mean, printable, quoted


def load_config(path: Path) -> LoadedConfig:
    """Read and validate a config.

    :raises ReconError: one error that lists everything that is wrong, each with its key's path.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ReconError(f"there is no config {quoted(path)}", "`recon init` writes one to start from") from None
    except OSError as error:
        raise ReconError(f"cannot read the config {quoted(path)}: {error.strerror}") from None
    content = strict_yaml.parse(data, quoted(path))
    if not isinstance(content, dict):
        raise ReconError(
            f"the config {quoted(path)} holds no mapping with `model`, `tasks`, `data` and `optimizer`",
            "`recon init` writes one to start from",
        )
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(detail) for detail in error.errors(include_url=False)]
        raise config_error(path, problems) from None
    return LoadedConfig(config=config, path=path, digest=digest_bytes(data))


def config_error(path: Path, problems: Sequence[str]) -> ReconError:
    """One error for all the problems of a config."""
    if len(problems) == 1:
        return ReconError(f"the config {quoted(path)}: {problems[0]}")
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return ReconError(f"the config {quoted(path)} has {len(problems)} errors:{lines}")


def _sentence(detail: ErrorDetails) -> str:
    # Validators that turn a short form into a long one do not show up in the user's file.
    where = quoted(".".join(str(part) for part in detail["loc"]))
    if detail["type"] == "extra_forbidden":
        section = _section_at(detail["loc"][:-1])
        question = did_you_mean(str(detail["loc"][-1]), section.model_fields) if section else None
        return f"{where} is not a known key" + (f"; {question}" if question else "")
    if detail["type"] == "missing":
        return f"{where} is missing"
    message = printable(detail["msg"].removeprefix("Value error, ").removeprefix("Input should be "))
    if "Input should be " not in detail["msg"]:
        return f"{where}: {message}"
    # pydantic offers an instance of its own class as well, which nobody can write into a file.
    message = re.sub(r" or instance of \w+", "", message)
    return f"{where} should be {message}, not {quoted(_short(detail['input']))}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(location: Sequence[int | str]) -> type[BaseModel] | None:
    section: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
        field = section.model_fields.get(part)
        if field is None:
            return None
        section = next((a for a in (field.annotation, *get_args(field.annotation)) if _is_section(a)), None)
    return section if _is_section(section) else None


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
