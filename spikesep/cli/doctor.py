"""`spikesep-doctor`: check the installation."""

from jsonargparse import ArgumentParser, Namespace

from spikesep.cli.common import run


def main(argv: list[str] | None = None) -> None:
    """Parse, examine, print a line a finding."""
    parser = ArgumentParser(
        prog="spikesep-doctor",
        description="Check the installation: versions, processor, accelerator, codecs, engines, and one second of "
        "separation. Exit status 1 if something is broken. Begin a bug report with what it prints.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    run(parser, _doctor, argv)


def _doctor(options: Namespace) -> int:
    from spikesep import __version__
    from spikesep.doctor import examine

    print(f"SpikeSep {__version__}")
    n_broken = 0
    for finding in examine():
        print(f"{finding.status:>6}  {finding.what}", flush=True)
        n_broken += finding.status == "broken"
    if n_broken:
        print(f"{n_broken} findings need mending; each line names the remedy")
    return 1 if n_broken else 0
