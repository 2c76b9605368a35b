"""`python -m grainline …` and `torchrun -m grainline …` are the command line."""

import sys

from grainline.cli import main

sys.exit(main())
