"""The adapters that are loaded beside a language model, by their names, and the one that serves."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..configuration import ConfigError
from .adapter_folder import Adapter


class Adapters:
    """Several adapters of one language model. Safe from any thread.

    Args:
        read: Reads a folder for the language model.

    Attributes:
        serving: What requests are served with from their beginning on; None: the bare language model. Whoever changes
            it changes nothing of a conversation that has rounds, or of descriptions that have begun.
    """

    def __init__(self, read: Callable[[Path], Adapter]):
        self.read = read
        self.serving: Adapter | None = None
        self._loaded: dict[str, Adapter] = {}

    def open(self, folders: Iterable[Path], serving: str) -> None:
        """Load folders.

        Args:
            folders: Each of an adapter.
            serving: The name of that which is to serve; empty: none.

        Raises:
            ConfigError: Two have the same name, or none has that of the one that is to serve.
            CheckpointError: As `adapter_folder.read_adapter`.
        """
        for folder in folders:
            if (name := folder.resolve().name) in self._loaded:
                raise ConfigError(f"adapters has two folders that are called {name!r}, such as {folder}; expected "
                                  "another name for each, by which `adapter` names them")
            self.put(self.read(folder))
        self.serving = self.find(serving)

    def adopt(self, others: Adapters) -> None:
        """Have what others have of the same language model, and let the same one serve."""
        self._loaded, self.serving = others._loaded, others.serving

    def put(self, adapter: Adapter) -> None:
        """Let an adapter be found by its name, in place of what had that name."""
        self._loaded = {**self._loaded, adapter.name: adapter}

    def drop(self, adapter: Adapter) -> None:
        """Forget an adapter, where it is found by its name."""
        self._loaded = {name: loaded for name, loaded in self._loaded.items() if loaded is not adapter}

    def find(self, name: str) -> Adapter | None:
        """The adapter of that name; None for an empty one. Raises ConfigError where there is none."""
        if not name:
            return None
        try:
            return self._loaded[name]
        except KeyError:
            names = ", ".join(self._loaded) or "none is loaded"
            raise ConfigError(f"adapter is {name!r:.80}, expected the name of one that is loaded ({names}), or nothing"
                              ) from None
