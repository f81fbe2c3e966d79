"""What the tests with real models share: a text of our own, and no network."""

from __future__ import annotations

from pathlib import Path

import pytest

# Written for these tests; enough for about 1,300 tokens.
_PARAGRAPHS = (
    "A cache of keys and values grows by one row for each token that a model reads. Nobody "
    "looks at those rows, yet every later token does: it multiplies its query with each of "
    "them and mixes their values by what comes out.",
    "Take a harbour at night. The first lamps, lit long before the ships arrive, are the ones "
    "that every pilot steers by; the lamps in the middle matter to a few, and only when the "
    "fog lifts. The first tokens of a text are such lamps, and a bench that dims them all "
    "alike will report a pleasant average and lose the ships.",
    "In 1971 the clock on the town hall of Brenn stopped at 4:07. The council paid 1,250 "
    "crowns to a clockmaker named Ilse Varga, who found a wren's nest behind the third gear, "
    "waited nine weeks until the brood had flown, and then charged nothing for the waiting.",
    "def mean(rows):\n    total = 0.0\n    for row in rows:\n"
    "        total += row.weight * row.value\n"
    "    return total / max(sum(row.weight for row in rows), 1e-9)",
    "Un pont sans rivière est une question; une rivière sans pont est une réponse que "
    "personne n'a demandée. Ein Satz, der sich dreht, dreht auch den, der ihn liest.",
    "Recipe: 300 g of flour, 7 g of salt, 210 ml of water, 3 g of yeast. Mix, rest for 40 "
    "minutes, fold four times, rest again, bake at 235 degrees until the crust answers a "
    "knock with a hollow sound. Let it cool. This last step is the one that is always left "
    "out.",
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights come from what is installed, never from a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def text() -> str:
    """About 1,300 tokens of prose, code, numbers and three languages, none of it a repetition."""
    parts = []
    for turn in range(3):
        order = _PARAGRAPHS[turn:] + _PARAGRAPHS[:turn]
        parts += [f"{turn + 1}.{number} {part}" for number, part in enumerate(order, 1)]
    return "\n\n".join(parts)


@pytest.fixture(scope="session")
def text_file(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text in a file."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path
