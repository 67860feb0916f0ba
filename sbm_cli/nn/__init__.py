"""The network: selective scan, Mamba block, oSpatialNet blocks, encoder and decoder. It knows nothing of bridges."""
