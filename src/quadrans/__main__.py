"""Entry point of the command line: `quadrans ...` and `python -m quadrans ...`."""

import sys
from io import TextIOWrapper


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not fail a conversion that succeeded.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from .cli import app
    except ImportError as error:
        print(f"quadrans: {error}. The command line needs: pip install 'quadrans[codec]'", file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
