"""Papers: receipts, an invoice, forms with ticks, letters and pages with paragraphs."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from drawing import (
    BOLD,
    INK,
    MONO,
    RGB,
    SANS,
    SERIF,
    SERIF_BOLD,
    SERIF_ITALIC,
    Asked,
    Drawn,
    canvas,
    centred,
    drawn,
    font,
    paragraph,
)


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_receipts(random), *_forms(), *_letters(), *_pages(random)]


def receipt(
    head: Sequence[str], rows: Sequence[tuple[str, str]], foot: Sequence[str], width: int = 230
) -> Image.Image:
    """A till receipt: centred head and foot, rows with an amount at the right; "-" draws a line."""
    letters = font(12, MONO)
    image, pen = canvas(width, 24 + 17 * (len(head) + len(rows) + len(foot)), (250, 249, 244))
    y = 20
    for number, line in enumerate(head):
        centred(pen, (width / 2, y), line, font(15, BOLD) if number == 0 else letters)
        y += 17
    for name, amount in rows:
        if name == "-":
            pen.line((10, y, width - 10, y), fill=(120, 120, 120))
        pen.text((12, y), name.strip("-"), font=letters, fill=INK, anchor="lm")
        pen.text((width - 12, y), amount, font=letters, fill=INK, anchor="rm")
        y += 17
    for line in foot:
        centred(pen, (width / 2, y), line, letters)
        y += 17
    return image


def photographed(random: np.random.Generator, paper: Image.Image, angle: float) -> Image.Image:
    """A paper on a table, turned, a little out of focus, unevenly lit and noisy."""
    size = (paper.width + 60, paper.height + 50)
    under = Image.new("RGB", size, (96, 66, 44))
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    sheet.paste(paper, (30, 25))
    turned = sheet.rotate(angle, Image.Resampling.BICUBIC)
    under.paste(turned, (0, 0), turned)
    pixels = np.asarray(under.filter(ImageFilter.GaussianBlur(0.5))).astype(float)
    down, across = np.mgrid[0 : size[1], 0 : size[0]]
    pixels *= (1.05 - 0.3 * across / size[0] - 0.15 * down / size[1])[..., None]
    pixels += random.normal(0, 3, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _receipts(random: np.random.Generator) -> list[Drawn]:
    bakery = [
        ("Roggenbrot", "3,90"),
        ("4 Brötchen", "1,80"),
        ("Apfelkuchen", "2,70"),
        ("-", ""),
        ("SUMME EUR", "8,40"),
    ]
    german = receipt(
        ["Bäckerei Sommer", "Hauptstr. 12"],
        [*bakery, ("Bar", "10,00"), ("Rückgeld", "1,60")],
        ["Vielen Dank"],
    )
    market = [
        ("Manzanas 1,2 kg", "2,64"),
        ("Leche", "0,95"),
        ("Pan", "1,10"),
        ("Aceite 1 l", "8,75"),
        ("-", ""),
        ("TOTAL", "13,44"),
    ]
    spanish = receipt(["Mercado Luna", "14/11/2023"], market, ["Gracias por su visita"], 250)
    return [
        _coffee(),
        drawn(
            photographed(random, german, 4.0),
            Asked("Wie viel Rückgeld gab es?", "1,60 Euro", "reading", "de"),
            Asked(
                "Stimmt die Summe? Rechne nach.",
                "3,90 + 1,80 = 5,70 und 5,70 + 2,70 = 8,40. Die Summe auf dem Bon ist 8,40 Euro; sie stimmt.",
                "steps",
                "de",
            ),
            Asked("What is the name of the bakery?", "Bäckerei Sommer", "reading"),
            photographic=True,
        ),
        drawn(
            photographed(random, spanish, -6.0),
            Asked("¿Qué producto es el más caro?", "El aceite, con 8,75.", "sentence", "es"),
            Asked("¿De qué fecha es el recibo?", "14 de noviembre de 2023", "reading", "es"),
            Asked("Read the total.", "13,44", "reading"),
            photographic=True,
        ),
    ]


def _coffee() -> Drawn:
    coffee = {
        "shop": "Corner Coffee",
        "date": "2024-03-09",
        "items": [
            {"name": "Flat white", "count": 2, "price": 7.0},
            {"name": "Carrot cake", "count": 1, "price": 4.25},
            {"name": "Water", "count": 1, "price": 1.8},
        ],
        "total": 13.05,
    }
    shop = [
        ("2 Flat white", "7.00"),
        ("1 Carrot cake", "4.25"),
        ("1 Water", "1.80"),
        ("-", ""),
        ("TOTAL", "13.05"),
    ]
    english = receipt(["Corner Coffee", "9 March 2024  10:41"], [*shop, ("CARD", "13.05")], ["Thank you!"])

    return drawn(
        english,
        Asked("Extract shop, date, items and total as JSON.", json.dumps(coffee), "json"),
        Asked("What did the cake cost?", "4.25", "reading"),
        Asked("How was it paid?", "by card"),
    )


def _field(pen: ImageDraw.ImageDraw, y: int, label: str, value: str, width: int) -> None:
    pen.text((14, y), label, font=font(11), fill=(90, 90, 100))
    pen.rectangle((14, y + 16, width - 14, y + 40), outline=(130, 130, 140))
    pen.text((20, y + 28), value, font=font(14, SERIF_ITALIC), fill=(20, 30, 120), anchor="lm")


def _tick(pen: ImageDraw.ImageDraw, x: int, y: int, label: str, ticked: bool) -> None:
    pen.rectangle((x, y, x + 14, y + 14), outline=INK, width=2)
    if ticked:
        pen.line((x + 2, y + 7, x + 6, y + 12, x + 14, y - 3), fill=(20, 30, 140), width=3)
    pen.text((x + 22, y + 7), label, font=font(12), fill=INK, anchor="lm")


def _forms() -> list[Drawn]:
    library, pen = canvas(320, 300, (252, 252, 250))
    pen.text((14, 12), "Library card: application", font=font(16, BOLD), fill=INK)
    _field(pen, 44, "Name", "Irene Falk", 320)
    _field(pen, 92, "Address", "8 Mill Lane, Ashby", 320)
    _field(pen, 140, "Date of birth", "17 June 1991", 320)
    for number, (label, ticked) in enumerate([("adult", True), ("child", False), ("student", False)]):
        _tick(pen, 16 + 96 * number, 204, label, ticked)
    _tick(pen, 16, 240, "Send me news by e-mail", False)
    _tick(pen, 16, 268, "I accept the rules of the library", True)
    survey, pen = canvas(300, 240, (238, 246, 252))
    pen.text((14, 12), "Questionnaire", font=font(17, BOLD), fill=(0, 60, 110))
    for number, (line, mark) in enumerate(
        [("L’accueil", 4), ("Le repas", 3), ("La chambre", 5), ("Le prix", 2)]
    ):
        pen.text((14, 66 + 40 * number), line, font=font(13), fill=INK, anchor="lm")
        for place in range(1, 6):
            x, y = 120 + 32 * place, 66 + 40 * number
            pen.ellipse(
                (x - 9, y - 9, x + 9, y + 9), outline=INK, fill=(0, 90, 160) if place == mark else None
            )
            if number == 0:
                centred(pen, (x, 42), str(place), font(11))
    return [
        drawn(
            library,
            Asked("Who applies for the card?", "Irene Falk", "reading"),
            Asked("Does she want news by e-mail?", "No, that box is not ticked.", "sentence"),
            Asked(
                "Return the fields of the form as JSON.",
                json.dumps(
                    {
                        "name": "Irene Falk",
                        "address": "8 Mill Lane, Ashby",
                        "date_of_birth": "1991-06-17",
                        "kind": "adult",
                        "news": False,
                        "rules_accepted": True,
                    }
                ),
                "json",
            ),
        ),
        drawn(
            survey,
            Asked("Quelle note a reçu la chambre ?", "5", "reading", "fr"),
            Asked(
                "Qu’est-ce qui a été jugé le moins bon ?",
                "Le prix, avec une note de 2 sur 5.",
                "sentence",
                "fr",
            ),
            Asked(
                "What is the mean of the four marks?",
                "The marks are 4, 3, 5 and 2. Their sum is 14, and 14 / 4 = 3.5.",
                "steps",
            ),
        ),
    ]


def page(
    title: str, text: str, width: int, face: str = SERIF, size: int = 13, ground: RGB = (253, 252, 248)
) -> Image.Image:
    """A page with a title and paragraphs, as high as it needs to be."""
    tall, pen = canvas(width, 900, ground)
    y = 16
    if title:
        y = 8 + paragraph(
            pen, (24, 20), title, font(size + 5, SERIF_BOLD if face == SERIF else BOLD), width - 48
        )
    y = paragraph(pen, (24, y), text, font(size, face), width - 48)
    return tall.crop((0, 0, width, y + 16))


def _letters() -> list[Drawn]:
    letter = page(
        "",
        "14 Rose Court\nEastbridge\n\n3 October 2022\n\nDear Mr Anders,\n\nthe repair of your violin is"
        " finished. The crack in the top has been glued and the bridge was replaced. The bill is 145 pounds."
        " You can collect the instrument on any weekday between ten and six, except on Wednesdays.\n\nYours"
        " sincerely,\nClara Whitlock",
        400,
    )
    notice = page(
        "Avviso ai condomini",
        "Lunedì 6 maggio, dalle ore 9 alle ore 13, l’acqua sarà interrotta in tutto l’edificio per lavori"
        " alle tubature. Si prega di chiudere i rubinetti e di non usare la lavatrice.\nL’ascensore resterà"
        " in funzione.\n\nL’amministratore",
        340,
        SANS,
        13,
        (255, 248, 214),
    )
    memo = page(
        "Заметка",
        "Собрание переносится со среды на пятницу, 18 апреля, в 15:30. Место прежнее: зал на втором этаже."
        "\nПросьба принести отчёты за март.",
        320,
        SANS,
        14,
    )
    return [
        drawn(
            letter,
            Asked("What was repaired?", "a violin"),
            Asked("On which weekday can it not be collected?", "On Wednesday.", "reading"),
            Asked(
                "Summarise the letter in two sentences.",
                "Clara Whitlock tells Mr Anders that his violin has been repaired: the crack was glued and"
                " the bridge replaced. He can collect it on weekdays between ten and six except Wednesdays,"
                " and the bill is 145 pounds.",
                "caption",
            ),
        ),
        drawn(
            notice,
            Asked("Quando manca l’acqua?", "Lunedì 6 maggio, dalle 9 alle 13.", "reading", "it"),
            Asked("L’ascensore funziona durante i lavori?", "Sì, resta in funzione.", "sentence", "it"),
            Asked("Translate the title of this notice.", "Notice to the residents"),
        ),
        drawn(
            memo,
            Asked("На какой день перенесли собрание?", "На пятницу, 18 апреля.", "reading", "ru"),
            Asked("Что нужно принести?", "Отчёты за март.", "reading", "ru"),
            Asked("At what time does the meeting begin?", "15:30", "reading"),
        ),
    ]


def _pages(random: np.random.Generator) -> list[Drawn]:
    science = page(
        "3.2  Why the sky is blue",
        "Sunlight holds all colours. When it crosses the air, molecules scatter it into all directions, and"
        " short waves much more than long ones: the scattered power grows with the inverse fourth power of"
        " the wavelength. Blue light, with about 450 nm, is scattered some four times as much as red light"
        " with 650 nm.\nIn the evening the light travels a longer way through the air. Most of the blue has"
        " then left the beam, and the sun looks red.",
        440,
    )
    recipe = page(
        "Crêpes (pour 4 personnes)",
        "250 g de farine\n3 œufs\n½ litre de lait\n50 g de beurre fondu\n1 pincée de sel\n\nMélanger la"
        " farine, le sel et les œufs, verser le lait peu à peu, puis le beurre. Laisser reposer une heure."
        " Cuire deux minutes de chaque côté.",
        300,
        SERIF,
        14,
        (255, 244, 236),
    )
    return [
        drawn(
            photographed(random, science, 1.5),
            Asked("What is the number of this section?", "3.2", "reading"),
            Asked(
                "Why does the setting sun look red, according to the page?",
                "Its light travels a longer way through the air, where most of the blue is scattered out of"
                " the beam.",
                "sentence",
            ),
            Asked(
                "Check the factor “some four times” for 450 and 650 nm.",
                "The scattered power goes with the inverse fourth power of the wavelength, so the ratio is"
                " (650 / 450)^4. 650 / 450 is about 1.444; its square is about 2.086, and the square of that"
                " about 4.35. So “some four times” is right.",
                "steps",
            ),
            photographic=True,
        ),
        drawn(
            recipe,
            Asked("Combien d’œufs faut-il ?", "3", "reading", "fr"),
            Asked(
                "Donne la liste des ingrédients.",
                "- 250 g de farine\n- 3 œufs\n- ½ litre de lait\n- 50 g de beurre fondu\n- 1 pincée de sel",
                "list",
                "fr",
            ),
            Asked("How long must the batter rest?", "one hour", "reading"),
        ),
    ]
