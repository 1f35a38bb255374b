"""``python -m vatt`` is the command ``vatt``."""

import sys

from vatt.cli.main import main

sys.exit(main())
