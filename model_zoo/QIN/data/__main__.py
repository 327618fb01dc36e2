"""``python -m model_zoo.QIN.data``: the same as ``qin-data``."""

import sys

from model_zoo.QIN.data.commands import main

if __name__ == "__main__":
    sys.exit(main())
