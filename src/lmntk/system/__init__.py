"""system/: the machine: memory, devices, precision, files written whole or not at all, hashes."""
