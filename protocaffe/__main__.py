"""``python -m protocaffe`` is the ``protocaffe`` command."""

from protocaffe.cli import main

if __name__ == "__main__":
    main()
