import http.client
import io
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
from helpers.separators import tiny_separator

from spikesep.cli.serve import main
from spikesep.separation.model.separator import save_separator

# Shells let background processes ignore SIGINT, and tests started there inherit it.
HEED_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = [sys.executable, "-c", HEED_SIGINT + "from spikesep.cli.serve import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_separator(tiny_separator(), folder)
    return folder


def start(model, temporary) -> subprocess.Popen:
    """Start `spikesep-serve` without warnings of Python on standard error."""
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONWARNINGS": "ignore"}
    options = ["--model", str(model), "--port", "0", "--no-browser"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *options], env=environment, **pipes)


def test_service_prints_its_address_and_ends_on_signals(tmp_path, model):
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        (tmp_path / number.name).mkdir()
        started[number] = start(model, tmp_path / number.name)
    for number, process in started.items():
        line = process.stdout.readline()
        url = re.match(r"(http://127\.0\.0\.1:\d+/): ", line)[1]
        with urllib.request.urlopen(url) as page:
            assert str(model) in page.read().decode()
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert error == ("spikesep-serve: stopped\n" if number == signal.SIGINT else "")
        assert not list((tmp_path / number.name).iterdir())


def test_complaints_of_decoders_do_not_reach_the_terminal(tmp_path, model):
    process = start(model, tmp_path)
    url = re.match(r"(http://127\.0\.0\.1:\d+)/", process.stdout.readline())[1]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(0, 0.1, 32000), 16000, format="MP3")
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]  # its header gives the whole size
    headers = {"Origin": url, "Content-Type": "application/octet-stream"}
    with pytest.raises(urllib.error.HTTPError, match="422"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/separate", half, headers))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert error == ""


def test_killed_service_leaves_no_files(tmp_path, model):
    process = start(model, tmp_path)
    url = re.match(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    connection = http.client.HTTPConnection("127.0.0.1", int(url[1]), timeout=60)
    headers = {"Origin": url[0], "Content-Type": "application/octet-stream"}
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(300 * 8000), 8000, format="WAV")
    connection.request("POST", "/separate", buffer.getvalue(), headers)
    assert connection.getresponse().readline() == b'{"share": 0.0}\n'  # it has begun
    process.kill()
    process.communicate(timeout=60)
    assert not list(tmp_path.iterdir())


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
def test_invalid_option_is_one_line_and_status_2(model, capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(model), "--no-browser", *argv])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-serve: error:")
    assert message in error
    assert "\n" not in error
