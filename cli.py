"""`python cli.py COMMAND` from the repository root is the same program as `batchgen COMMAND`."""

from batchgen.cli.main import main

if __name__ == "__main__":
    main()
