"""`python -m nesf` is `nesf`."""

from nesf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
