"""YAML 1.2 with the core schema (https://yaml.org/spec/1.2.2/#103-core-schema): params.yaml as DVC reads it.

PyYAML by itself reads YAML 1.1, where `on` is true, `1e-3` is text and `017` is fifteen. What is read here is what DVC
reads (with ruamel.yaml); where the two would differ, the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from pilot.errors import PilotError


def parse_yaml(text: str, name: object) -> Any:
    """The one document in `text`: dicts, lists, str, int, float, bool and None.

    name   of the file, for messages

    Raises PilotError, with the line, for text that is not YAML 1.2; a key or an anchor given twice; a key that is not
    text; tags and merge keys; and unquoted dates, and numbers that only some programs know, such as `1_000`.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or ""
        reason = problem if isinstance(error, _Refusal) else f"not YAML ({problem})"
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        reason = f"not YAML (it holds the character U+{ord(text[error.position]):04X})"
    except RecursionError:
        line, reason = "", "not YAML that can be read (it is nested too deeply)"
    except (ValueError, OverflowError) as error:  # of an escape or a directive with a number out of range
        line, reason = "", f"not YAML ({error})"
    raise PilotError(f"{name}{line}: {' '.join(reason.split())}") from None


class _Refusal(yaml.MarkedYAMLError):
    """YAML, but not of the kind that is read here."""

    def __init__(self, problem: str, mark: Any):
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012, as PyYAML declares it

    def fetch_value(self) -> None:
        if self.flow_level and self.peek(1) in ",[]{}:":
            raise _Refusal("a colon behind a key takes a space behind it", self.get_mark())
        super().fetch_value()

    def compose_document(self) -> Node | None:
        event = yaml.SafeLoader.peek_event(self)
        if event.version not in (None, (1, 2)):
            raise _Refusal("the file asks for another version than YAML 1.2", event.start_mark)
        return super().compose_document()

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = yaml.SafeLoader.peek_event(self)
        if getattr(event, "tag", None) is not None:
            raise _Refusal(f"remove the tag {event.tag}: tags are not read", event.start_mark)
        if (
            isinstance(event, yaml.NodeEvent)
            and not isinstance(event, yaml.AliasEvent)
            and event.anchor in self.anchors
        ):
            raise _Refusal(f"duplicate anchor {event.anchor}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Refusal(f"the key {key!r} is not text; quote it", key_node.start_mark)
            if key in lines:
                raise _Refusal(f'duplicate key "{key}", first on line {lines[key]}', key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _scalar(kind: str, pattern: str, value: Callable[[str], Any]) -> None:
    """Scalars that are not quoted and match `pattern` are read by `value`, which may raise ValueError."""
    tag = f"tag:yaml.org,2002:{kind}"

    def construct(loader: _Loader, node: ScalarNode) -> Any:
        try:
            return value(node.value)
        except ValueError as error:
            raise _Refusal(str(error), node.start_mark) from None

    _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), None)
    _Loader.add_constructor(tag, construct)


def _ambiguous(text: str) -> Any:
    raise ValueError(f'{text} is read differently by different programs; write "{text}" if text is meant')


_scalar("null", "|~|null|Null|NULL", lambda text: None)
_scalar("bool", "true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true")
_scalar("int", "[-+]?[0-9]+", int)
_scalar("int_in_base", "0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, base=0))
_scalar("float", r"[-+]?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?)", float)
_scalar("not_finite", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", "")))
# What YAML 1.2 calls text, and DVC's reader a number, a date or a merge; and text that one of them takes for a key.
_scalar("ambiguous", r"(?=.*_)[-+]?[0-9._][-+0-9._eE]*|[-+]?0[box][0-9a-fA-F_]+", _ambiguous)
_scalar("ambiguous", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|<<|=", _ambiguous)
_scalar("ambiguous", r"[:?].*|.*:", _ambiguous)
