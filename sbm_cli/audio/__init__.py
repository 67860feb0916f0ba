"""Sound files in and out in blocks, streaming resampling, clip modes. Knows numpy, soundfile and soxr, not torch."""
