"""What the weights of a full-precision model look like: how near to a Gaussian, how far its outliers, and what a salient tail would gain.

    model folder ─► plan of the preset `bivlm-paper` ─► one linear after the other from the shards ─► OUT/analysis.png, .md, .json

The statistics of Bi-VLM (arXiv 2509.18763, figures 1 and 3-8) for every linear that would be packed, as the model computes with it (in its dtype).
With n weights w of mean m and standard deviation s (over all n entries) and z = (w - m) / s:

    histogram          counts of z in BINS bins of width BIN_WIDTH over [-RANGE, RANGE), each with its lower edge, before them what lies below -RANGE
                       and after them what lies at RANGE or above: BINS + 2 numbers
    kl                 KL(P || Q) = sum of P_i ln(P_i / Q_i) in nats over these BINS + 2 bins: P_i = count_i / n, Q_i what the standard normal
                       distribution has there; an empty bin adds 0. Bins that wide leave bfloat16's steps no say (below 2e-4 on Gaussian weights)
    kl_of_gaussian     what n weights drawn from a Gaussian have on average: (K - 3) / 2n for K bins of n Q_i >= 1, two moments being fitted
    kurtosis           mean of z⁴ less 3: 0 for a Gaussian, 3 for a Laplace distribution
    outliers           shares of weights with |z| > 3, 4 and 6; `largest` is the greatest |z|
    saliency           J(p) of Eq. 20, the error of bands and tail over ||W||², for p from 0 to the paper's p_max of the part, and its lowest point

A weight that is one number everywhere has no z: its kl, kurtosis, largest and histogram are None.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import write_atomically
from bivlm.checkpoint.source import SourceModel
from bivlm.errors import InputError
from bivlm.plan import BlockPlan, LinearPlan, Plan, make_plan
from bivlm.quantizers.bivlm import BiVLM
from bivlm.quantizers.gaussian_bands import cuts
from bivlm.quantizers.saliency_search import SaliencyObjective
from bivlm.quantizers.salient import SalientLevels
from bivlm.recipe import load_recipe
from bivlm.report.analysis_plots import analysis_plot
from bivlm.report.analysis_tables import analysis_markdown
from bivlm.report.analysis_types import Analysis, LinearAnalysis, SaliencyCurve, WeightStatistics
