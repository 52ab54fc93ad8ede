"""Read YAML that is nested as a person would nest it. What it means is left to those who read it."""

from typing import Any

import yaml

__all__ = ["ShallowLoader"]

_DEEPEST = 20


class ShallowLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Makes plain values only, and soon gives up on lists in lists in lists: PyYAML takes seconds to do so.

    libyaml, which would be faster, overflows the stack.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one value. Raises YAMLError for one that lies too deep."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"values in values, more than {_DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node
