"""Settings: typed, checked, read from TOML, overridden by ``--set a.b=c``, written back whole.

A setting is a field of a :class:`Settings` class, and that field is the one place that holds its name, type, default,
limits and help (the string below it). The command line, TOML files and Python all go through :func:`build`.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import pydantic
import tomli_w
from pydantic_core import PydanticCustomError

from selfcell.core.errors import InputError, did_you_mean


class Settings(pydantic.BaseModel):
    """Base of all settings: immutable, no unknown names, the help text is the string below a field."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, strict=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _none_is_not_given(cls, values: Any) -> Any:
        """Take ``none``, as the command line and lists of settings have it, for what is not set."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {name: None if value == "none" and name in optional else value for name, value in values.items()}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _knows_the_names(cls, values: Any) -> Any:
        unknown = [str(name) for name in values if name not in cls.model_fields] if isinstance(values, Mapping) else []
        if unknown:
            raise PydanticCustomError(
                "unknown_names",
                "unknown names",
                {
                    "unknown": unknown,
                    "known": list(cls.model_fields),
                    "below": _addresses_below(cls),
                },
            )
        return values


SettingsT = TypeVar("SettingsT", bound=Settings)


class SettingLine(NamedTuple):
    """What is to be said of one setting."""

    address: str
    """As a user types it, such as ``training.learning_rate``."""
    default: str
    help: str


def build(settings_class: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Make checked settings from plain values.

    Parameters
    ----------
    settings_class
        What to make.
    values
        Nested mappings as TOML gives them. What is missing takes its default.

    Raises
    ------
    InputError
        For an unknown name (with the nearest known one) or a value out of its limits, with the address of the setting.
    """
    try:
        return settings_class.model_validate(dict(values))
    except pydantic.ValidationError as error:
        lines = dict.fromkeys(_explain(problem) for problem in error.errors())  # one number may be both ends of a range
        raise InputError("\n".join(lines)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If there is no such file or it is not TOML; the message has the place in the file.
    """
    if not path.exists():
        raise InputError(f"There is no settings file {str(path)!r}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a valid TOML file: {str(error).rstrip('.')}.") from None


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.name=value`` strings, the later ones over the earlier.

    Parameters
    ----------
    values
        Nested mappings; left as they are.
    overrides
        Each as typed after ``--set``. The value is read as TOML (``5``, ``0.1``, ``true``, ``[512, 256]``) and, where
        it is not TOML, as a string, so that names need no quotes.

    Raises
    ------
    InputError
        If a string has no ``=`` or no section.
    """
    result = {
        section: dict(content) if isinstance(content, Mapping) else content for section, content in values.items()
    }
    for override in overrides:
        address, equals, text = override.partition("=")
        section, dot, name = address.strip().partition(".")
        if not equals or not dot or not section or not name:
            raise InputError(
                f"--set takes section.name=value, for example training.max_epochs=20, but got {override!r}."
            )
        content = result.setdefault(section, {})
        if not isinstance(content, dict):
            raise InputError(f"--set {override}: {section!r} is not a section.")
        content[name] = _read_value(text.strip())
    return result


def to_toml(settings: Settings) -> str:
    """Write settings out whole, nothing left to defaults. Settings that are None are left out, as TOML has no null."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def describe(settings_class: type[Settings], prefix: str = "") -> Iterator[SettingLine]:
    """List every setting of a class with its address, default and help.

    Below a list of steps the settings of each kind of step follow, as ``section.list.step.name``, once.
    """
    told: set[type[Settings]] = set()
    for name, field in settings_class.model_fields.items():
        nested = _settings_class_of(field)
        if nested is not None:
            yield from describe(nested, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            yield SettingLine(f"{prefix}{name}", _shown(default), " ".join((field.description or "").split()))
            for step in _step_classes(field.annotation):
                if step not in told:
                    yield from describe(step, f"{prefix}{name}.{step.model_fields['name'].default}.")
                told.add(step)


def _step_classes(annotation: Any) -> Iterator[type[Settings]]:
    """Find the settings classes of which a list may be made."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _step_classes(part)


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return str([_plain(item) for item in default])
    return str(default)


def _plain(item: Any) -> Any:
    """Give a step as a user would write it: its name alone where all else is left at its default."""
    if not isinstance(item, Settings):
        return item
    table = item.model_dump(mode="json")
    return table["name"] if item == type(item)() else table


def _settings_class_of(field: pydantic.fields.FieldInfo) -> type[Settings] | None:
    """Give the class of a nested section; that of the default where any kind of settings may stand."""
    annotation = field.annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
        return None
    return type(field.default) if isinstance(field.default, Settings) else annotation


def _read_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        # No TOML, or a number or a list beyond what its reader takes.
        return text


def _addresses_below(settings_class: type[Settings]) -> list[str]:
    """Give the settings of the sections of a class."""
    sections = {name: _settings_class_of(field) for name, field in settings_class.model_fields.items()}
    return [f"{section}.{name}" for section, nested in sections.items() if nested for name in nested.model_fields]


def _near(name: str, known: list[str], below: list[str]) -> str:
    """Name the nearest setting; one of the very name in a section below rather than a similar one."""
    same = [address for address in below if address.endswith(f".{name}")]
    return f"Did you mean {same[0]!r}? Known: {', '.join(known)}." if same else did_you_mean(name, known)


def _explain(problem: Any) -> str:
    place = [str(part) for part in problem["loc"] if not isinstance(part, int)]
    if problem["type"] == "unknown_names":
        what, where = ("setting", f" in [{'.'.join(place)}]") if place else ("section", "")
        known = problem["ctx"]["known"]
        unknown = problem["ctx"]["unknown"]
        below = problem["ctx"]["below"]
        return "\n".join(f"Unknown {what} {name!r}{where}. {_near(name, known, below)}" for name in unknown)
    *sections, name = place or [""]
    where = f"[{'.'.join(sections)}] " if sections else ""
    if problem["type"] == "missing":
        return f"{where}{name} must be given."
    if problem["type"] == "value_error" and isinstance(problem["ctx"]["error"], InputError):
        return str(problem["ctx"]["error"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message.replace("a valid tuple", "a list, such as [64, 32]").replace("Tuple", "The list")
    message = message[0].lower() + message[1:]
    return f"{where}{name}: {message}, but is {problem['input']!r}."
