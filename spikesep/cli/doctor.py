"""`spikesep-doctor`: check the installation."""

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import run


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = ArgumentParser(
        prog="spikesep-doctor",
        description="Check the installation: versions, processor, accelerator, codecs, engines, "
        "and the separation of one second of sound. The exit status is 1 if something is broken. "
        "Please begin bug reports with the output.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    run(parser, doctor, argv)


def doctor(options: Namespace) -> int:
    """Run all checks and print one line per finding; return 1 if something is broken."""
    from spikesep import __version__
    from spikesep.doctor import run_checks

    print(f"SpikeSep {__version__}")
    n_broken = 0
    for finding in run_checks():
        print(f"{finding.status:>6}  {finding.what}", flush=True)
        n_broken += finding.status == "broken"
    if n_broken:
        print(f"findings to be fixed: {n_broken}; each line names the remedy")
    return 1 if n_broken else 0
