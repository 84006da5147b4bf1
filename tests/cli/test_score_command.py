import pytest

from spikesep.cli import demo, score
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.data.kaldi import read_data_dir

OPTIONS = ["--launch.n_jobs", "1", "--scoring.metrics", "[stoi]"]


def command(module, experiment, *more) -> int:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--data", str(experiment.data), "--exp", str(experiment.exp), *more])
    return stopped.value.code


def test_second_run_reports_complete_scores(experiment, capsys):
    assert command(score, experiment, *OPTIONS) == 0
    first = capsys.readouterr().out
    assert "RESULTS.md: written" in first
    assert "SI-SDRi" in first
    report = (experiment.exp / "RESULTS.md").read_text()
    assert "`spikesep-score --data" in report

    assert command(score, experiment, *OPTIONS) == 0
    second = capsys.readouterr().out
    assert "--redo scores again" in second
    assert "SI-SDRi" in second

    (experiment.exp / "RESULTS.md").write_text("old")
    assert command(score, experiment, *OPTIONS, "--redo") == 0
    assert (experiment.exp / "RESULTS.md").read_text() != "old"


def test_changed_data_is_scored_again(experiment, capsys):
    command(score, experiment, *OPTIONS)
    path = read_data_dir(experiment.data / "tt")[0].mixture
    write_wav(path, read_audio(path)[::-1], 8000)
    capsys.readouterr()
    assert command(score, experiment, *OPTIONS) == 0
    printed = capsys.readouterr().out
    assert f"results.json: belongs to other data; scoring again with {experiment.data}" in printed
    assert "RESULTS.md: written" in printed
    assert command(score, experiment, *OPTIONS) == 0
    assert "complete, and models, data and metrics are unchanged" in capsys.readouterr().out


def test_unknown_sexes_leave_overall_scores(experiment, capsys):
    for name in ("cv", "tt"):
        (experiment.data / name / "utt2sexes").unlink()
        (experiment.data / name / "spk2utt").unlink()
    assert command(score, experiment, *OPTIONS) == 0
    printed = capsys.readouterr().out
    report = (experiment.exp / "RESULTS.md").read_text()
    assert "Overall" in printed
    for text in (printed, report):
        assert "Same" not in text
        assert "Diff" not in text
    assert "closed 4, open 4." in report
    assert "–" not in report.partition("## Energy")[0]
    assert command(demo, experiment) == 0


def test_missing_conversion_is_one_line(experiment, capsys):
    (experiment.exp / "snn" / "config.json").unlink()
    assert command(score, experiment, *OPTIONS) == 2
    error = capsys.readouterr().err
    assert "spikesep-convert" in error
    assert error.count("\n") == 1


def test_listening_page_requires_scores(experiment, capsys):
    assert command(demo, experiment) == 2
    assert "spikesep-score" in capsys.readouterr().err
    command(score, experiment, *OPTIONS)
    assert command(demo, experiment) == 0
    assert str(experiment.exp / "demo" / "index.html") in capsys.readouterr().out
    assert (experiment.exp / "demo" / "index.html").is_file()
