"""Set before any test imports torch: waiting threads sleep soon, so that tests on busy cores don't crawl."""

from grainline.cli import share_cores

share_cores()
