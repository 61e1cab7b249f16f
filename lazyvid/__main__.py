"""`python -m lazyvid`: the command line where the command `lazyvid` is not on the path."""

from __future__ import annotations

from lazyvid.cli import main

if __name__ == "__main__":
    main()
