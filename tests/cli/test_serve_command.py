import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import torch

from spikesep.cli.serve import main
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model import Separator, save_separator

# A shell has what it starts in the background ignore SIGINT, and so do the tests that it starts there.
HEED_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = [sys.executable, "-c", HEED_SIGINT + "from spikesep.cli.serve import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_separator(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])), folder)
    return folder


def test_it_says_where_it_is_and_ends_cleanly_on_either_signal_with_nothing_left(tmp_path, model):
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        (tmp_path / number.name).mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / number.name)}
        options = ["--model", str(model), "--port", "0", "--no-browser"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started[number] = subprocess.Popen([*COMMAND, *options], env=environment, **pipes)
    for number, process in started.items():
        line = process.stdout.readline()
        url = re.match(r"(http://127\.0\.0\.1:\d+/): ", line)[1]
        with urllib.request.urlopen(url) as page:
            assert str(model) in page.read().decode()
        assert list((tmp_path / number.name).glob("spikesep-serve-*"))
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert error == ("spikesep-serve: stopped\n" if number == signal.SIGINT else "")
        assert not list((tmp_path / number.name).glob("spikesep-serve-*"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-megabytes", "0"], "--max-megabytes 0"),
        (["--max-seconds", "-3"], "--max-seconds -3"),
        (["--port", "99999"], "--port 99999"),
        (["--port", "-1"], "--port -1"),
        (["--model", "nowhere"], "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_option_is_one_line_and_status_2(model, capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(model), "--no-browser", *argv])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-serve: error:")
    assert message in error
    assert "\n" not in error
