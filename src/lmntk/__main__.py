"""``python -m lmntk``."""

from lmntk.cli import main

if __name__ == "__main__":
    main()
