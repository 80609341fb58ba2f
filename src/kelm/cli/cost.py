"""What a compression cost and gained, as tables: after `kelm compress --wait`, and in `kelm show`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kelm.cli.tables import count, print_table, size
from kelm.store.compression import Compression, Side


def print_record(record: Compression) -> None:
    """Before and after, and what the layers had to say."""
    print(f"made from {record.source} ({record.source_digest[7:19]}): {record.method}\n")
    sides = (record.before, record.after)
    rows = [(name, *(say(side) for side in sides)) for name, say in _FIGURES.items()]
    print_table(("", "BEFORE", "AFTER"), rows)
    if record.text is not None:
        print(f"\nperplexity on {record.text}")
    if record.weight_error is not None:
        print(f"rounding changed the weights by {record.weight_error:.2%} (root mean square)")
    if record.influence:
        print()
        layers = [
            (number, f"{value:.4f}", "removed" if number in record.removed else "")
            for number, value in enumerate(record.influence)
        ]
        print_table(("LAYER", "INFLUENCE", ""), layers)


_FIGURES: Mapping[str, Callable[[Side], object]] = {
    "precision": lambda side: side.precision,
    "layers": lambda side: side.layers,
    "parameters": lambda side: count(side.parameters),
    "on disk": lambda side: size(side.size_bytes),
    "in memory": lambda side: _measured(side, "weight_bytes"),
    "perplexity": lambda side: _measured(side, "perplexity"),
}


def _measured(side: Side, name: str) -> str | None:
    value = getattr(side, name)
    if value is None:
        return None
    return size(value) if name == "weight_bytes" else f"{value:.2f}"
