"""Maps and diagrams: streets, an island, a metro, a floor plan; a flow chart, sets, a food chain, a circuit,
a geometric figure, a time line.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from drawing import BOLD, INK, SERIF_ITALIC, Asked, Drawn, box, canvas, centred, drawn, font, shrunk


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [
        _streets(),
        _island(random),
        _metro(),
        _flat(),
        _flow(),
        _sets(),
        _chain(),
        _circuit(),
        _triangle(),
        _times(),
    ]


def _streets() -> Drawn:
    image, pen = canvas(360, 300, (236, 232, 222))
    pen.rectangle((20, 170, 150, 280), fill=(176, 214, 160))
    pen.polygon([(240, 0), (300, 0), (360, 90), (360, 150)], fill=(160, 198, 230))
    for corners in ((0, 140, 360, 158), (170, 0, 188, 300), (0, 60, 180, 72), (188, 220, 360, 232)):
        pen.rectangle(corners, fill=(255, 255, 255))
    for x, y, letter in ((100, 110, "A"), (230, 190, "B"), (280, 265, "C")):
        pen.ellipse((x - 11, y - 11, x + 11, y + 11), fill=(200, 30, 40))
        centred(pen, (x, y), letter, font(13, BOLD), (255, 255, 255))
    for place, text in (
        ((85, 225), "City Park"),
        ((90, 149), "Long Street"),
        ((90, 66), "Mill Road"),
        ((322, 70), "River"),
    ):
        centred(pen, place, text, font(11))
    return drawn(
        image,
        Asked("Which letter lies between Mill Road and Long Street?", "A"),
        Asked("What is in the lower left corner of the map?", "City Park", "reading"),
        Asked("Is point C north of point B, if north is up?", "no", "yes/no"),
        Asked("Was ist oben rechts auf der Karte zu sehen?", "Ein Fluss (River).", "short", "de"),
    )


def _island(random: np.random.Generator) -> Drawn:
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    waves = sum(random.uniform(4, 12) * np.cos(k * angles + random.uniform(0, 6)) for k in (2, 3, 5, 7))
    coast = 100 + waves
    image, pen = canvas(720, 560, (150, 200, 226))
    for scale, tone in (
        (1.0, (232, 220, 160)),
        (0.9, (150, 190, 110)),
        (0.55, (120, 160, 90)),
        (0.3, (150, 120, 90)),
    ):
        edge = [
            (360 + 2.6 * scale * r * math.cos(a), 280 + 2.1 * scale * r * math.sin(a))
            for r, a in zip(coast, angles, strict=True)
        ]
        pen.polygon(edge, fill=tone)
    image = shrunk(image, 2)
    pen = ImageDraw.Draw(image)
    for x, y, text in ((180, 128, "Pico 912 m"), (96, 176, "Vila Nova"), (262, 110, "Farol")):
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=INK)
        centred(pen, (x, y + 12), text, font(11, BOLD))
    pen.line((320, 40, 320, 14), fill=INK, width=2)
    centred(pen, (320, 48), "N", font(13, BOLD))
    return drawn(
        image,
        Asked("Qual é a altura do ponto mais alto?", "912 metros", "reading", "pt"),
        Asked("O farol fica a leste ou a oeste da vila?", "A leste.", "short", "pt"),
        Asked("What kind of land is shown?", "an island"),
        Asked(
            "Describe the map in two sentences.",
            "The map shows an island in a blue sea, with a mountain of 912 metres, the Pico, in its middle."
            " The village Vila Nova lies in the south-west, and a lighthouse (Farol) in the east.",
            "caption",
        ),
    )


def _metro() -> Drawn:
    image, pen = canvas(420, 220)
    lines = {
        (210, 40, 40): [(30, 60), (120, 60), (210, 110), (300, 110), (390, 110)],
        (30, 90, 190): [(120, 200), (120, 150), (210, 110), (210, 60), (300, 30)],
    }
    for colour, stops in lines.items():
        pen.line(stops, fill=colour, width=7, joint="curve")
        for x, y in stops:
            pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill=(255, 255, 255), outline=INK, width=2)
    for x, y, text in (
        (34, 84, "Oak"),
        (120, 40, "Fair"),
        (244, 128, "Central"),
        (306, 90, "Docks"),
        (384, 90, "Pier"),
        (156, 198, "Zoo"),
        (80, 150, "Hall"),
        (252, 62, "Museum"),
        (344, 30, "Hill"),
    ):
        centred(pen, (x, y), text, font(12))
    return drawn(
        image,
        Asked("Where do the two lines meet?", "at Central"),
        Asked("How many stations does the red line have?", "5", "count"),
        Asked(
            "How do I get from the Zoo to the Docks?",
            "Take the blue line from Zoo by Hall to Central. Change there to the red line and go one station"
            " to Docks.",
            "steps",
        ),
        Asked(
            "Combien de stations y a-t-il entre Oak et Pier ?",
            "Trois : Fair, Central et Docks.",
            "sentence",
            "fr",
        ),
    )


def _flat() -> Drawn:
    image, pen = canvas(340, 260, (250, 250, 250))
    rooms = {
        "cucina\n9 m²": (20, 20, 130, 120),
        "soggiorno\n24 m²": (130, 20, 320, 150),
        "bagno\n5 m²": (20, 120, 130, 190),
        "camera\n14 m²": (130, 150, 320, 240),
        "ingresso": (20, 190, 130, 240),
    }
    for text, corners in rooms.items():
        pen.rectangle(corners, outline=(50, 50, 60), width=4)
        centred(pen, ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2), text, font(13))
    for gap in ((60, 236, 90, 244), (126, 205, 134, 228), (126, 60, 134, 84), (60, 186, 90, 194)):
        pen.rectangle(gap, fill=(250, 250, 250))
    return drawn(
        image,
        Asked("Qual è la stanza più grande?", "Il soggiorno, di 24 m².", "sentence", "it"),
        Asked("Quanti metri quadrati ha il bagno?", "5", "reading", "it"),
        Asked(
            "How large are kitchen and bedroom together?",
            "The kitchen (cucina) has 9 m² and the bedroom (camera) 14 m². Together they have 9 + 14 ="
            " 23 m².",
            "steps",
        ),
    )


def _flow() -> Drawn:
    image, pen = canvas(320, 360, (248, 250, 255))
    pen.line((160, 50, 160, 330), fill=INK, width=2)
    pen.line((160, 190, 270, 190), fill=INK, width=2)
    pen.line((270, 190, 270, 250), fill=INK, width=2)
    for y, text in ((36, "Start"), (110, "Read number n"), (330, "Print “even”")):
        box(
            pen,
            (90, y - 20, 230, y + 20),
            radius=18 if text == "Start" else 4,
            fill=(220, 232, 250),
            outline=INK,
        )
        centred(pen, (160, y), text, font(13))
    pen.polygon([(160, 150), (230, 190), (160, 230), (90, 190)], fill=(255, 240, 200), outline=INK)
    centred(pen, (160, 190), "n mod 2 = 0 ?", font(11))
    box(pen, (214, 250, 316, 286), fill=(220, 232, 250), outline=INK)
    centred(pen, (265, 268), "Print “odd”", font(12))
    centred(pen, (176, 246), "yes", font(11))
    centred(pen, (248, 180), "no", font(11))
    return drawn(
        image,
        Asked("What is printed for n = 7?", "“odd”, because 7 mod 2 is 1 and not 0.", "steps"),
        Asked("What shape is the decision drawn as?", "a diamond"),
        Asked(
            "Write this flow chart as Python.",
            'n = int(input())\nif n % 2 == 0:\n    print("even")\nelse:\n    print("odd")',
            "code",
        ),
        Asked("Сколько прямоугольников с текстом Print?", "Два.", "count", "ru"),
    )


def _sets() -> Drawn:
    image = Image.new("RGBA", (640, 440), (255, 255, 255, 255))
    for left, tone in ((60, (230, 90, 80, 120)), (240, (70, 120, 220, 120))):
        layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
        ImageDraw.Draw(layer).ellipse((left, 60, left + 340, 400), fill=tone)
        image = Image.alpha_composite(image, layer)
    plain = shrunk(image.convert("RGB"), 2)
    pen = ImageDraw.Draw(plain)
    for x, y, text in ((75, 115, "bat"), (160, 100, "penguin"), (160, 130, "ostrich"), (245, 110, "trout")):
        centred(pen, (x, y), {"bat": "dog\nhorse", "trout": "canary\neagle"}.get(text, text), font(13))
    centred(pen, (70, 20), "cannot fly", font(13, BOLD), (160, 30, 30))
    centred(pen, (250, 20), "birds", font(13, BOLD), (30, 60, 160))
    return drawn(
        plain,
        Asked("Which animals are birds that cannot fly?", "penguin and ostrich"),
        Asked(
            "Which animal is missing from the circle “birds”?\nA. eagle\nB. canary\nC. horse\nD. ostrich",
            "C",
            "choice",
        ),
        Asked("¿Cuántos animales hay en total?", "6", "count", "es"),
    )


def _chain() -> Drawn:
    image, pen = canvas(560, 90, (244, 250, 240))
    names = ["grass", "hare", "fox", "eagle"]
    for place, name in enumerate(names):
        x = 70 + 140 * place
        box(pen, (x - 45, 25, x + 45, 65), fill=(255, 255, 255), outline=(60, 110, 60), width=2)
        centred(pen, (x, 45), name, font(15))
        if place:
            pen.line((x - 92, 45, x - 50, 45), fill=INK, width=2)
            pen.polygon([(x - 47, 45), (x - 57, 40), (x - 57, 50)], fill=INK)
    return drawn(
        image,
        Asked("What does the fox eat in this chain?", "the hare"),
        Asked(
            "What would happen first if all hares disappeared?",
            "The foxes would lose their food and become fewer, while the grass would grow more, since no hare"
            " eats it.",
            "sentence",
        ),
        Asked("食物链的第一环是什么？", "草（grass）。", "short", "zh"),
    )


def _circuit() -> Drawn:
    image, pen = canvas(300, 200)
    pen.rectangle((40, 40, 260, 160), outline=INK, width=2)
    pen.rectangle((110, 28, 190, 52), fill=(255, 255, 255), outline=INK, width=2)
    centred(pen, (150, 40), "R = 6 Ω", font(12))
    pen.rectangle((138, 150, 162, 170), fill=(255, 255, 255))
    pen.line((140, 144, 140, 176), fill=INK, width=2)
    pen.line((160, 152, 160, 168), fill=INK, width=4)
    centred(pen, (150, 188), "U = 9 V", font(12))
    pen.ellipse((246, 86, 274, 114), fill=(255, 255, 255), outline=INK, width=2)
    centred(pen, (260, 100), "A", font(14))
    return drawn(
        image,
        Asked(
            "What current does the meter show?",
            "By Ohm’s law the current is I = U / R = 9 V / 6 Ω = 1.5 A.",
            "steps",
        ),
        Asked("Wie groß ist der Widerstand?", "6 Ω", "reading", "de"),
        Asked("परिपथ में वोल्टेज कितना है?", "9 V", "reading", "hi"),
    )


def _triangle() -> Drawn:
    image, pen = canvas(260, 200, (255, 255, 252))
    pen.polygon([(40, 160), (220, 160), (40, 40)], outline=INK, fill=(236, 240, 255))
    pen.rectangle((40, 146, 54, 160), outline=INK)
    for place, text in (
        ((24, 100), "3"),
        ((130, 176), "4"),
        ((142, 88), "x"),
        ((30, 30), "A"),
        ((30, 172), "B"),
        ((232, 168), "C"),
    ):
        centred(pen, place, text, font(16, SERIF_ITALIC))
    return drawn(
        image,
        Asked(
            "Find x.",
            "The triangle has a right angle at B, so x² = 3² + 4² = 9 + 16 = 25, and x = 5.",
            "steps",
        ),
        Asked("At which corner is the right angle?", "B"),
        Asked("三角形の面積はいくつですか。", "3 × 4 ÷ 2 = 6 です。", "steps", "ja"),
    )


def _times() -> Drawn:
    image, pen = canvas(600, 130, (252, 248, 240))
    pen.line((30, 70, 570, 70), fill=INK, width=3)
    events = [
        (60, "1783", "hot-air\nballoon"),
        (220, "1903", "powered\naeroplane"),
        (380, "1957", "first\nsatellite"),
        (520, "1969", "people on\nthe Moon"),
    ]
    for x, year, text in events:
        pen.ellipse((x - 6, 64, x + 6, 76), fill=(180, 60, 30))
        centred(pen, (x, 46), year, font(14, BOLD))
        centred(pen, (x, 100), text, font(11))
    return drawn(
        image,
        Asked(
            "How many years passed between the first satellite and people on the Moon?",
            "1969 - 1957 = 12 years.",
            "steps",
        ),
        Asked("What happened in 1903?", "the first flight of a powered aeroplane"),
        Asked("ما أول حدث على الخط الزمني؟", "منطاد الهواء الساخن عام 1783.", "sentence", "ar"),
    )
