"""Screens of programs: settings, a login, a chat, a file manager, an error, a player, an editor, a page."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image, ImageDraw

from drawing import (
    BOLD,
    INK,
    MONO,
    RGB,
    SANS,
    Asked,
    Drawn,
    box,
    canvas,
    centred,
    drawn,
    font,
    paragraph,
    wrapped,
)

BLUE, PALE, GREY = (40, 100, 220), (242, 244, 248), (120, 124, 134)


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [_settings(), _login(), _chat(), _files(), _fault(), _player(), _editor(), _shop()]


def _window(
    width: int, height: int, title: str, ground: RGB = PALE
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A window with a title bar of 28 pixels."""
    image, pen = canvas(width, height, ground)
    pen.rectangle((0, 0, width, 28), fill=(52, 56, 66))
    for place, tone in enumerate([(240, 90, 80), (240, 190, 70), (90, 200, 90)]):
        pen.ellipse((10 + 18 * place, 9, 20 + 18 * place, 19), fill=tone)
    centred(pen, (width / 2, 14), title, font(12, BOLD), (235, 235, 240))
    return image, pen


def _settings() -> Drawn:
    image, pen = canvas(240, 400, PALE)
    pen.text((16, 16), "Settings", font=font(22, BOLD), fill=INK)
    rows = [
        ("Wi-Fi", True),
        ("Bluetooth", False),
        ("Flight mode", False),
        ("Dark theme", True),
        ("Location", True),
    ]
    for place, (name, on) in enumerate(rows):
        y = 64 + 58 * place
        box(pen, (10, y, 230, y + 48), fill=(255, 255, 255))
        pen.text((22, y + 24), name, font=font(14), fill=INK, anchor="lm")
        box(pen, (176, y + 13, 218, y + 35), radius=11, fill=(50, 180, 90) if on else (200, 202, 208))
        x = 207 if on else 187
        pen.ellipse((x - 9, y + 15, x + 9, y + 33), fill=(255, 255, 255))
    return drawn(
        image,
        Asked("Which settings are switched off?", "Bluetooth and flight mode", "list"),
        Asked("Is the dark theme on?", "yes", "yes/no"),
        Asked("Return all switches as JSON.", json.dumps(dict(rows)), "json"),
        Asked("Wi-Fi はオンですか。", "はい、オンです。", "yes/no", "ja"),
    )


def _login() -> Drawn:
    image, pen = canvas(300, 260, (222, 232, 246))
    box(pen, (30, 20, 270, 240), radius=12, fill=(255, 255, 255))
    centred(pen, (150, 50), "Anmelden", font(20, BOLD))
    for y, name, value in ((76, "E-Mail", "mara@beispiel.de"), (130, "Passwort", "••••••••")):
        pen.text((50, y), name, font=font(11), fill=GREY)
        box(pen, (50, y + 15, 250, y + 43), outline=(180, 186, 196))
        pen.text((58, y + 29), value, font=font(13), fill=INK, anchor="lm")
    box(pen, (50, 190, 250, 222), fill=BLUE)
    centred(pen, (150, 206), "Weiter", font(14, BOLD), (255, 255, 255))
    return drawn(
        image,
        Asked("Was steht auf dem blauen Knopf?", "Weiter", "reading", "de"),
        Asked("Which address has been entered?", "mara@beispiel.de", "reading"),
        Asked("Can the password be read?", "No, it is hidden by dots.", "sentence"),
    )


def _chat() -> Drawn:
    image, pen = canvas(280, 380, (232, 238, 232))
    pen.rectangle((0, 0, 280, 40), fill=(20, 110, 100))
    pen.text((16, 20), "Lucía", font=font(16, BOLD), fill=(255, 255, 255), anchor="lm")
    y = 54
    for mine, text in (
        (False, "¿Vienes al cine esta noche?"),
        (True, "¡Claro! ¿A qué hora empieza?"),
        (False, "A las nueve y cuarto. Quedamos a las nueve en la puerta."),
        (True, "Perfecto, llevo las entradas."),
    ):
        left = 70 if mine else 12
        high = 16 + 18 * len(wrapped(text, font(13), 178))
        box(
            pen, (left, y, left + 198, y + high), radius=10, fill=(214, 248, 196) if mine else (255, 255, 255)
        )
        paragraph(pen, (left + 10, y + 7), text, font(13), 178)
        y += high + 14
    return drawn(
        image,
        Asked("¿A qué hora empieza la película?", "A las nueve y cuarto.", "reading", "es"),
        Asked("¿Dónde quedan?", "En la puerta del cine, a las nueve.", "sentence", "es"),
        Asked("Who brings the tickets?", "The owner of the phone, who writes in the green bubbles."),
        Asked("How many messages did Lucía send?", "2", "count"),
    )


def _files() -> Drawn:
    image, pen = _window(420, 230, "Documents", (255, 255, 255))
    rows = [
        ("budget.xlsx", "48 KB", "12 May"),
        ("holiday.jpg", "3.2 MB", "02 Aug"),
        ("letter.odt", "19 KB", "30 Jan"),
        ("song.mp3", "5.7 MB", "11 Nov"),
        ("notes.txt", "2 KB", "yesterday"),
    ]
    for x, name in ((44, "name"), (230, "size"), (320, "changed")):
        pen.text((x, 44), name, font=font(12, BOLD), fill=GREY, anchor="lm")
    for place, (name, size, date) in enumerate(rows):
        y = 76 + 30 * place
        if place == 1:
            pen.rectangle((8, y - 14, 412, y + 14), fill=(206, 224, 252))
        pen.rectangle((18, y - 9, 32, y + 9), outline=BLUE, fill=(226, 236, 255))
        for x, text in ((44, name), (230, size), (320, date)):
            pen.text((x, y), text, font=font(13), fill=INK, anchor="lm")
    return drawn(
        image,
        Asked("Which file is selected?", "holiday.jpg", "reading"),
        Asked("Which file is the largest?", "song.mp3, with 5.7 MB"),
        Asked("List the names of all files.", "\n".join(name for name, _, _ in rows), "list"),
        Asked("哪个文件是昨天修改的？", "notes.txt", "reading", "zh"),
    )


def _fault() -> Drawn:
    image, pen = _window(360, 170, "Installation")
    pen.polygon([(46, 56), (76, 108), (16, 108)], fill=(246, 190, 40))
    centred(pen, (46, 92), "!", font(26, BOLD))
    paragraph(
        pen,
        (96, 52),
        "L’espace disque est insuffisant : 1,4 Go nécessaires, 0,9 Go disponibles.",
        font(13),
        250,
    )
    for x, name, fill in ((150, "Annuler", (255, 255, 255)), (250, "Réessayer", (206, 224, 252))):
        box(pen, (x, 124, x + 92, 154), fill=fill, outline=GREY)
        centred(pen, (x + 46, 139), name, font(12))
    return drawn(
        image,
        Asked(
            "Pourquoi l’installation échoue-t-elle ?",
            "Il manque de l’espace disque : 1,4 Go sont nécessaires et 0,9 Go disponibles.",
            "sentence",
            "fr",
        ),
        Asked(
            "How much space must be freed at least?",
            "1.4 GB are needed and 0.9 GB are free, so at least 1.4 - 0.9 = 0.5 GB.",
            "steps",
        ),
        Asked("Which two buttons are there?", "Annuler and Réessayer", "list"),
    )


def _player() -> Drawn:
    image, pen = canvas(220, 320, (26, 24, 40))
    for ring in range(80, 0, -10):
        pen.ellipse(
            (110 - ring, 110 - ring, 110 + ring, 110 + ring), fill=(200 - ring, 60 + ring, 120 + ring // 2)
        )
    centred(pen, (110, 216), "Quiet Harbour", font(16, BOLD), (250, 250, 250))
    centred(pen, (110, 238), "The Paper Lanterns", font(12), (180, 180, 200))
    pen.line((20, 262, 200, 262), fill=(90, 90, 110), width=4)
    pen.line((20, 262, 80, 262), fill=(240, 120, 160), width=4)
    centred(pen, (34, 276), "1:20", font(10), (180, 180, 200))
    centred(pen, (186, 276), "4:00", font(10), (180, 180, 200))
    pen.rectangle((102, 286, 107, 306), fill=(255, 255, 255))
    pen.rectangle((113, 286, 118, 306), fill=(255, 255, 255))
    return drawn(
        image,
        Asked("Which song is playing?", "Quiet Harbour", "reading"),
        Asked("How much of the song is left?", "4:00 - 1:20 = 2:40", "steps"),
        Asked("Chi suona questa canzone?", "The Paper Lanterns", "reading", "it"),
    )


def _editor() -> Drawn:
    code = [
        "def mean(values):",
        "    total = 0",
        "    for value in values:",
        "        total += value",
        "    return total / len(value)",
    ]
    image, pen = _window(400, 170, "mean.py", (30, 32, 38))
    for place, line in enumerate(code):
        y = 50 + 22 * place
        pen.text((14, y), str(place + 1), font=font(13, MONO), fill=(110, 114, 124), anchor="lm")
        pen.text((40, y), line, font=font(13, MONO), fill=(220, 226, 236), anchor="lm")
    return drawn(
        image,
        Asked(
            "There is a mistake in this code. Where, and how is it corrected?",
            "In line 5: `len(value)` should be `len(values)`. `value` is one number, which has no length.",
            "sentence",
        ),
        Asked("Type the code.", "\n".join(code), "code"),
        Asked("Сколько строк в этом файле?", "Пять.", "count", "ru"),
    )


def _shop() -> Drawn:
    image, pen = canvas(560, 320)
    pen.rectangle((0, 0, 560, 44), fill=(90, 40, 110))
    pen.text((18, 22), "Loja Verde", font=font(18, BOLD), fill=(255, 255, 255), anchor="lm")
    pen.text((470, 22), "carrinho (2)", font=font(12), fill=(255, 255, 255), anchor="lm")
    for place, (name, price, tone) in enumerate(
        (
            ("Vaso", "18,00 €", (190, 90, 60)),
            ("Regador", "24,50 €", (80, 150, 110)),
            ("Luvas", "7,90 €", (220, 180, 80)),
        )
    ):
        x = 20 + 180 * place
        box(pen, (x, 64, x + 160, 290), outline=(210, 210, 216), width=2)
        if place == 0:
            pen.polygon([(x + 40, 100), (x + 120, 100), (x + 105, 180), (x + 55, 180)], fill=tone)
        elif place == 1:
            pen.rectangle((x + 50, 110, x + 110, 180), fill=tone)
            pen.line((x + 110, 160, x + 145, 110), fill=tone, width=8)
        else:
            pen.ellipse((x + 40, 120, x + 85, 180), fill=tone)
            pen.ellipse((x + 80, 120, x + 125, 180), fill=tone)
        centred(pen, (x + 80, 210), name, font(15, SANS))
        centred(pen, (x + 80, 232), price, font(14, BOLD))
        box(pen, (x + 30, 250, x + 130, 278), fill=(90, 40, 110))
        centred(pen, (x + 80, 264), "Comprar", font(12, BOLD), (255, 255, 255))
    return drawn(
        image,
        Asked("Qual é o produto mais caro?", "O regador, que custa 24,50 €.", "sentence", "pt"),
        Asked("Quantos artigos estão no carrinho?", "2", "reading", "pt"),
        Asked(
            "What do a pot and the gloves cost together?",
            "The pot (vaso) costs 18,00 € and the gloves (luvas) 7,90 €, together 25,90 €.",
            "steps",
        ),
    )
