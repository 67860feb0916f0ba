"""Operations on float32 tensors of the CPU, forward and backward, by the kernels of `sbm_cli.compiled`.

The kernels are serial and release the GIL; a small pool of Python threads runs them over ranges of sequences or frames
(`tensors`). Results do not depend on the number of threads.
"""

from sbm_cli.nn.kernels.cpu import band_conv, band_linear, mamba

OPERATIONS = {
    "mamba": mamba.mamba,
    "band_conv": band_conv.band_conv,
    "band_linear": band_linear.band_linear,
}
