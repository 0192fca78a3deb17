"""A native config that knows which of its keys were read, so that none can be set in vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from transfer.runtime.errors import EngineError


class WatchedCfg(CfgNode):  # type: ignore[misc]
    """Detectron2's config, which also remembers what was set in it and what anybody has read since.

    A key counts as read when it is taken as an attribute, `cfg.MODEL.DEVICE`, as all of Detectron2's builders do.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not `self.given = …`: attributes of a CfgNode are its keys.
        self.__dict__["given"] = {}
        self.__dict__["were_read"] = set()

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self.__dict__["were_read"].add(name)
        return value

    def give(self, settings: Mapping[str, Any]) -> None:
        """Set keys by their full names; `merge_from_list` refuses keys and types that the defaults do not have."""
        self.merge_from_list([item for pair in settings.items() for item in pair])
        self.__dict__["given"].update(settings)

    def dead_keys(self) -> list[str]:
        """Full names of what was given and read by nobody since."""
        return [key for key in self.__dict__["given"] if not self._was_read(key)]

    def demand_read(self) -> None:
        """To be called when everything is built.

        Raises:
            EngineError: a key was set that nothing read.
        """
        dead = self.dead_keys()
        if dead:
            raise EngineError(
                "dead config keys: they are set in Detectron2's config, and nothing that was built has read them",
                found=", ".join(dead),
                todo="this is a fault of the program, nothing was trained: please report it",
            )

    def _was_read(self, key: str) -> bool:
        *path, name = key.split(".")
        node = self
        for part in path:
            node = node[part]  # an item, not an attribute: looking is not reading
        return name in node.__dict__["were_read"]
