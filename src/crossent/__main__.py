"""`python -m crossent` is `crossent`."""

from crossent.cli import main

if __name__ == "__main__":
    main()
