"""``python -m corral.api.cli``: the command, for an interpreter whose scripts are not on the path."""

from corral.api.cli import main

if __name__ == "__main__":
    main()
