"""SI-SDR, which training validates by too."""

from sbm_cli.audio.sdr import si_sdr
from sbm_cli.evaluation.metrics.metric import Metric

METRICS = (Metric("si_sdr", "SI-SDR", "dB", si_sdr),)
