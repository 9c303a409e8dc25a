"""Settings of a network's configuration, asked for one by one: a family need not have those that others have."""

from __future__ import annotations

from typing import Any


def setting(config: Any, name: str, default: Any = None) -> Any:
    """Return a setting of a configuration, or of the text's inside it; the default where there is none, or None."""
    text = getattr(config, "get_text_config", None)
    for holder in (config, None if text is None else text()):
        value = getattr(holder, name, None)
        if value is not None:
            return value
    return default
