"""Clocks, gauges and other things that are read off: dials, a thermometer, a ruler, scales, a battery,
dice.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from drawing import BOLD, INK, MONO, RGB, SERIF, Asked, Drawn, box, canvas, centred, drawn, font, shrunk

ASKED_TIME = {
    "en": "What time does the clock show?",
    "de": "Wie spät ist es auf der Uhr?",
    "fr": "Quelle heure indique l’horloge ?",
    "es": "¿Qué hora marca el reloj?",
    "it": "Che ora segna l’orologio?",
    "pt": "Que horas marca o relógio?",
    "ru": "Который час на часах?",
    "zh": "钟上是几点？",
    "ja": "時計は何時を指していますか。",
    "ar": "كم الساعة؟",
    "hi": "घड़ी में क्या समय है?",
}


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_clocks(), _speed(), _warmth(), _ruler(), _digital(), _battery(), _dice(random), _scales()]


def clock(side: int, hour: int, minute: int, face: RGB, rim: RGB, numbers: bool) -> Image.Image:
    """The face of a clock with two hands."""
    image, pen = canvas(side * 3, side * 3, (226, 226, 220))
    middle, reach = side * 1.5, side * 1.38
    pen.ellipse(
        (middle - reach, middle - reach, middle + reach, middle + reach),
        fill=face,
        outline=rim,
        width=side // 8,
    )
    for tick in range(60):
        turn, long = tick * math.pi / 30, 0.78 if tick % 5 == 0 else 0.84
        ends = [
            (middle + reach * r * math.sin(turn), middle - reach * r * math.cos(turn)) for r in (long, 0.88)
        ]
        pen.line(ends, fill=INK, width=6 if tick % 5 == 0 else 2)
    for number in range(1, 13) if numbers else ():
        turn = number * math.pi / 6
        place = middle + reach * 0.64 * math.sin(turn), middle - reach * 0.64 * math.cos(turn)
        centred(pen, place, str(number), font(side // 3, SERIF))
    for turn, long, wide in (
        ((hour % 12 + minute / 60) * math.pi / 6, 0.46, side // 9),
        (minute * math.pi / 30, 0.72, side // 14),
    ):
        end = middle + reach * long * math.sin(turn), middle - reach * long * math.cos(turn)
        pen.line([(middle, middle), end], fill=INK, width=wide)
    pen.ellipse((middle - 10, middle - 10, middle + 10, middle + 10), fill=rim)
    return shrunk(image, 3)


def _clocks() -> list[Drawn]:
    faces = [
        (120, 3, 0, (255, 255, 255), (40, 40, 44), True, "de", "Drei Uhr."),
        (160, 7, 30, (250, 240, 214), (120, 70, 30), True, "es", "Son las siete y media."),
        (96, 10, 10, (236, 244, 255), (20, 60, 130), False, "fr", "Dix heures dix."),
        (200, 4, 45, (255, 255, 250), (150, 30, 30), True, "ru", "Без четверти пять."),
        (128, 9, 15, (230, 250, 232), (20, 90, 50), True, "ja", "9時15分です。"),
    ]
    found = []
    for side, hour, minute, face, rim, numbers, language, answer in faces:
        found.append(
            drawn(
                clock(side, hour, minute, face, rim, numbers),
                Asked(ASKED_TIME["en"], f"{hour}:{minute:02}", "reading"),
                Asked(ASKED_TIME[language], answer, "reading", language),
                Asked("Are there numbers on the dial?", "yes" if numbers else "no", "yes/no"),
                Asked(
                    "What time will it be in half an hour?",
                    f"The clock shows {hour}:{minute:02}. Half an hour later it is"
                    f" {(hour - 1 + (minute + 30) // 60) % 12 + 1}:{(minute + 30) % 60:02}.",
                    "steps",
                ),
            )
        )
    return found


def _speed() -> Drawn:
    image, pen = canvas(660, 420, (24, 26, 32))
    for number in range(0, 241, 20):
        turn = math.pi * (1 + number / 240)
        ends = [(330 + r * math.cos(turn), 360 + r * math.sin(turn)) for r in (255, 285)]
        pen.line(ends, fill=(250, 60, 50) if number >= 180 else (240, 240, 240), width=8)
        centred(
            pen,
            (330 + 222 * math.cos(turn), 360 + 222 * math.sin(turn)),
            str(number),
            font(26),
            (240, 240, 240),
        )
    turn = math.pi * (1 + 80 / 240)
    pen.line(
        [(330, 360), (330 + 190 * math.cos(turn), 360 + 190 * math.sin(turn))], fill=(255, 120, 30), width=10
    )
    pen.ellipse((312, 342, 348, 378), fill=(200, 200, 200))
    centred(pen, (330, 260), "km/h", font(26), (200, 200, 210))
    return drawn(
        shrunk(image, 3),
        Asked("How fast is the car going?", "80 km/h", "reading"),
        Asked("From which speed on are the marks red?", "from 180 km/h"),
        Asked("指针指向多少？", "80", "reading", "zh"),
    )


def _warmth() -> Drawn:
    image, pen = canvas(100, 260, (240, 246, 250))
    box(pen, (40, 16, 60, 220), radius=10, fill=(255, 255, 255), outline=(120, 120, 130), width=2)
    pen.ellipse((32, 208, 68, 244), fill=(210, 30, 40))
    pen.rectangle((46, 220 - 4 * 32, 54, 220), fill=(210, 30, 40))
    for degree in range(0, 50, 10):
        y = 212 - 4 * degree
        pen.line((62, y, 72, y), fill=INK)
        pen.text((76, y), str(degree), font=font(10), fill=INK, anchor="lm")
    return drawn(
        image,
        Asked("About what temperature is shown?", "30 °C", "reading"),
        Asked("हवा का तापमान लगभग कितना है?", "30 °C", "reading", "hi"),
        Asked(
            "Würde Wasser bei dieser Temperatur gefrieren?",
            "Nein, Wasser gefriert erst bei 0 °C.",
            "sentence",
            "de",
        ),
    )


def _ruler() -> Drawn:
    image, pen = canvas(420, 110, (206, 190, 166))
    pen.rectangle((10, 50, 410, 100), fill=(250, 226, 120), outline=INK)
    for tick in range(101):
        x = 20 + 3.8 * tick
        pen.line((x, 50, x, 50 + (16 if tick % 10 == 0 else 11 if tick % 5 == 0 else 6)), fill=INK)
        if tick % 10 == 0:
            centred(pen, (x, 78), str(tick // 10), font(13))
    pen.polygon(
        [(20, 36), (20 + 3.8 * 65 - 16, 28), (20 + 3.8 * 65, 36), (20 + 3.8 * 65 - 16, 44)],
        fill=(40, 110, 60),
    )
    return drawn(
        image,
        Asked("How long is the green pencil in centimetres?", "6.5", "reading"),
        Asked("Quanto misura o lápis verde?", "6,5 cm", "reading", "pt"),
        Asked("Up to which number does the ruler go?", "10", "reading"),
    )


def _digital() -> Drawn:
    image, pen = canvas(220, 100, (14, 18, 16))
    centred(pen, (110, 44), "18:37", font(52, MONO), (60, 250, 110))
    centred(pen, (110, 84), "FR  21.06.", font(14, MONO), (60, 250, 110))
    return drawn(
        image,
        Asked("What time is it?", "18:37", "reading"),
        Asked("Welcher Tag ist es?", "Freitag, der 21. Juni.", "reading", "de"),
        Asked("Is it morning?", "no", "yes/no"),
    )


def _battery() -> Drawn:
    image, pen = canvas(160, 80, (250, 250, 250))
    box(pen, (20, 18, 130, 62), outline=INK, width=4)
    pen.rectangle((132, 32, 140, 48), fill=INK)
    pen.rectangle((28, 26, 52, 54), fill=(220, 40, 30))
    return drawn(
        image,
        Asked("Is the battery nearly full?", "no", "yes/no"),
        Asked(
            "What should be done with this device soon?",
            "It should be charged, because only about a quarter of the battery is left.",
            "sentence",
        ),
        Asked("هل البطارية ممتلئة؟", "لا", "yes/no", "ar"),
    )


def _dice(random: np.random.Generator) -> Drawn:
    spots = {1: [(0, 0)], 3: [(-1, -1), (0, 0), (1, 1)], 5: [(-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1)]}
    image, pen = canvas(300, 120, (24, 104, 62))
    for place, number in enumerate((5, 3, 1)):
        x, y = 60 + 90 * place, 60 + int(random.integers(-12, 12))
        box(pen, (x - 32, y - 32, x + 32, y + 32), radius=10, fill=(250, 248, 240))
        for dx, dy in spots[number]:
            pen.ellipse((x + 18 * dx - 6, y + 18 * dy - 6, x + 18 * dx + 6, y + 18 * dy + 6), fill=INK)
    return drawn(
        image,
        Asked("What is the sum of the dice?", "5 + 3 + 1 = 9", "steps"),
        Asked("Quanti dadi ci sono?", "3", "count", "it"),
        Asked("Which number does the left die show?", "5", "reading"),
    )


def _scales() -> Drawn:
    image, pen = canvas(200, 200, (232, 228, 236))
    box(pen, (30, 80, 170, 190), fill=(190, 60, 60))
    pen.rectangle((24, 62, 176, 76), fill=(120, 120, 126))
    for x in (60, 100, 140):
        pen.ellipse((x - 22, 18, x + 22, 62), fill=(240, 150, 30))
    pen.rectangle((62, 112, 138, 146), fill=(210, 230, 200))
    centred(pen, (100, 129), "0.612 kg", font(15, BOLD))
    return drawn(
        image,
        Asked("How much do the oranges weigh?", "0.612 kg", "reading"),
        Asked(
            "If all three weigh the same, how many grams has one?",
            "0.612 kg are 612 g, and 612 / 3 = 204. One orange weighs 204 g.",
            "steps",
        ),
        Asked("Combien d’oranges y a-t-il ?", "3", "count", "fr"),
    )
