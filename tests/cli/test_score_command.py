import pytest

from spikesep.cli import demo, score
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.data.kaldi import read_data_dir

OPTIONS = ["--launch.n_jobs", "1", "--scoring.metrics", "[stoi]"]


def command(module, experiment, *more) -> int:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--data", str(experiment.data), "--exp", str(experiment.exp), *more])
    return stopped.value.code


def test_scoring_prints_the_table_and_a_second_run_says_that_it_is_complete(experiment, capsys):
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


def test_other_data_is_scored_anew_and_said(experiment, capsys):
    command(score, experiment, *OPTIONS)
    path = read_data_dir(experiment.data / "tt")[0].mixture
    write_wav(path, read_audio(path)[::-1], 8000)
    capsys.readouterr()
    assert command(score, experiment, *OPTIONS) == 0
    said = capsys.readouterr().out
    assert f"results.json: of other data; scoring anew with {experiment.data}" in said
    assert "RESULTS.md: written" in said
    assert command(score, experiment, *OPTIONS) == 0
    assert "complete, and models, data and metrics are unchanged" in capsys.readouterr().out


def test_without_a_list_of_sexes_there_are_scores_without_rows_of_them(experiment, capsys):
    for name in ("cv", "tt"):
        (experiment.data / name / "utt2sexes").unlink()
        (experiment.data / name / "spk2utt").unlink()
    assert command(score, experiment, *OPTIONS) == 0
    said = capsys.readouterr().out
    report = (experiment.exp / "RESULTS.md").read_text()
    assert "Overall" in said
    for text in (said, report):
        assert "Same" not in text
        assert "Diff" not in text
    assert "closed 4, open 4." in report
    assert "–" not in report
    assert command(demo, experiment) == 0


def test_a_missing_conversion_is_one_line_that_names_it(experiment, capsys):
    (experiment.exp / "snn" / "config.json").unlink()
    assert command(score, experiment, *OPTIONS) == 2
    error = capsys.readouterr().err
    assert "spikesep-convert" in error
    assert error.count("\n") == 1


def test_the_listening_page_wants_scores_first_and_then_says_where_it_is(experiment, capsys):
    assert command(demo, experiment) == 2
    assert "spikesep-score" in capsys.readouterr().err
    command(score, experiment, *OPTIONS)
    assert command(demo, experiment) == 0
    assert str(experiment.exp / "demo" / "index.html") in capsys.readouterr().out
    assert (experiment.exp / "demo" / "index.html").is_file()
