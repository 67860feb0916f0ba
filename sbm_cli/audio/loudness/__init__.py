"""How loud a recording is and shall be: levels, loudness (EBU R 128), true peaks."""
