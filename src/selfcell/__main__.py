"""``python -m selfcell``: the program, as torchrun starts it."""

from selfcell.cli.app import main

if __name__ == "__main__":
    main()
