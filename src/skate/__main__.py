"""`python -m skate` is the command `skate`."""

from skate.cli import main

if __name__ == "__main__":
    main()
