"""Start the server: `python serve_hathora.py --help`.

Nothing is imported outside the guard: the engine's child processes are spawned and import this
file again as their main module. Its folder is put first in `sys.path`, as Python does it unless it
is told not to (`-P`, PYTHONSAFEPATH), so `app` is the one beside this file.
"""

if __name__ == "__main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # What is started as `python -m app...` finds `app` in its working folder.
    os.environ.pop("PYTHONSAFEPATH", None)
    try:
        from app.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "app").partition(".")[0] == "app":
            raise
        print(
            f"serve_hathora: {sys.executable} has no {error.name}: take .venv/bin/python, which "
            "`make demo` makes, or .venv-light/bin/python of `make try`; or pip install -r "
            "requirements.txt",
            file=sys.stderr,
        )
        sys.exit(78)
    main()
elif __name__ == "__mp_main__":
    import os
    import sys

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from app.spawned import end_with_parent

    end_with_parent()
