"""`python -m rbft` is the command `rbft`."""

from rbft.cli import main

main()
