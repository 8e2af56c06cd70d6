"""Pictures with the statistics of photographs: fractal noise as cloud, stone, water and leaves; landscapes in
haze; lights out of focus; a sensor's noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from drawing import Asked, Drawn, drawn

Field = NDArray[np.float64]
Tone = tuple[float, float, float]


# what each texture is called, how it is described, and a question in another language
TEXTURES = (
    (
        "grey stone",
        "A rough surface of grey stone, seen from close up. Its light and dark patches have no order.",
        ("de", "Welches Material ist das?", "Stein"),
    ),
    (
        "wood",
        "A board of brown wood. Its grain runs across the picture in wavy, nearly parallel lines.",
        ("fr", "De quelle matière s’agit-il ?", "du bois"),
    ),
    (
        "marble",
        "A slab of polished marble with dark veins that wind over a pale ground.",
        ("it", "Che materiale è?", "marmo"),
    ),
    (
        "leaves",
        "Dense green foliage fills the whole picture. Sunlit leaves stand out against deep shadow.",
        ("es", "¿Qué color domina?", "el verde"),
    ),
    (
        "bricks",
        "A wall of red bricks in a regular bond, with pale joints. Some bricks are darker than others.",
        ("ru", "Из чего сделана стена?", "Из кирпича."),
    ),
    (
        "sand",
        "Pale yellow sand, perhaps on a beach, with soft shallow waves and fine grains.",
        ("zh", "这是什么？", "沙子"),
    ),
)


def noise(random: np.random.Generator, height: int, width: int, slope: float, stretch: float = 1.0) -> Field:
    """A field in 0…1 whose amplitudes fall as the power `slope` of the frequency; `stretch` above 1 draws it
    out from left to right.
    """
    down, across = np.meshgrid(
        np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width * stretch, indexing="ij"
    )
    reach = np.hypot(down, across)
    reach[0, 0] = 1.0
    phases = np.exp(2j * np.pi * random.random((height, width)))
    field = np.fft.ifft2(phases / reach**slope).real
    low, high = np.percentile(field, [1, 99])
    return ((field - low) / (high - low)).clip(0, 1)


def mixed(field: Field, dark: Tone, light: Tone) -> Field:
    """Colours between two tones (0…1), as the field says."""
    return np.array(dark) + (np.array(light) - np.array(dark)) * field[..., None]


def picture(
    random: np.random.Generator, pixels: Field, grain: float = 0.02, blur: float = 0.5
) -> Image.Image:
    """What a camera makes of it: a little blur, darker corners, a sensor's noise, 8 bits."""
    height, width = pixels.shape[:2]
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    pixels = pixels * (1 - 0.15 * (down**2 + across**2))[..., None]
    image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    shot = np.asarray(image) / 255.0
    shot = shot + random.normal(0, grain, shot.shape) * np.sqrt(shot + 0.1)
    return Image.fromarray((shot.clip(0, 1) * 255).round().astype(np.uint8))


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_textures(random), *_landscapes(random), *_lights(random), *_things(random)]


def _textures(random: np.random.Generator) -> list[Drawn]:
    down, across = np.mgrid[0:192, 0:256]
    stone = mixed(noise(random, 192, 256, 1.1), (0.25, 0.24, 0.23), (0.75, 0.73, 0.7))
    warp = noise(random, 192, 256, 1.8)
    wood = mixed(
        0.5 + 0.5 * np.sin(0.35 * down + 22 * noise(random, 192, 256, 2.0, 0.12)),
        (0.35, 0.2, 0.1),
        (0.68, 0.46, 0.26),
    )
    marble = mixed(np.abs(np.sin(0.05 * across + 9 * warp)) ** 0.5, (0.35, 0.36, 0.42), (0.95, 0.94, 0.92))
    leaves = mixed(noise(random, 256, 256, 0.75), (0.03, 0.1, 0.03), (0.5, 0.75, 0.25))
    sand = mixed(
        0.5 * noise(random, 160, 320, 0.4) + 0.5 * noise(random, 160, 320, 1.9),
        (0.6, 0.48, 0.32),
        (0.95, 0.85, 0.65),
    )
    fields = (stone, wood, marble, leaves, _bricks(random), sand)
    return [
        drawn(
            picture(random, pixels),
            Asked("What material or thing is shown?", name),
            Asked("Describe the picture.", caption, "caption"),
            Asked("Is there a person in the picture?", "no", "yes/no"),
            Asked(question, answer, "short", language),
            photographic=True,
        )
        for pixels, (name, caption, (language, question, answer)) in zip(fields, TEXTURES, strict=True)
    ]


def _bricks(random: np.random.Generator) -> Field:
    """A wall in a regular bond."""
    down, across = np.mgrid[0:192, 0:256]
    row, column = down // 24, (across + 24 * (down // 24 % 2)) // 48
    tint = random.uniform(0.75, 1.1, (9, 8))[row, column]
    joint = (down % 24 < 3) | ((across + 24 * (row % 2)) % 48 < 3)
    brick = np.where(joint[..., None], (0.75, 0.73, 0.7), np.array([0.6, 0.27, 0.2]) * tint[..., None])
    return brick * (0.75 + 0.4 * noise(random, 192, 256, 0.9))[..., None]


def _hills(random: np.random.Generator, sky: Field, near: Tone, far: Tone, count: int) -> Field:
    """Ridges one in front of the other, each darker than the one before."""
    height, width = sky.shape[:2]
    down = np.arange(height)[:, None]
    for ridge in range(count):
        share = (ridge + 1) / count
        line = noise(random, 1, width, 1.6)[0]
        edge = height * (0.42 + 0.38 * share) - line * height * 0.22 * (1.1 - 0.6 * share)
        tone = np.array(far) + (np.array(near) - np.array(far)) * share
        leaf = 1 + 0.25 * share * (noise(random, height, width, 0.8) - 0.5)
        sky = np.where((down > edge)[..., None], tone * leaf[..., None], sky)
    return sky


def _landscapes(random: np.random.Generator) -> list[Drawn]:
    down, across = np.mgrid[0:240, 0:360]
    blue = mixed(down / 240, (0.25, 0.5, 0.85), (0.8, 0.9, 0.98))
    clouds = (noise(random, 240, 360, 1.7, 0.6) * 1.6 - 0.6).clip(0, 1)[..., None]
    noon = _hills(random, blue * (1 - clouds) + clouds * 0.97, (0.12, 0.3, 0.08), (0.5, 0.62, 0.72), 4)
    glow = mixed(down / 240, (0.25, 0.15, 0.4), (1.0, 0.55, 0.2))
    sun = np.hypot(across - 230, down - 78) < 24
    dusk = _hills(
        random, np.where(sun[..., None], (1.0, 0.93, 0.7), glow), (0.05, 0.03, 0.08), (0.5, 0.25, 0.3), 3
    )
    y = np.mgrid[0:200, 0:300][0]
    sky = mixed(y / 90, (0.5, 0.7, 0.92), (0.93, 0.95, 0.97))
    waves = 0.5 * noise(random, 200, 300, 1.0, 5.0) + 0.5 * noise(random, 200, 300, 1.6, 3.0)
    sea = np.where((y > 90)[..., None], mixed(waves, (0.02, 0.18, 0.32), (0.45, 0.68, 0.75)), sky)
    return [
        drawn(
            picture(random, noon),
            Asked(
                "Describe this landscape in two sentences.",
                "Several ranges of hills lie one behind the other, green in front and blue with haze in the"
                " distance. White clouds drift over a blue sky.",
                "caption",
            ),
            Asked("What is the weather like?", "fair, with some clouds"),
            Asked("क्या आकाश में बादल हैं?", "हाँ", "yes/no", "hi"),
            photographic=True,
        ),
        drawn(
            picture(random, dusk, 0.03),
            Asked("At what time of day was this taken?", "at sunset"),
            Asked(
                "Décris cette image en deux phrases.",
                "Le soleil se couche derrière des collines sombres. Le ciel passe du violet en haut à"
                " l’orange près de l’horizon.",
                "caption",
                "fr",
            ),
            Asked("Where is the sun, left or right of the middle?", "right"),
            photographic=True,
        ),
        drawn(
            picture(random, sea),
            Asked("What separates the two halves of the picture?", "the horizon between sea and sky"),
            Asked("O mar está calmo?", "Há pequenas ondas, mas o mar está quase calmo.", "sentence", "pt"),
            Asked("Is a ship to be seen?", "no", "yes/no"),
            photographic=True,
        ),
        _snow(random),
    ]


def _snow(random: np.random.Generator) -> Drawn:
    pale = mixed(np.mgrid[0:320, 0:200][0] / 320, (0.72, 0.76, 0.82), (0.92, 0.93, 0.95))
    snow = _hills(random, pale, (0.93, 0.94, 0.97), (0.6, 0.66, 0.75), 3)
    for _ in range(9):
        left, top = int(random.integers(5, 185)), int(random.integers(150, 230))
        for level in range(40):
            half = 1 + level // 4 - level % 4 // 2
            snow[top + level, max(left - half, 0) : left + half + 1] = (0.1, 0.16, 0.14)
    return drawn(
        picture(random, snow),
        Asked("Which season is it?", "winter"),
        Asked(
            "Beschreibe das Bild.",
            "Eine verschneite Landschaft unter grauem Himmel. Einige dunkle Nadelbäume stehen auf den"
            " weißen Hängen.",
            "caption",
            "de",
        ),
        Asked("صف الصورة في جملة واحدة.", "منظر شتوي فيه تلال مغطاة بالثلج وأشجار داكنة.", "sentence", "ar"),
        photographic=True,
    )


def _lights(random: np.random.Generator) -> list[Drawn]:
    night = Image.new("RGB", (320, 214), (14, 14, 28))
    for _ in range(46):
        x, y, r = random.uniform(0, 320), random.uniform(0, 214), random.uniform(6, 20)
        tone = [(255, 190, 90), (255, 110, 80), (130, 190, 255), (250, 240, 200)][int(random.integers(4))]
        layer = Image.new("L", night.size, 0)
        ImageDraw.Draw(layer).ellipse((x - r, y - r, x + r, y + r), fill=int(random.integers(60, 170)))
        night.paste(Image.new("RGB", night.size, tone), (0, 0), layer.filter(ImageFilter.GaussianBlur(1.2)))
    field = mixed(noise(random, 200, 200, 1.5), (0.01, 0.01, 0.05), (0.12, 0.1, 0.25))
    for _ in range(170):
        y, x = random.integers(1, 199, 2)
        field[y - 1 : y + 1, x - 1 : x + 1] += random.uniform(0.2, 0.9) * (random.random() ** 2)
    return [
        drawn(
            picture(random, np.asarray(night) / 255.0, 0.04),
            Asked("Is this picture in focus?", "No, the lights are blurred into discs.", "sentence"),
            Asked(
                "Describe what you see.",
                "Coloured lights of a city at night, out of focus. They form soft discs of orange, red, blue"
                " and white on a dark ground.",
                "caption",
            ),
            Asked("昼ですか、夜ですか。", "夜です。", "short", "ja"),
            photographic=True,
        ),
        drawn(
            picture(random, field, 0.03),
            Asked("What is shown?", "a sky full of stars at night"),
            Asked("¿Es de día o de noche?", "De noche.", "short", "es"),
            photographic=True,
        ),
    ]


def _ball(pixels: Field, x: float, y: float, r: float, tone: Tone, texture: Field) -> None:
    """Draw a lit ball with its soft shadow into `pixels`."""
    down, across = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]]
    shade = np.exp(-(((across - x - 0.3 * r) / (1.2 * r)) ** 2) - ((down - y - 0.95 * r) / (0.28 * r)) ** 2)
    pixels *= (1 - 0.6 * shade)[..., None]
    u, v = (across - x) / r, (down - y) / r
    depth = np.sqrt((1 - u * u - v * v).clip(0))
    light = (-0.5 * u - 0.6 * v + 0.62 * depth).clip(0)
    colour = np.array(tone) * (0.25 + 0.8 * light * (0.85 + 0.3 * texture))[..., None]
    colour = colour + 0.5 * (light.clip(0, 1) ** 30)[..., None]
    inside = (u * u + v * v < 1)[..., None]
    pixels[:] = np.where(inside, colour, pixels)


def _things(random: np.random.Generator) -> list[Drawn]:
    table = mixed(noise(random, 224, 300, 1.2, 0.2), (0.42, 0.28, 0.17), (0.62, 0.44, 0.28))
    table[:80] = mixed(noise(random, 80, 300, 2.2), (0.55, 0.58, 0.6), (0.8, 0.8, 0.78))
    for x, r, tone in (
        (80, 42, (0.85, 0.12, 0.1)),
        (165, 38, (0.95, 0.55, 0.08)),
        (240, 34, (0.45, 0.7, 0.15)),
    ):
        _ball(table, x, 170 - r, r, tone, noise(random, 224, 300, 0.9))
    water = mixed(noise(random, 180, 180, 1.3), (0.05, 0.25, 0.3), (0.3, 0.6, 0.6))
    down, across = np.mgrid[-90:90, -90:90]
    reach = np.hypot(down, across)
    water = water + (0.2 * np.cos(reach / 5) * np.exp(-reach / 60))[..., None]
    moon = np.zeros((160, 160, 3)) + 0.02
    _ball(moon, 80, 80, 60, (0.85, 0.84, 0.8), noise(random, 160, 160, 1.4))
    return [
        drawn(
            picture(random, table),
            Asked("How many round fruits lie on the table?", "3", "count"),
            Asked("Name the colours of the fruits from left to right.", "red, orange, green", "list"),
            Asked(
                "Descreve a imagem.",
                "Três frutos redondos estão sobre uma mesa de madeira: um vermelho, um cor de laranja e um"
                " verde. A luz vem da esquerda.",
                "caption",
                "pt",
            ),
            photographic=True,
        ),
        drawn(
            picture(random, water),
            Asked(
                "What could have made these rings?",
                "Something has fallen into the water, for example a stone or a drop.",
                "sentence",
            ),
            Asked("Вода или песок?", "Вода.", "short", "ru"),
            photographic=True,
        ),
        drawn(
            picture(random, moon, 0.04),
            Asked("Which celestial body does this look like?", "the Moon"),
            Asked("Da che parte viene la luce?", "Da sinistra, dall’alto.", "short", "it"),
            photographic=True,
        ),
    ]
