"""Simple flat scenes of one or two shapes in plain colours, 64 to 96 pixels wide, with the short questions
that are common in visual question answering: which shape, which colour, is there one.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from drawing import RGB, Asked, Drawn, canvas, drawn, shrunk

COLOURS: dict[str, RGB] = {
    "red": (226, 32, 28),
    "green": (20, 190, 40),
    "blue": (24, 44, 232),
    "yellow": (250, 232, 20),
    "black": (8, 8, 8),
    "gray": (126, 128, 130),
    "brown": (150, 52, 36),
    "teal": (0, 130, 128),
    "orange": (250, 140, 20),
    "purple": (132, 40, 170),
    "pink": (250, 150, 190),
}
SHAPES = ("circle", "rectangle", "triangle", "square", "star", "hexagon", "cross", "diamond")
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "ru", "zh", "ja", "ar", "hi")
# the names of colours and shapes in the order of LANGUAGES; shapes with the article that "is there …" takes
COLOUR_NAMES = {
    "red": "red Rot rouge rojo rosso vermelho красный 红色 赤 أحمر लाल",
    "green": "green Grün vert verde verde verde зелёный 绿色 緑 أخضر हरा",
    "blue": "blue Blau bleu azul blu azul синий 蓝色 青 أزرق नीला",
    "yellow": "yellow Gelb jaune amarillo giallo amarelo жёлтый 黄色 黄色 أصفر पीला",
    "black": "black Schwarz noir negro nero preto чёрный 黑色 黒 أسود काला",
    "gray": "gray Grau gris gris grigio cinza серый 灰色 灰色 رمادي स्लेटी",
    "brown": "brown Braun marron marrón marrone marrom коричневый 棕色 茶色 بني भूरा",
    "orange": "orange Orange orange naranja arancione laranja оранжевый 橙色 オレンジ色 برتقالي नारंगी",
    "purple": "purple Violett violet morado viola roxo фиолетовый 紫色 紫 بنفسجي बैंगनी",
    "pink": "pink Rosa rose rosa rosa rosa розовый 粉色 ピンク وردي गुलाबी",
    "teal": (
        "teal Blaugrün sarcelle verde_azulado verde_acqua verde-azulado бирюзовый 蓝绿色 青緑 أزرق_مخضر"
        " हरा-नीला"
    ),
}
SHAPE_NAMES = {
    "circle": "a_circle ein_Kreis un_cercle un_círculo un_cerchio um_círculo круг 圆形 円 دائرة वृत्त",
    "rectangle": (
        "a_rectangle ein_Rechteck un_rectangle un_rectángulo un_rettangolo um_retângulo прямоугольник"
        " 长方形 長方形 مستطيل आयत"
    ),
    "triangle": (
        "a_triangle ein_Dreieck un_triangle un_triángulo un_triangolo um_triângulo треугольник 三角形 三角形"
        " مثلث"
        " त्रिभुज"
    ),
    "square": (
        "a_square ein_Quadrat un_carré un_cuadrado un_quadrato um_quadrado квадрат 正方形 正方形 مربع वर्ग"
    ),
    "star": "a_star ein_Stern une_étoile una_estrella una_stella uma_estrela звезда 星形 星形 نجمة तारा",
    "hexagon": (
        "a_hexagon ein_Sechseck un_hexagone un_hexágono un_esagono um_hexágono шестиугольник 六边形 六角形"
        " سداسي षट्भुज"
    ),
    "cross": "a_cross ein_Kreuz une_croix una_cruz una_croce uma_cruz крест 十字形 十字形 صليب क्रॉस",
    "diamond": ("a_diamond eine_Raute un_losange un_rombo un_rombo um_losango ромб 菱形 ひし形 معين समचतुर्भुज"),
}
WHICH_SHAPE = {
    "en": "Which shape do you see?",
    "de": "Welche Form ist zu sehen?",
    "fr": "Quelle forme voit-on ?",
    "es": "¿Qué figura se ve?",
    "it": "Quale figura si vede?",
    "pt": "Que figura aparece na imagem?",
    "ru": "Какая фигура изображена?",
    "zh": "图中是什么形状？",
    "ja": "どんな形が描かれていますか。",
    "ar": "ما الشكل الظاهر في الصورة؟",
    "hi": "चित्र में कौन-सी आकृति है?",
}
WHICH_COLOUR = {
    "en": "What is its colour?",
    "de": "Welche Farbe hat die Form?",
    "fr": "Quelle est la couleur de la forme ?",
    "es": "¿Cuál es el color de la figura?",
    "it": "Qual è il colore della figura?",
    "pt": "Qual é a cor da figura?",
    "ru": "Какой цвет у фигуры?",
    "zh": "这个图形是什么颜色？",
    "ja": "この図形は何色ですか。",
    "ar": "ما لون الشكل؟",
    "hi": "आकृति का रंग क्या है?",
}
IS_THERE = {
    "en": "Can you find {} here?",
    "de": "Ist auf dem Bild {} zu sehen?",
    "fr": "Y a-t-il {} sur l’image ?",
    "es": "¿Hay {} en la imagen?",
    "it": "C’è {} nell’immagine?",
    "pt": "Há {} na imagem?",
    "ru": "Есть ли на картинке {}?",
    "zh": "图中有{}吗？",
    "ja": "画像に{}はありますか。",
    "ar": "هل يوجد {} في الصورة؟",
    "hi": "क्या चित्र में {} है?",
}
YES_NO = {
    "en": ("yes", "no"),
    "de": ("ja", "nein"),
    "fr": ("oui", "non"),
    "es": ("sí", "no"),
    "it": ("sì", "no"),
    "pt": ("sim", "não"),
    "ru": ("да", "нет"),
    "zh": ("有", "没有"),
    "ja": ("はい", "いいえ"),
    "ar": ("نعم", "لا"),
    "hi": ("हाँ", "नहीं"),
}
# English wordings as people type them; {c} is a colour and {s} a shape
SHAPE_WORDINGS = (
    "what shape is the {c} one?",
    "what is the shape in the image?",
    "Which shape do you see?",
    "what {c} shape does the image show?",
    "which shape is present in the image?",
)
COLOUR_WORDINGS = (
    "what color is the shape in the image?",
    "which color is the {s}?",
    "What is its colour?",
    "what is the color of this {s}?",
    "what color is the {s} in the image?",
)
THERE_WORDINGS = (
    "is there a {c} {s}?",
    "does the image contain a {c} {s}?",
    "is a {c} {s} present in the image?",
    "is the shape a {c} {s}?",
    "does the image show a {c} {s}?",
    "Can you find a {c} {s} here?",
    "is there a {s} that is {c} in the image?",
)
HAS_WORDINGS = (
    "is the shape {c}?",
    "is the color of the shape {c}?",
    "is it a {c} shape?",
    "does the shape in the image have the color {c}?",
)
NOT_WORDINGS = (
    "is there not a {c} {s}?",
    "does the image not contain a {c} {s}?",
    "is no {c} {s} present?",
    "is there no {c} {s} in the image?",
    "Is a {c} {s} missing?",
)


def colour_name(colour: str, language: str) -> str:
    return COLOUR_NAMES[colour].split()[LANGUAGES.index(language)].replace("_", " ")


def shape_name(shape: str, language: str, article: bool = True) -> str:
    name = SHAPE_NAMES[shape].split()[LANGUAGES.index(language)]
    return name.replace("_", " ") if article else name.partition("_")[2] or name


def corners(shape: str, x: float, y: float, size: float, wide: float = 1.0) -> list[tuple[float, float]]:
    """The corners of a shape about (x, y), `size` from the middle to its edge."""
    if shape == "star":
        turns = [(-math.pi / 2 + k * math.pi / 5, size if k % 2 == 0 else size * 0.42) for k in range(10)]
        return [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in turns]
    if shape == "hexagon":
        return [
            (x + size * math.cos(k * math.pi / 3), y + size * math.sin(k * math.pi / 3)) for k in range(6)
        ]
    if shape == "cross":
        arm = size * 0.34
        path = [(-arm, -size), (arm, -size), (arm, -arm), (size, -arm), (size, arm), (arm, arm)]
        path += [(arm, size), (-arm, size), (-arm, arm), (-size, arm), (-size, -arm), (-arm, -arm)]
        return [(x + dx, y + dy) for dx, dy in path]
    across, tall = size * wide, size * 0.6
    outlines = {
        "rectangle": [(-across, -tall), (across, -tall), (across, tall), (-across, tall)],
        "square": [(-size, -size), (size, -size), (size, size), (-size, size)],
        "triangle": [(0, -size), (size, size * 0.85), (-size, size * 0.85)],
        "diamond": [(0, -size), (size * 0.75, 0), (0, size), (-size * 0.75, 0)],
    }
    return [(x + dx, y + dy) for dx, dy in outlines[shape]]


def put(
    pen: ImageDraw.ImageDraw, shape: str, colour: RGB, x: float, y: float, size: float, wide: float = 1.0
) -> None:
    """Draw a shape about (x, y)."""
    if shape == "circle":
        pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    else:
        pen.polygon(corners(shape, x, y, size, wide), fill=colour)


def pictures(random: np.random.Generator) -> list[Drawn]:
    """Scenes of one shape, then of two."""
    colours, found = list(COLOURS), []
    for number in range(28):
        shape = SHAPES[number % 3] if number % 2 else SHAPES[number // 2 % len(SHAPES)]
        colour = colours[number * 5 % len(colours)]
        image = _alone(random, shape, colour, 64 if number % 4 else 96, smooth=number % 4 == 3)
        language = LANGUAGES[1 + number // 2 % 10]
        found.append(
            drawn(image, *_asked(random, shape, colour, number), _foreign(shape, colour, number, language))
        )
    return found + [_pair(random, number) for number in range(4)]


def _ground(random: np.random.Generator) -> RGB:
    """A pale background."""
    red, green, blue = (int(value) for value in random.integers(228, 256, 3))
    return red, green, blue


def _alone(random: np.random.Generator, shape: str, colour: str, side: int, smooth: bool) -> Image.Image:
    factor = 4 if smooth else 1
    image, pen = canvas(side * factor, side * factor, _ground(random))
    size = side * random.uniform(0.1, 0.28)
    x, y = random.uniform(size, side - size, 2)
    wide = random.choice([0.35, 1.0, 1.3])
    put(pen, shape, COLOURS[colour], x * factor, y * factor, size * factor, wide)
    return shrunk(image, factor) if smooth else image


def _asked(random: np.random.Generator, shape: str, colour: str, number: int) -> list[Asked]:
    """Five questions about one shape: which, of which colour, whether it is that one, and not another."""
    yes, no = YES_NO["en"]
    other = str(random.choice([name for name in SHAPES if name != shape]))
    wrong = str(random.choice([name for name in COLOURS if name != colour]))
    right = bool(number % 2)

    def filled(wordings: tuple[str, ...], c: str = colour, s: str = shape) -> str:
        return wordings[number % len(wordings)].format(c=c, s=s).replace("a orange", "an orange")

    there = (
        filled(THERE_WORDINGS)
        if right
        else filled(THERE_WORDINGS, *((wrong, shape), (colour, other))[number // 2 % 2])
    )
    absent = filled(NOT_WORDINGS, wrong) if number // 2 % 2 else filled(NOT_WORDINGS)
    return [
        Asked(filled(SHAPE_WORDINGS), shape),
        Asked(filled(COLOUR_WORDINGS), colour),
        Asked(there, yes if right else no, "yes/no"),
        Asked(filled(HAS_WORDINGS, wrong if right else colour), no if right else yes, "yes/no"),
        Asked(absent, yes if number // 2 % 2 else no, "yes/no"),
    ]


def _foreign(shape: str, colour: str, number: int, language: str) -> Asked:
    """A question about one shape in another language than English."""
    if number % 3 == 0:
        return Asked(WHICH_SHAPE[language], shape_name(shape, language, article=False), "short", language)
    if number % 3 == 1:
        return Asked(WHICH_COLOUR[language], colour_name(colour, language), "short", language)
    shown = shape if number % 2 else SHAPES[(SHAPES.index(shape) + 1) % len(SHAPES)]
    answer = YES_NO[language][shown != shape]
    return Asked(IS_THERE[language].format(shape_name(shown, language)), answer, "yes/no", language)


def _pair(random: np.random.Generator, number: int) -> Drawn:
    """Two shapes next to each other, and which is where."""
    left, right = (str(name) for name in random.choice(SHAPES, 2, replace=False))
    first, second = (str(name) for name in random.choice(list(COLOURS), 2, replace=False))
    image, pen = canvas(96, 64, _ground(random))
    put(pen, left, COLOURS[first], 24, random.uniform(20, 44), random.uniform(10, 18), 1.1)
    put(pen, right, COLOURS[second], 72, random.uniform(20, 44), random.uniform(10, 18), 1.1)
    side = "left" if number % 2 else "right"
    return drawn(
        image,
        Asked(f"what shape is on the {side}?", left if number % 2 else right),
        Asked(f"is the {left} {second}?", "no", "yes/no"),
        Asked("how many shapes are there?", "2", "count"),
        Asked(f"what color is the {right} on the right?", second),
    )
