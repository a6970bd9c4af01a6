"""YAML files with the line of each key, so that an error can name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from captcha_assets.atomic_files import AnyPath
from captcha_assets.training.config import SettingsError, TrainingSettings


class YamlFileError(ValueError):
    """A YAML file that cannot be read; the message is one line: the file, the line, the problem."""


@dataclass(frozen=True)
class YamlFile:
    """The content of a YAML file.

    Attributes:
        path: the file.
        values: its mapping, empty for an empty file.
        lines: the line of each key, by the keys that lead to it.
    """

    path: AnyPath
    values: dict[str, Any]
    lines: Mapping[tuple[str, ...], int]

    def where(self, *keys: str) -> str:
        """Return the file and the line of a key, for the beginning of a message."""
        line = self.lines.get(keys)
        return f"{self.path}, line {line}" if line else str(self.path)

    def settings(self, base: TrainingSettings, *keys: str) -> TrainingSettings:
        """Return training settings: those of `base`, and over them what the file says under `keys`.

        Raises:
            SettingsError: the message names the file, the line and the setting.
        """
        named: Any = self.values
        for key in keys:
            named = named.get(key) or {}
        if not isinstance(named, dict):
            raise SettingsError(f"{self.where(*keys)}: lines like `epochs: 12` are needed, not {named!r}")
        try:
            return base.replaced(**{str(name): value for name, value in named.items()})
        except SettingsError as error:
            raise SettingsError(f"{self.where(*keys, error.setting)}: {error}", error.setting) from None


def read(path: AnyPath) -> YamlFile:
    """Read a file that holds a mapping, or nothing.

    Raises:
        YamlFileError: it cannot be read, is no YAML, holds no mapping, or names a key twice.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise YamlFileError(f"{path} is no file")  # a named pipe would be waited for
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
        lines = _lines(path, root)
    except YamlFileError:
        raise
    except UnicodeDecodeError as error:
        raise YamlFileError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise YamlFileError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlFileError(_syntax(path, error)) from error
    except RecursionError as error:
        raise YamlFileError(f"{path}: this is nested too deeply, or holds itself by an alias") from error
    if values is not None and not isinstance(values, dict):
        where = f"{path}, line {root.start_mark.line + 1}" if root else str(path)
        raise YamlFileError(f"{where}: this is no mapping: lines like `key: value` are needed")
    return YamlFile(path, values or {}, lines)


def _syntax(path: AnyPath, error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    return f"{where}: this is no YAML: {problem or str(error).splitlines()[0]}"


def _lines(path: AnyPath, node: yaml.Node | None, *above: str) -> dict[tuple[str, ...], int]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    found: dict[tuple[str, ...], int] = {}
    for name, value in node.value:
        key, line = (*above, str(name.value)), name.start_mark.line + 1
        if key in found:
            raise YamlFileError(f"{path}, line {line}: {key[-1]} is named twice, first in line {found[key]}")
        found |= {key: line, **_lines(path, value, *key)}
    return found
