"""Simple drawings of faces, and comic strips of stick figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from drawing import INK, RGB, Asked, Drawn, box, canvas, centred, drawn, font, shrunk, wrapped

MOODS = {
    "happy": ("smiling", "glücklich", "feliz", "高兴"),
    "sad": ("with the corners of the mouth down", "traurig", "triste", "难过"),
    "surprised": ("with an open mouth", "überrascht", "sorprendido", "惊讶"),
    "angry": ("with slanted brows", "wütend", "enfadado", "生气"),
}


@dataclass(frozen=True)
class Face:
    """What a drawn face looks like."""

    mood: str
    hair: str
    hair_colour: RGB
    skin: RGB
    glasses: bool = False
    hat: str = ""
    beard: bool = False


FACES = (
    Face("happy", "brown", (110, 66, 30), (246, 208, 176), glasses=True),
    Face("sad", "black", (24, 20, 22), (206, 152, 110)),
    Face("surprised", "red", (190, 70, 24), (252, 222, 200), hat="green"),
    Face("angry", "grey", (150, 150, 154), (240, 196, 160), beard=True),
    Face("happy", "black", (20, 18, 20), (128, 84, 56), hat="yellow"),
    Face("sad", "blond", (232, 200, 110), (250, 216, 190), glasses=True),
)
HATS = {"green": (40, 130, 70), "yellow": (240, 200, 40)}


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*(_portrait(number, face) for number, face in enumerate(FACES)), _lost_hat(), _rain(), _cat()]


def portrait(face: Face, ground: RGB) -> Image.Image:
    """The face from the front, 144 by 168 pixels."""
    image, pen = canvas(432, 504, ground)
    pen.ellipse((80, 76, 352, 300), fill=face.hair_colour)
    pen.rectangle((170, 380, 262, 504), fill=face.skin)
    pen.ellipse((100, 110, 332, 420), fill=face.skin, outline=INK, width=4)
    if face.beard:
        pen.chord((110, 200, 322, 424), 20, 160, fill=face.hair_colour)
    if face.hat:
        pen.rectangle((110, 60, 322, 140), fill=HATS[face.hat])
        pen.rectangle((60, 132, 372, 156), fill=HATS[face.hat])
    for x in (168, 264):
        pen.ellipse((x - 16, 226, x + 16, 258), fill=(255, 255, 255), outline=INK, width=3)
        pen.ellipse((x - 7, 235, x + 7, 249), fill=INK)
        if face.glasses:
            pen.ellipse((x - 36, 206, x + 36, 278), outline=(20, 20, 60), width=6)
        slope = {"angry": 14, "sad": -12}.get(face.mood, 0) * (1 if x < 200 else -1)
        pen.line((x - 26, 196 - slope, x + 26, 196 + slope), fill=face.hair_colour, width=8)
    pen.line((216, 262, 206, 306, 222, 308), fill=INK, width=4)
    if face.mood == "happy":
        pen.arc((160, 290, 272, 372), 20, 160, fill=(170, 30, 40), width=8)
    elif face.mood == "surprised":
        pen.ellipse((194, 326, 238, 382), fill=(140, 30, 40))
    else:
        pen.arc((166, 346, 266, 410), 205, 335, fill=(150, 30, 40), width=8)
    return shrunk(image, 3)


def _portrait(number: int, face: Face) -> Drawn:
    how, german, spanish, chinese = MOODS[face.mood]
    extras = ["glasses"] * face.glasses + ["a beard"] * face.beard + [f"a {face.hat} hat"] * bool(face.hat)
    worn = f" and {extras[0]}" if extras else ""
    language, question, answer = (
        ("de", "Wie fühlt sich die Person?", german),
        ("fr", "Quelle émotion ce visage exprime-t-il ?", "la tristesse"),
        ("es", "¿Qué expresión tiene el dibujo?", f"Parece {spanish}."),
        ("zh", "这个人的心情怎么样？", f"{chinese}。"),
        ("hi", "क्या व्यक्ति ने टोपी पहनी है?", "हाँ" if face.hat else "नहीं"),
        ("ar", "هل يرتدي الشخص نظارة؟", "نعم" if face.glasses else "لا"),
    )[number]
    return drawn(
        portrait(face, ((206, 226, 240), (240, 232, 214), (226, 240, 222))[number % 3]),
        Asked("How does this person look: happy, sad, surprised or angry?", face.mood),
        Asked("Does the person wear glasses?", "yes" if face.glasses else "no", "yes/no"),
        Asked("What colour is the hair?", face.hair),
        Asked(
            "Describe the drawing.",
            f"A simple drawing of a person with {face.hair} hair{worn}, {how}.",
            "caption",
        ),
        Asked(question, answer, "short", language),
    )


def _figure(pen: ImageDraw.ImageDraw, x: int, y: int, arm: int, hat: bool = False) -> None:
    """A stick figure whose feet stand at (x, y); `arm` lifts its right arm."""
    pen.ellipse((x - 11, y - 78, x + 11, y - 56), outline=INK, width=2, fill=(255, 255, 255))
    pen.line((x, y - 56, x, y - 24), fill=INK, width=2)
    pen.line((x, y - 24, x - 12, y), fill=INK, width=2)
    pen.line((x, y - 24, x + 12, y), fill=INK, width=2)
    pen.line((x, y - 48, x - 18, y - 34), fill=INK, width=2)
    pen.line((x, y - 48, x + 18, y - 34 - arm), fill=INK, width=2)
    if hat:
        pen.rectangle((x - 9, y - 92, x + 9, y - 76), fill=(180, 30, 40))
        pen.line((x - 15, y - 76, x + 15, y - 76), fill=(180, 30, 40), width=3)


def _strip(count: int, ground: RGB = (255, 255, 255)) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Panels of 150 by 180 pixels next to each other."""
    image, pen = canvas(10 + 160 * count, 200, (250, 250, 250))
    for panel in range(count):
        pen.rectangle((10 + 160 * panel, 10, 160 + 160 * panel, 190), outline=INK, width=2, fill=ground)
    return image, pen


def _says(pen: ImageDraw.ImageDraw, panel: int, text: str) -> None:
    lines = wrapped(text, font(11), 118)
    left, high = 18 + 160 * panel, 12 + 15 * len(lines)
    box(pen, (left, 18, left + 134, 18 + high), radius=10, fill=(255, 255, 255), outline=INK)
    centred(pen, (left + 67, 18 + high / 2), "\n".join(lines), font(11))
    pen.polygon([(left + 40, 17 + high), (left + 54, 17 + high), (left + 50, 29 + high)], fill=INK)


def _lost_hat() -> Drawn:
    image, pen = _strip(3)
    _figure(pen, 70, 184, 0)
    _says(pen, 0, "Where is my red hat?")
    _figure(pen, 220, 184, 0)
    _figure(pen, 280, 184, 20)
    _says(pen, 1, "Have you looked on your head?")
    _figure(pen, 390, 184, 40, hat=True)
    _says(pen, 2, "Oh.")
    return drawn(
        image,
        Asked("How many panels does the strip have?", "3", "count"),
        Asked("What is the person looking for?", "a red hat"),
        Asked(
            "Tell the story in three sentences.",
            "Someone is looking for a red hat. A friend asks whether it might be on the head. In the last"
            " panel the hat is indeed there, and all that is left to say is “Oh.”",
            "caption",
        ),
        Asked("¿Cuántas personas hay en el segundo cuadro?", "2", "count", "es"),
    )


def _rain() -> Drawn:
    image, pen = _strip(2, (226, 234, 242))
    _figure(pen, 70, 184, 0)
    _says(pen, 0, "Heute bleibt es trocken.")
    for x in range(180, 320, 14):
        for y in range(70 + x % 3 * 8, 180, 26):
            pen.line((x, y, x - 4, y + 10), fill=(60, 100, 200), width=2)
    _figure(pen, 240, 184, 30)
    _says(pen, 1, "Fast trocken.")
    return drawn(
        image,
        Asked(
            "Was passiert im zweiten Bild?",
            "Es regnet, obwohl die Figur trockenes Wetter angekündigt hat.",
            "sentence",
            "de",
        ),
        Asked("Was sagt die Figur zuerst?", "„Heute bleibt es trocken.“", "reading", "de"),
        Asked(
            "Why is this funny?",
            "The forecast of dry weather is wrong: in the next panel it is pouring, and the figure still"
            " calls it almost dry.",
            "sentence",
        ),
    )


def _cat() -> Drawn:
    image, pen = _strip(4, (255, 250, 236))
    for panel, offset in enumerate((40, 70, 100, 118)):
        x = 20 + 160 * panel
        pen.rectangle((x + 96, 130, x + 130, 184), fill=(150, 110, 70))
        if panel < 3:
            pen.rectangle((x + 104, 106, x + 122, 130), fill=(90, 150, 210))
        else:
            pen.polygon([(x + 60, 184), (x + 78, 170), (x + 84, 184)], fill=(90, 150, 210))
        y = 184 if panel < 2 else 130
        pen.ellipse((x + offset - 26, y - 26, x + offset + 8, y), fill=(60, 56, 60))
        pen.ellipse((x + offset - 4, y - 42, x + offset + 18, y - 20), fill=(60, 56, 60))
        for ear in (0, 12):
            pen.polygon(
                [
                    (x + offset - 2 + ear, y - 38),
                    (x + offset + 2 + ear, y - 50),
                    (x + offset + 8 + ear, y - 38),
                ],
                fill=(60, 56, 60),
            )
    return drawn(
        image,
        Asked("Which animal is drawn?", "a black cat"),
        Asked(
            "What has happened to the blue vase in the last panel?",
            "It has fallen down and is broken.",
            "sentence",
        ),
        Asked(
            "Que fait le chat ?",
            "Il s’approche, saute sur le meuble et fait tomber le vase.",
            "sentence",
            "fr",
        ),
        Asked("ネコは何色ですか。", "黒です。", "short", "ja"),
    )
