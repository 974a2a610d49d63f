"""Entry point of the command line: `quadrans ...` and `python -m quadrans ...`."""

import sys


def main() -> None:
    try:
        from .cli import app
    except ImportError as error:
        sys.exit(f"quadrans: {error}. The command line needs: pip install 'quadrans[codec]'")
    app()


if __name__ == "__main__":
    main()
