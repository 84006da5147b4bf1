import pytest
from helpers.web.serve import (
    error_message,
    recording,
    send_request,
)

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages.server import Service
from spikesep.separation.pages.uploads import Limits


def test_page_loads_nothing_from_elsewhere_and_is_not_cached(service):
    for path in ("/", "/player.js", "/style.css", "/serve.js", "/queue.js"):
        status, headers, content = send_request(service, path=path)
        assert status == 200
        assert headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        )
        assert headers["Cache-Control"] == "no-store"
        assert b"http://" not in content
        assert b"https://" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/../serve.py",
        "/..%2f..%2fpyproject.toml",
        "//etc/passwd",
        "/etc/passwd",
        "/page.py",
        "/player.html",
        "/./player.js",
    ],
)
def test_other_paths_are_not_found(service, path):
    assert send_request(service, path=path)[0] == 404
    assert send_request(service, "POST", path, recording(0.1))[0] == 404


@pytest.mark.parametrize(
    "name",
    ["../../../evil.wav", "/etc/evil.wav", "..%2Fevil.wav", "%00%0Aevil.wav", "C:\\evil.wav"],
)
def test_file_name_is_shown_without_folders(service, name):
    message = error_message(send_request(service, "POST", "/separate", b"hello", X_File_Name=name))
    assert message.startswith("evil.wav: not a readable audio file")


def test_other_host_names_are_rejected(service):
    port = service.server_port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "127.0.0.1:1",
        "",
        None,
    ):
        assert send_request(service, Host=host)[0] == 403
        assert send_request(service, "POST", "/separate", recording(0.1), Host=host)[0] == 403
    assert send_request(service, Host=f"localhost:{port}")[0] == 200


def test_requests_from_other_pages_are_rejected(service):
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{service.server_port + 1}",
        None,
    ):
        assert send_request(service, "POST", "/separate", recording(0.1), Origin=origin)[0] == 403
    assert send_request(service, Origin="http://evil.example")[0] == 403
    status, headers, _ = send_request(service, "OPTIONS", "/separate", Origin="http://evil.example")
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers
    assert (
        send_request(
            service, "POST", "/separate", recording(0.1), Content_Type="multipart/form-data"
        )[0]
        == 415
    )


def test_only_the_loopback_address_is_used_and_a_used_port_is_reported(service, separator):
    assert service.server_address[0] == "127.0.0.1"
    with pytest.raises(SpikeSepError, match=rf"--port {service.server_port}: .*0 for a free one"):
        Service(Model(separator), "a model", Limits(), port=service.server_port)
