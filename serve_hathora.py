"""Start the server: `python serve_hathora.py --help`.

Nothing is imported outside the guard: the engine's child processes are spawned and import this
file again as their main module.
"""

if __name__ == "__main__":
    from app.cli import main

    main()
elif __name__ == "__mp_main__":
    from app.spawned import end_with_parent

    end_with_parent()
