"""Charts as people draw them: bars, lines, pies, points, a histogram, stacked bars, a heat map."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from drawing import Asked, Drawn, drawn

Axes = Any


def pictures(random: np.random.Generator) -> list[Drawn]:
    return [*_bars(), *_lines(random), *_shares(), *_clouds(random)]


def _chart(width: int, height: int, draw: Callable[[Axes], None], face: str = "white") -> Image.Image:
    """The picture of one pair of axes, in pixels."""
    figure = Figure(figsize=(width / 80, height / 80), dpi=80, facecolor=face, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _bars() -> list[Drawn]:
    fruit = {"apples": 42, "pears": 18, "plums": 27, "cherries": 35, "figs": 9}

    def harvest(axes: Axes) -> None:
        axes.bar(list(fruit), list(fruit.values()), color=["#c33", "#7a3", "#639", "#b02", "#654"])
        axes.set(title="Harvest of one garden", ylabel="kilograms")
        axes.grid(axis="y", alpha=0.4)

    cities = {"Lisboa": 2806, "Porto": 2468, "Faro": 3036, "Braga": 2449}

    def sun(axes: Axes) -> None:
        axes.barh(list(cities), list(cities.values()), color="#f0a500")
        axes.set(title="Horas de sol por ano (exemplo)", xlim=(0, 3500))
        for place, value in enumerate(cities.values()):
            axes.text(value + 30, place, str(value), va="center", fontsize=8)

    return [
        drawn(
            _chart(400, 300, harvest),
            Asked("Which fruit gave the largest harvest, and how much was it?", "Apples, with 42 kilograms."),
            Asked("Which bar is the shortest?", "figs"),
            Asked(
                "How many kilograms of apples and cherries were picked together? Explain.",
                "The bar of the apples reaches 42 kilograms and that of the cherries 35. Together these are"
                " 42 + 35 = 77 kilograms.",
                "steps",
            ),
            Asked("Give the values of the chart as JSON.", json.dumps(fruit), "json"),
        ),
        drawn(
            _chart(420, 220, sun),
            Asked("Qual cidade tem mais horas de sol?", "Faro", "short", "pt"),
            Asked("Quantas horas de sol tem o Porto?", "2468", "reading", "pt"),
            Asked("How many cities are compared?", "4", "count"),
            Asked(
                "Descreve o gráfico em duas frases.",
                "O gráfico de barras horizontais compara as horas de sol por ano em quatro cidades. Faro tem"
                " o valor mais alto, com 3036 horas, e Braga o mais baixo, com 2449.",
                "caption",
                "pt",
            ),
        ),
        _courses(),
    ]


def _courses() -> Drawn:
    halves = {"Kurs A": (12, 9), "Kurs B": (7, 14), "Kurs C": (10, 11)}

    def courses(axes: Axes) -> None:
        places = np.arange(3)
        axes.bar(
            places - 0.2, [first for first, _ in halves.values()], 0.4, label="Frühjahr", color="#4477aa"
        )
        axes.bar(places + 0.2, [last for _, last in halves.values()], 0.4, label="Herbst", color="#ee7733")
        axes.set_xticks(places, list(halves))
        axes.set(title="Anmeldungen", ylim=(0, 18))
        axes.legend()

    return drawn(
        _chart(360, 280, courses),
        Asked("Welcher Kurs hatte im Herbst die meisten Anmeldungen?", "Kurs B", "short", "de"),
        Asked(
            "Hatte Kurs A im Herbst mehr Anmeldungen als im Frühjahr?",
            "Nein, es waren 9 statt 12.",
            "sentence",
            "de",
        ),
        Asked(
            "What do the two colours stand for?",
            "Blue is spring (Frühjahr) and orange is autumn (Herbst).",
            "sentence",
        ),
    )


def _lines(random: np.random.Generator) -> list[Drawn]:
    walk = 100 + np.cumsum(random.normal(0.15, 1.6, 160))

    def price(axes: Axes) -> None:
        axes.plot(walk, color="#0a7", linewidth=1.2)
        axes.fill_between(range(160), walk, walk.min() - 2, alpha=0.2, color="#0a7")
        axes.set(title="Индекс", xlabel="день", ylim=(walk.min() - 2, walk.max() + 2))

    steps = [3, 3, 5, 5, 5, 8, 8, 12]

    def levels(axes: Axes) -> None:
        axes.step(range(8), steps, where="post", color="black")
        axes.set(title="Niveaux franchis", xlabel="semaine", ylabel="niveau", ylim=(0, 14))

    return [
        _climate(),
        drawn(
            _chart(320, 200, price, "#f4f4f0"),
            Asked("Что показано на горизонтальной оси?", "День.", "reading", "ru"),
            Asked("Какого цвета линия на графике?", "Зелёная.", "short", "ru"),
            Asked("What is the title of this chart?", "Индекс", "reading"),
        ),
        drawn(
            _chart(300, 240, levels),
            Asked("Quel est le niveau atteint à la fin ?", "12", "reading", "fr"),
            Asked(
                "Le niveau baisse-t-il une seule fois ?",
                "Non, il ne fait que monter ou rester égal.",
                "sentence",
                "fr",
            ),
            Asked("Which level is held from week 2 to week 5?", "Level 5."),
        ),
    ]


def _climate() -> Drawn:
    months = ["J", "F", "M", "A", "M", "J", "J", "A", "S", "O", "N", "D"]
    north = [-3, -2, 2, 7, 13, 17, 20, 19, 14, 8, 2, -1]
    south = [11, 12, 14, 16, 20, 24, 27, 28, 24, 20, 15, 12]

    def climate(axes: Axes) -> None:
        axes.plot(range(12), north, "o-", color="#2266bb", label="north")
        axes.plot(range(12), south, "s--", color="#cc4422", label="south")
        axes.set_xticks(range(12), months)
        axes.set(title="Mean temperature", ylabel="°C")
        axes.legend()
        axes.grid(alpha=0.3)

    return drawn(
        _chart(480, 300, climate),
        Asked(
            "In which month is the north warmest?",
            "In July (the second J), with about 20 °C.",
            "sentence",
        ),
        Asked("Is the south ever colder than the north?", "no", "yes/no"),
        Asked(
            "Describe what the chart shows in two or three sentences.",
            "The line chart compares the mean temperature of two regions over the twelve months of a"
            " year. The south stays between about 11 and 28 °C, while the north falls below zero in"
            " winter and rises to about 20 °C in July. Both curves have the same shape, and the south is"
            " always warmer.",
            "caption",
        ),
        Asked("Quelle ligne est en pointillés ?", "Celle du sud (« south »), en rouge.", "sentence", "fr"),
    )


def _shares() -> list[Drawn]:
    mercato = {"bici": 35, "autobus": 25, "auto": 30, "a piedi": 10}

    def ring(axes: Axes) -> None:
        axes.pie(
            list(mercato.values()),
            labels=[f"{name} {value} %" for name, value in mercato.items()],
            radius=0.85,
            wedgeprops={"width": 0.36},
            colors=["#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3"],
        )
        axes.set_title("Come si va al mercato")

    years, coal, wind, water = (
        ["2019", "2020", "2021", "2022"],
        [50, 42, 33, 25],
        [20, 28, 36, 45],
        [30, 30, 31, 30],
    )

    def stacked(axes: Axes) -> None:
        axes.bar(years, coal, color="#555555", label="coal")
        axes.bar(years, wind, bottom=coal, color="#88ccee", label="wind")
        axes.bar(years, water, bottom=np.add(coal, wind), color="#3366aa", label="water")
        axes.set(title="Power by source (%)", ylim=(0, 135))
        axes.legend(ncols=3, loc="upper center")

    return [
        _hours(),
        drawn(
            _chart(420, 280, ring),
            Asked("Quale mezzo è il più usato?", "La bici, con il 35 %.", "sentence", "it"),
            Asked("Quante persone su cento vanno a piedi?", "10", "reading", "it"),
            Asked("Do more people come by car than by bus?", "Yes: 30 % against 25 %.", "sentence"),
        ),
        drawn(
            _chart(380, 300, stacked),
            Asked("Which source shrinks every year?", "coal"),
            Asked(
                "In which year is the share of wind the largest?\nA. 2019\nB. 2020\nC. 2021\nD. 2022",
                "D",
                "choice",
            ),
            Asked("¿Qué fuente casi no cambia?", "El agua: se mantiene en torno al 30 %.", "sentence", "es"),
        ),
    ]


def _hours() -> Drawn:
    day = {"sleep": 8, "work": 7, "meals": 2, "travel": 1, "leisure": 6}

    def hours(axes: Axes) -> None:
        axes.pie(list(day.values()), labels=list(day), autopct="%1.0f%%", startangle=90)
        axes.set_title("A day of 24 hours")

    return drawn(
        _chart(320, 320, hours),
        Asked("What takes the largest share of the day?", "sleep"),
        Asked("How many parts does the pie have?", "5", "count"),
        Asked(
            "How many hours does the 25% slice stand for? Reason briefly.",
            "The whole pie is a day of 24 hours, and 25% of 24 hours is 24 / 4 = 6 hours. The leisure"
            " slice therefore stands for 6 hours.",
            "steps",
        ),
        Asked("睡眠占一天的百分之几？", "33%", "reading", "zh"),
    )


def _clouds(random: np.random.Generator) -> list[Drawn]:
    x = random.uniform(0, 10, 60)
    y = 2 + 0.8 * x + random.normal(0, 1.0, 60)

    def points(axes: Axes) -> None:
        axes.scatter(x, y, s=18, color="#aa3377", alpha=0.8)
        axes.set(title="Hours studied and marks", xlabel="hours", ylabel="marks")

    heights = random.normal(170, 8, 400)

    def histogram(axes: Axes) -> None:
        axes.hist(heights, bins=np.arange(145, 200, 5), color="#888833", edgecolor="white")
        axes.set(title="Körpergröße", xlabel="cm", ylabel="Anzahl")

    return [
        drawn(
            _chart(320, 260, points),
            Asked("Do the marks rise or fall with the hours?", "They rise."),
            Asked("What is on the horizontal axis?", "hours", "reading"),
            Asked(
                "このグラフは何の関係を示していますか。", "勉強した時間と点数の関係です。", "sentence", "ja"
            ),
        ),
        drawn(
            _chart(300, 220, histogram),
            Asked("Welche Einheit hat die waagerechte Achse?", "cm", "reading", "de"),
            Asked(
                "Was zeigt das Diagramm?",
                "Es ist ein Histogramm der Körpergröße: Die meisten Werte liegen um 170 cm.",
                "sentence",
                "de",
            ),
            Asked(
                "What kind of chart is this?\nA. pie chart\nB. line chart\nC. histogram\nD. map",
                "C",
                "choice",
            ),
        ),
        _heat(),
    ]


def _heat() -> Drawn:
    grid = np.add.outer([0, 2, 5, 3], [1, 4, 2, 0, 3])

    def heat(axes: Axes) -> None:
        axes.imshow(grid, cmap="viridis")
        axes.set_xticks(range(5), ["Mo", "Tu", "We", "Th", "Fr"])
        axes.set_yticks(range(4), ["8 h", "11 h", "14 h", "17 h"])
        for row, column in np.ndindex(grid.shape):
            axes.text(
                column,
                row,
                grid[row, column],
                ha="center",
                va="center",
                color="white" if grid[row, column] < 6 else "black",
            )
        axes.set_title("Visitors")

    return drawn(
        _chart(300, 240, heat),
        Asked("When were there most visitors?", "On Tuesday at 14 h, with 9 visitors.", "sentence"),
        Asked("How many visitors came on Thursday at 8 h?", "0", "reading"),
        Asked("किस दिन 14 बजे सबसे ज़्यादा लोग आए?", "मंगलवार (Tu) को।", "short", "hi"),
    )
