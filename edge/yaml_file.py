"""YAML as all files here are read: without code, without a key that stands twice, and with errors that quote nothing of the
file, since a configuration may hold a password."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """PyYAML takes the last of two equal keys and drops the first, with all that stands under it."""
        seen: dict[tuple[str, str], int] = {}  # the line of each
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in seen:
                raise ValueError(f"line {line}: the key {key.value!r} stands twice, first in line {seen[name]}; merge the two")
            seen[name] = line
        return super().construct_mapping(node, deep)


def parse_yaml(raw: bytes) -> Any:
    """The one document of a YAML file. ValueError, in words, for what is none."""
    try:
        loader = _Loader(raw)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"not valid YAML: {where}{said}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"not valid YAML: byte {error.position} is no text ({error.reason})") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deep") from None
    except ValueError as error:  # PyYAML lets an impossible date such as 2001-99-99 through as one
        said = str(error)
        raise ValueError(said if "stands twice" in said else f"not valid YAML: {said}") from None
