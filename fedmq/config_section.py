"""The base of the sections of a config: strict, checked on construction, load and assignment, errors of one line."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from fedmq.errors import ConfigError


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _number_or_name(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)):
        return value
    raise ValueError("should be a finite number or a name")


Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[Text, BeforeValidator(_path_as_text)]
#: strict in its items; a tuple will do as a list
Texts = Annotated[list[Text], Field(strict=False)]

#: of a method, by the names of its factory's parameters
Options = dict[str, Annotated[float | str, BeforeValidator(_number_or_name)]]


def described(default: Any, description: str, unit: str | None = None, **limits: Any) -> Any:
    """A field with a default, what it means, its unit (in the JSON schema) and pydantic's limits (ge, gt, lt, ...)."""
    return Field(default, description=description, json_schema_extra={"unit": unit} if unit else None, **limits)


class Section(BaseModel):
    """A group of fields that refuses unknown names, wrong types and values, and combinations that cannot work.

    Types are strict ("3" and true are no integers), but an integer is a number. A refused
    assignment raises ConfigError and leaves the section as it was.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)

    #: name of the section in its config; empty for the config itself
    section: ClassVar[str] = ""

    def conflict(self) -> str | None:
        """Why these values cannot stand together, as one line; None when they can."""
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            raise ConfigError(_unknown(type(self), (name,)))
        super().__setattr__(name, value)

    def __str__(self) -> str:
        """One field per line, values as in a config file; sections below, under their names."""
        inner = [(name, value) for name, value in self if isinstance(value, Section)]
        width = max(
            len(name) for section in (self, *(value for _, value in inner)) for name in type(section).model_fields
        )
        blocks = [self._rows(width), *(f"[{name}]\n{value._rows(width)}" for name, value in inner)]
        return "\n\n".join(blocks)

    def _rows(self, width: int) -> str:
        return "\n".join(f"{name:<{width}}  {_json(value)}" for name, value in self if not isinstance(value, Section))

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_line(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # On assignment, pydantic has changed the section by the time that a conflict is seen.
        before = dict(value.__dict__) if isinstance(value, cls) else None
        try:
            section = handler(value)
        except ValidationError as error:
            raise ConfigError("; ".join(_line(cls, one) for one in error.errors(include_url=False))) from None
        if reason := section.conflict():
            if before is not None:
                object.__setattr__(value, "__dict__", before)
            raise ConfigError(reason)
        return section


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the names that it may have meant, or all of them.

    Example:
      >>> nearest("num_client", ["num_clients", "num_rounds"])
      'did you mean num_clients?'
      >>> nearest("x", ["num_clients", "num_rounds"])
      'known are num_clients, num_rounds'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"


def options_conflict(field: str, method: str, options: Options, factory: Callable[..., Any]) -> str | None:
    """Why a method cannot be made with these options, as one line; None when it can.

    Args:
      field: the config's name of `options`.
      method: its name, for the message.
      options: by the names of the factory's parameters; those that are missing take their defaults.
      factory: makes the method; TypeError or ValueError says which value is wrong.
    """
    known = inspect.signature(factory).parameters
    for name in options:
        if name not in known:
            return f"{field}: {method} has no option {name!r}; {nearest(name, known) if known else 'it has none'}"
    try:
        factory(**options)
    except (TypeError, ValueError) as error:
        return f"{field}: {method}: {error}"
    return None


def _line(cls: type[Section], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(cls, error["loc"])
    given, context = error["input"], error.get("ctx", {})
    hint = ""
    if error["type"] == "value_error":
        expected = str(context["error"])
    elif not error["loc"]:
        expected = f"should be an object with the keys {', '.join(cls.model_fields)}"
    else:
        expected = re.sub(r"^\w+ (should .*?)( after validation.*)?$", r"\1", error["msg"])
        if NoneType in get_args(cls.model_fields[str(error["loc"][0])].annotation):
            expected += " or null"
    if error["type"] == "literal_error":
        close = difflib.get_close_matches(str(given), context["expected"].split("'")[1::2], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
    return f"{_path(cls, error['loc'])}: got {_short(given)}, {expected}{hint}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(cls: type[Section], loc: tuple[int | str, ...]) -> str:
    path = cls.section
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            # A key of a file may hold anything, line breaks too.
            path += ("." if path else "") + (part if part.isidentifier() else _short(part))
    return path


def _unknown(cls: type[Section], loc: tuple[int | str, ...]) -> str:
    known = list(cls.model_fields)
    # A field of another section, given without its section or in the wrong one.
    elsewhere = [
        f"{other.section}.{loc[-1]}"
        for other in Section.__subclasses__()
        if other.section and loc[-1] in other.model_fields
    ]
    hint = f"did you mean {' or '.join(elsewhere)}?" if elsewhere else nearest(str(loc[-1]), known)
    return f"{_path(cls, loc)}: unknown key; {hint}"
