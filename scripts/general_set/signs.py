"""Signs, labels and notes in writing: road signs, shop fronts, jars, plates, a chalk board, a handwritten
page.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from drawing import (
    BOLD,
    INK,
    MONO,
    RGB,
    SCRIPT,
    SERIF,
    SERIF_BOLD,
    SERIF_ITALIC,
    Asked,
    Drawn,
    box,
    canvas,
    centred,
    drawn,
    font,
)


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_roads(random), *_shops(random), *_labels(), *_written(random)]


def outside(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """A street in a haze: sky, a wall of houses, the road; nothing is sharp."""
    image, pen = canvas(width, height, (178, 204, 226))
    x = 0
    while x < width:
        wide = int(random.integers(width // 8, width // 4))
        tone = random.integers(120, 200, 3)
        top = int(height * random.uniform(0.2, 0.5))
        pen.rectangle((x, top, x + wide, height), fill=tuple(int(part) for part in tone))
        for row in range(top + 10, height - 30, 24):
            for column in range(x + 8, x + wide - 10, 20):
                pen.rectangle((column, row, column + 8, row + 12), fill=(70, 80, 96))
        x += wide
    pen.rectangle((0, int(height * 0.85), width, height), fill=(92, 92, 96))
    return image.filter(ImageFilter.GaussianBlur(3))


def _grained(random: np.random.Generator, image: Image.Image, noise: float = 5) -> Image.Image:
    pixels = np.asarray(image).astype(float) + random.normal(0, noise, (image.height, image.width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _roads(random: np.random.Generator) -> list[Drawn]:
    stop = outside(random, 240, 300)
    pen = ImageDraw.Draw(stop)
    pen.rectangle((114, 150, 126, 300), fill=(140, 140, 145))
    edge = [(120 + 74 * np.cos(a), 120 + 74 * np.sin(a)) for a in np.pi / 8 + np.arange(8) * np.pi / 4]
    pen.polygon(edge, fill=(190, 20, 26), outline=(250, 250, 250), width=5)
    centred(pen, (120, 120), "STOP", font(40, BOLD), (255, 255, 255))
    ways = outside(random, 360, 240)
    pen = ImageDraw.Draw(ways)
    box(pen, (40, 30, 320, 170), fill=(0, 70, 160), outline=(255, 255, 255), width=4)
    for number, (arrow, text) in enumerate([("←", "Lindau  24"), ("↑", "Zentrum"), ("→", "Messe  3")]):
        pen.text((62, 44 + 40 * number), arrow, font=font(28, BOLD), fill=(255, 255, 255))
        pen.text((120, 44 + 40 * number), text, font=font(26), fill=(255, 255, 255))
    limit, pen = canvas(128, 128, (206, 222, 206))
    pen.ellipse((8, 8, 120, 120), fill=(200, 16, 24))
    pen.ellipse((24, 24, 104, 104), fill=(255, 255, 255))
    centred(pen, (64, 64), "50", font(42, BOLD))
    return [
        drawn(
            _grained(random, stop),
            Asked("What does the sign say?", "STOP", "reading"),
            Asked("How many corners does the sign have?", "8", "count"),
            Asked("¿De qué color es la señal?", "roja", "short", "es"),
            Asked(
                "Describe the scene.",
                "A red, eight-sided stop sign stands on a grey post. The street with its houses in the"
                " background is out of focus.",
                "caption",
            ),
            photographic=True,
        ),
        drawn(
            _grained(random, ways),
            Asked("In welche Richtung geht es zur Messe?", "nach rechts", "short", "de"),
            Asked("Wie weit ist es bis Lindau?", "24 Kilometer", "reading", "de"),
            Asked("Which place is straight ahead?", "Zentrum", "reading"),
            photographic=True,
        ),
        drawn(
            limit,
            Asked("What is the speed limit?", "50", "reading"),
            Asked("这个标志是什么意思？", "最高限速50公里每小时。", "sentence", "zh"),
            Asked("क्या यह चिह्न गोल है?", "हाँ", "yes/no", "hi"),
        ),
    ]


def _front(name: str, line: str, awning: RGB, ground: RGB, face: str) -> Image.Image:
    """A shop front with its name above an awning."""
    image, pen = canvas(320, 220, ground)
    pen.rectangle((20, 16, 300, 66), fill=(40, 36, 34))
    centred(pen, (160, 40), name, font(26, face), (246, 226, 170))
    for stripe in range(10):
        x = 20 + 28 * stripe
        colour = awning if stripe % 2 == 0 else (250, 248, 240)
        pen.polygon([(x, 70), (x + 28, 70), (x + 34, 108), (x - 6, 108)], fill=colour)
    pen.rectangle((30, 112, 200, 206), fill=(150, 190, 206), outline=(60, 50, 40), width=4)
    pen.rectangle((222, 112, 288, 214), fill=(110, 66, 40))
    box(pen, (54, 140, 176, 180), fill=(255, 255, 250))
    centred(pen, (115, 160), line, font(11), (120, 20, 20))
    return image


def _shops(random: np.random.Generator) -> list[Drawn]:
    books = _front("Librairie du Port", "ouvert jusqu’à 19 h", (170, 40, 40), (204, 190, 170), SERIF_BOLD)
    bread = _front("FORNO ROSSI", "chiuso il lunedì", (40, 120, 70), (224, 210, 186), BOLD)
    park = outside(random, 300, 220)
    pen = ImageDraw.Draw(park)
    pen.rectangle((60, 50, 240, 170), fill=(34, 90, 52), outline=(240, 240, 230), width=4)
    centred(
        pen,
        (150, 110),
        "Riverside Park\n\nopen 7 am – 9 pm\ndogs on a leash",
        font(16, SERIF),
        (250, 250, 240),
    )
    cinema, pen = canvas(400, 160, (18, 16, 30))
    box(pen, (20, 20, 380, 140), fill=(252, 240, 190), outline=(230, 60, 40), width=6)
    centred(pen, (200, 55), "ODEON", font(34, SERIF_BOLD), (180, 20, 30))
    centred(pen, (200, 105), "THE LAST LIGHTHOUSE  8:15", font(18, MONO))
    return [
        drawn(
            books,
            Asked("Quel genre de magasin est-ce ?", "une librairie", "short", "fr"),
            Asked("Jusqu’à quelle heure est-il ouvert ?", "Jusqu’à 19 heures.", "reading", "fr"),
            Asked("What colour is the door?", "brown"),
        ),
        drawn(
            bread,
            Asked(
                "Che cosa vende probabilmente questo negozio?",
                "Pane: « forno » è una panetteria.",
                "sentence",
                "it",
            ),
            Asked("Quando è chiuso?", "Il lunedì.", "reading", "it"),
            Asked("Read the name of the shop.", "FORNO ROSSI", "reading"),
            Asked("هل الباب على اليمين؟", "نعم", "yes/no", "ar"),
        ),
        drawn(
            _grained(random, park),
            Asked("When does the park close?", "at 9 pm", "reading"),
            Asked("May a dog run free here?", "No, dogs must be on a leash.", "sentence"),
            Asked("公園の名前は何ですか。", "Riverside Park です。", "reading", "ja"),
            photographic=True,
        ),
        drawn(
            cinema,
            Asked("Which film is shown, and when?", "The Last Lighthouse, at 8:15.", "reading"),
            Asked("Como se chama o cinema?", "ODEON", "reading", "pt"),
        ),
    ]


def _labels() -> list[Drawn]:
    jar, pen = canvas(200, 260, (236, 232, 226))
    box(pen, (40, 40, 160, 240), radius=22, fill=(150, 26, 50), outline=(80, 10, 24), width=3)
    box(pen, (46, 22, 154, 52), fill=(200, 170, 90))
    pen.rectangle((44, 100, 156, 190), fill=(255, 250, 238))
    centred(pen, (100, 145), "Himbeere\nKonfitüre\n\n250 g", font(15, SERIF_ITALIC))
    parcel, pen = canvas(340, 220, (190, 150, 104))
    pen.rectangle((30, 30, 310, 190), fill=(255, 255, 255))
    pen.multiline_text(
        (44, 42),
        "TO\nMs Ana Duarte\nRua das Flores 31\n4050-265 Porto\nPORTUGAL",
        font=font(15, BOLD),
        fill=INK,
    )
    for place, wide in enumerate([2, 1, 3, 1, 1, 2, 4, 1, 2, 2, 1, 3, 1, 2, 1, 1, 4, 2, 1, 3]):
        pen.rectangle((44 + 11 * place, 150, 44 + 11 * place + wide * 2, 180), fill=(0, 0, 0))
    plate, pen = canvas(300, 96, (70, 72, 78))
    box(pen, (14, 16, 286, 80), fill=(250, 250, 246), outline=(20, 20, 20), width=3)
    centred(pen, (150, 48), "KX 47 · 902", font(38, BOLD))
    bottle, pen = canvas(140, 240, (216, 232, 240))
    box(pen, (40, 60, 100, 230), radius=14, fill=(250, 250, 252), outline=(120, 130, 150), width=2)
    pen.rectangle((54, 24, 86, 60), fill=(40, 90, 180))
    centred(pen, (70, 140), "СИРОП\nот кашля\n100 мл\n\n3 раза\nв день", font(9, BOLD), (20, 60, 140))
    return [
        drawn(
            jar,
            Asked("Was ist in dem Glas?", "Himbeerkonfitüre", "reading", "de"),
            Asked("How much does the jar hold?", "250 g", "reading"),
            Asked("What colour is the lid?\nA. blue\nB. gold\nC. white", "B", "choice"),
        ),
        drawn(
            parcel,
            Asked("To which city is the parcel going?", "Porto", "reading"),
            Asked("Qual é o código postal?", "4050-265", "reading", "pt"),
            Asked(
                "Copy the address in one line.",
                "Ms Ana Duarte, Rua das Flores 31, 4050-265 Porto, PORTUGAL",
                "reading",
            ),
        ),
        drawn(
            plate,
            Asked("Read the plate.", "KX 47 · 902", "reading"),
            Asked("How many digits are on it?", "5", "count"),
        ),
        drawn(
            bottle,
            Asked("Сколько раз в день принимать сироп?", "Три раза в день.", "reading", "ru"),
            Asked("Is the cap blue?", "yes", "yes/no"),
        ),
    ]


def hand(
    random: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    fill: RGB,
) -> None:
    """Write a line letter by letter, each a little higher, larger or more slanted than the last."""
    x, y = place
    drift = 0.0
    for letter in text:
        face = font(size + int(random.integers(-1, 2)), SCRIPT)
        drift = 0.8 * drift + random.normal(0, 0.9)
        pen.text((x, y + drift), letter, font=face, fill=fill, stroke_width=int(random.random() < 0.25))
        x += face.getlength(letter) + random.normal(0, 0.5)


def _sheet(random: np.random.Generator, lines: list[str], ink: RGB, ground: RGB, rule: RGB) -> Image.Image:
    image, pen = canvas(340, 44 + 36 * len(lines), ground)
    for number, line in enumerate(lines):
        y = 24 + 36 * number
        pen.line((0, y + 30, 340, y + 30), fill=rule)
        hand(random, pen, (24, y), line, 25, ink)
    return image.rotate(float(random.uniform(-1.5, 1.5)), Image.Resampling.BICUBIC, fillcolor=ground)


def _written(random: np.random.Generator) -> list[Drawn]:
    shopping = ["Shopping", "- 6 eggs", "- oat milk", "- 2 lemons", "- candles"]
    card = ["Liebe Oma,", "hier regnet es jeden Tag,", "aber das Meer ist warm.", "Bis Sonntag! Dein Jonas"]
    board = ["Devoirs pour jeudi :", "p. 84, ex. 3 et 5", "apporter le compas"]
    note = ["Gone to the post office,", "back at half past four.", "The key is under the pot."]
    return [
        drawn(
            _sheet(random, shopping, (20, 30, 110), (255, 253, 244), (190, 210, 236)),
            Asked("How many eggs are on the list?", "6", "reading"),
            Asked("Write out the list.", "6 eggs\noat milk\n2 lemons\ncandles", "list"),
        ),
        drawn(
            _sheet(random, card, (30, 30, 34), (250, 244, 232), (250, 244, 232)),
            Asked("Wer hat die Karte geschrieben?", "Jonas", "reading", "de"),
            Asked("Wie ist das Wetter?", "Es regnet jeden Tag.", "reading", "de"),
        ),
        drawn(
            _sheet(random, board, (244, 246, 240), (36, 62, 48), (36, 62, 48)),
            Asked("Quels exercices faut-il faire ?", "Les exercices 3 et 5 de la page 84.", "sentence", "fr"),
            Asked("What must be brought?", "a pair of compasses (le compas)"),
        ),
        drawn(
            _sheet(random, note, (120, 24, 30), (255, 246, 160), (255, 246, 160)),
            Asked("Where is the key?", "under the pot", "reading"),
            Asked("متى سيعود كاتب الورقة؟", "في الساعة الرابعة والنصف.", "sentence", "ar"),
        ),
    ]
