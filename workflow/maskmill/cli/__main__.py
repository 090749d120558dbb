"""`python -m maskmill.cli`: how torchrun starts the command line."""

from maskmill.cli import main

main()
