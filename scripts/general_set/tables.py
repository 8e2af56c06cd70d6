"""Tables: timetables, results, prices, a calendar, a periodic table's corner, a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from drawing import BOLD, INK, MONO, RGB, SANS, SERIF, Asked, Drawn, canvas, drawn, font

Rows = Sequence[Sequence[str]]


def table(
    title: str,
    rows: Rows,
    face: str = SANS,
    size: int = 13,
    head: RGB = (222, 228, 240),
    ground: RGB = (255, 255, 255),
    lines: bool = True,
) -> Image.Image:
    """A table with a title; its first row is the head."""
    letters, pad = font(size, face), 8
    bold = font(size, BOLD)
    widths = [
        int(max((bold if row is rows[0] else letters).getlength(row[column]) for row in rows)) + 2 * pad
        for column in range(len(rows[0]))
    ]
    step, top = int(size * 1.9), int(size * 2.4) if title else pad
    width = max(sum(widths), int(bold.getlength(title))) + 2 * pad
    image, pen = canvas(width, top + step * len(rows) + pad, ground)
    pen.text((pad, pad), title, font=bold, fill=INK)
    for number, row in enumerate(rows):
        y = top + number * step
        if number == 0:
            pen.rectangle((pad, y, pad + sum(widths), y + step), fill=head)
        elif not lines and number % 2 == 0:
            pen.rectangle((pad, y, pad + sum(widths), y + step), fill=tuple(part - 14 for part in ground))
        x = pad
        for cell, wide in zip(row, widths, strict=True):
            if lines:
                pen.rectangle((x, y, x + wide, y + step), outline=(120, 120, 130))
            pen.text(
                (x + pad, y + step / 2), cell, font=bold if number == 0 else letters, fill=INK, anchor="lm"
            )
            x += wide
    return image


TRAINS = [
    ("train", "from", "to", "departs", "arrives", "platform"),
    ("R 17", "Northgate", "Millbrook", "07:42", "08:15", "3"),
    ("E 204", "Northgate", "Harbour", "08:05", "09:40", "1"),
    ("R 19", "Northgate", "Millbrook", "08:42", "09:15", "3"),
    ("N 6", "Northgate", "Airport", "09:10", "09:31", "5"),
]
LEAGUE = [
    ("", "Verein", "Sp.", "S", "U", "N", "Tore", "Pkt."),
    ("1", "SV Talheim", "10", "8", "1", "1", "24:9", "25"),
    ("2", "FC Auwald", "10", "6", "2", "2", "19:11", "20"),
    ("3", "TuS Bergen", "10", "4", "3", "3", "15:15", "15"),
    ("4", "SC Moorsee", "10", "1", "2", "7", "8:22", "5"),
]
MENU = [
    ("plato", "ración", "media"),
    ("Tortilla de patatas", "7,50 €", "4,20 €"),
    ("Ensalada mixta", "6,00 €", "3,50 €"),
    ("Calamares", "11,80 €", "6,90 €"),
    ("Queso manchego", "9,40 €", "5,10 €"),
]
PLANETS = [
    ("planet", "diameter (km)", "moons", "rotation"),
    ("Mercury", "4 879", "0", "1 408 h"),
    ("Venus", "12 104", "0", "5 833 h"),
    ("Earth", "12 756", "1", "24 h"),
    ("Mars", "6 792", "2", "25 h"),
]
SHEET = [
    ("", "A", "B", "C", "D"),
    ("1", "item", "count", "price", "total"),
    ("2", "paper", "12", "3.50", "42.00"),
    ("3", "ink", "2", "18.25", "36.50"),
    ("4", "tape", "5", "1.20", "6.00"),
    ("5", "sum", "", "", "84.50"),
]
MAY = [
    ("Пн", "Вт", "Ср", "Чт", "Пт", "Сб", "Вс"),
    ("", "", "1", "2", "3", "4", "5"),
    ("6", "7", "8", "9", "10", "11", "12"),
    ("13", "14", "15", "16", "17", "18", "19"),
    ("20", "21", "22", "23", "24", "25", "26"),
    ("27", "28", "29", "30", "31", "", ""),
]


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_english(), *_others()]


def _english() -> list[Drawn]:
    planets = [dict(zip(PLANETS[0], row, strict=True)) for row in PLANETS[1:]]
    return [
        drawn(
            table("Departures", TRAINS, size=12),
            Asked("From which platform does the train to the airport leave?", "platform 5", "reading"),
            Asked(
                "How long does train E 204 take to the Harbour? Show your steps.",
                "It departs at 08:05 and arrives at 09:40. From 08:05 to 09:05 is one hour, and from 09:05 to"
                " 09:40 are 35 minutes more. The journey takes 1 hour and 35 minutes.",
                "steps",
            ),
            Asked("How many trains go to Millbrook?", "2", "count"),
        ),
        drawn(
            table("Inner planets", PLANETS, SERIF, 14, head=(250, 226, 190)),
            Asked("Which planet takes longest to turn once?", "Venus"),
            Asked("Write the table as a JSON list.", json.dumps(planets), "json"),
            Asked("地球有几个卫星？", "1个", "count", "zh"),
            Asked("火星の衛星はいくつですか。", "2つです。", "count", "ja"),
        ),
        drawn(
            table("", SHEET, MONO, 13, head=(230, 230, 230)),
            Asked("What is in cell C3?", "18.25", "reading"),
            Asked(
                "Which formula would give the value of D5?",
                "=SUM(D2:D4), since 42.00 + 36.50 + 6.00 = 84.50.",
                "sentence",
            ),
            Asked("Which item costs the most in total?", "paper"),
        ),
    ]


def _others() -> list[Drawn]:
    return [
        drawn(
            table("Kreisliga, 10. Spieltag", LEAGUE, size=12, lines=False, ground=(246, 250, 244)),
            Asked("Wie viele Punkte hat der FC Auwald?", "20", "reading", "de"),
            Asked(
                "Welcher Verein hat am häufigsten verloren?",
                "Der SC Moorsee mit sieben Niederlagen.",
                "sentence",
                "de",
            ),
            Asked("Which team leads the table?", "SV Talheim"),
        ),
        drawn(
            table("Carta", MENU, SERIF, 14, head=(240, 214, 170), ground=(255, 250, 238)),
            Asked("¿Cuánto cuesta media ración de calamares?", "6,90 €", "reading", "es"),
            Asked("¿Cuál es el plato más barato?", "La ensalada mixta.", "short", "es"),
            Asked("How much do two full portions of tortilla cost?", "2 × 7,50 € = 15,00 €", "steps"),
        ),
        drawn(
            table("Май", MAY, size=13, head=(240, 200, 200)),
            Asked("Какой день недели девятое мая?", "Четверг.", "short", "ru"),
            Asked("Сколько воскресений в этом месяце?", "Четыре.", "count", "ru"),
            Asked("On which day of the week does the month begin?", "On a Wednesday (Ср)."),
        ),
    ]
