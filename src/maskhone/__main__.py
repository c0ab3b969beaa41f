"""Runs the command line as `python -m maskhone`."""

from maskhone.cli import main

if __name__ == "__main__":
    main()
