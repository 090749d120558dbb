"""The command line: `app` has the verbs, every other file those of one stage."""


def main() -> None:
    """Run the command line of this process; see `maskmill.cli.app.main`."""
    from maskmill.cli.app import main as run

    run()
