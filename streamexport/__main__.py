from .starting import ending_quietly

with ending_quietly():
    from .cli import main

raise SystemExit(main())
