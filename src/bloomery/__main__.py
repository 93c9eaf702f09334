"""`python -m bloomery` is the command `bloomery`, where the interpreter matters or no script is on the path."""

from bloomery.cli.main import main

if __name__ == "__main__":
    main()
