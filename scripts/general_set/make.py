"""Makes the built-in calibration set: pictures with questions about them, and texts.

    python scripts/general_set/make.py [OUT]      src/bivlm/data/general by default

The same seed gives the same pictures and questions, with the same versions of numpy, Pillow and matplotlib to
the byte (OUT/README.md names them). Texts are in texts/*.toml; every other file here draws one kind of
picture.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL
from PIL import Image

import changes
import charts
import dials
import faces
import maps
import papers
import photographs
import scenes
import screens
import shapes
import signs
import solids
import tables
from drawing import Drawn

HERE = Path(__file__).parent
OUT = HERE.parent.parent / "src" / "bivlm" / "data" / "general"
SEED = 0
GROUPS: dict[str, Callable[[np.random.Generator], Sequence[Drawn]]] = {
    "shapes": shapes.pictures,
    "scenes": scenes.pictures,
    "solids": solids.pictures,
    "charts": charts.pictures,
    "tables": tables.pictures,
    "papers": papers.pictures,
    "signs": signs.pictures,
    "maps": maps.pictures,
    "dials": dials.pictures,
    "screens": screens.pictures,
    "photographs": photographs.pictures,
    "faces": faces.pictures,
    "changes": changes.pictures,
}
TEXT = "text"
QUALITY = 85  # of what is stored with losses


def make(out: Path) -> None:
    """Write samples.jsonl, images/ and README.md; what lay in images/ is removed."""
    shutil.rmtree(out / "images", ignore_errors=True)
    (out / "images").mkdir(parents=True)
    rows = [*picture_rows(out), *text_rows()]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "samples.jsonl").write_text(lines, encoding="utf-8")
    (out / "README.md").write_text(readme(out, rows), encoding="utf-8")


def picture_rows(out: Path) -> Iterator[dict[str, Any]]:
    """Save every picture, and give the questions about it."""
    for number, (group, pictures) in enumerate(GROUPS.items()):
        count = 0
        for drawing in pictures(np.random.default_rng((SEED, number))):
            names = []
            for image in drawing.images:
                names.append(f"images/{group}-{count:02}.webp")
                save(image, out / names[-1], drawing.photographic)
                count += 1
            for asked in drawing.asked:
                yield {
                    "images": names,
                    "question": asked.question,
                    "answer": asked.answer,
                    "group": group,
                    "kind": asked.kind,
                    "language": asked.language,
                }


def save(image: Image.Image, path: Path, photographic: bool) -> None:
    how = {"quality": QUALITY} if photographic else {"lossless": True, "quality": 100}
    image.save(path, "WEBP", method=6, exact=True, **how)


def text_rows() -> Iterator[dict[str, Any]]:
    """The texts, file by file; the language of a file is its name up to the first dash."""
    for path in sorted((HERE / "texts").glob("*.toml")):
        for text in tomllib.loads(path.read_text(encoding="utf-8"))["text"]:
            yield {
                "images": [],
                "question": text["question"].strip("\n"),
                "answer": text["answer"].strip("\n"),
                "group": TEXT,
                "kind": text["kind"],
                "language": text.get("language", path.stem.partition("-")[0]),
            }


def readme(out: Path, rows: Sequence[dict[str, Any]]) -> str:
    template = (HERE / "README.in.md").read_text(encoding="utf-8")
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "README.md"]
    return template.format(
        pictures=len(list((out / "images").iterdir())),
        asked=sum(bool(row["images"]) for row in rows),
        texts=sum(not row["images"] for row in rows),
        megabytes=f"{sum(path.stat().st_size for path in files) / 1e6:.2f}",
        groups="\n".join(
            f"| {name} | {count} |" for name, count in Counter(row["group"] for row in rows).items()
        ),
        languages=", ".join(
            f"{name} {count}" for name, count in Counter(row["language"] for row in rows).most_common()
        ),
        versions=f"numpy {np.__version__}, Pillow {PIL.__version__}, matplotlib {matplotlib.__version__}",
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
