"""``python -m lmntk``."""

from lmntk.cli.app import main

if __name__ == "__main__":
    main()
