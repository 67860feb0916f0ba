"""`python -m sbm_cli` is `sbm`."""

from sbm_cli.cli.app import main

if __name__ == "__main__":
    main()
