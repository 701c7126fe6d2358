"""No password that somebody typed is ever shown, however it was typed."""

from __future__ import annotations

import logging
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.capture import parse_uri
from edge.cli import main
from edge.config import parse_config
from edge.errors import ConfigError, HygromaError
from edge.redaction import READ, printable, redact

WORD = string.ascii_letters + string.digits
# Passwords with what keyboards have; at their core a word that stands nowhere else.
CORE = "Qz7hunterXw"
AROUND = st.text(WORD + " /@:!$%^*()[]{}|~,.<>-+", max_size=8)
IN_A_SETTING = st.text(WORD + " /!$%^*()[]{}|~,.<>-+", max_size=8)
SETTINGS = ["user-password=", "user.password=", "my-pwd=", "pass[]=", "pass%77ord=", "user%5Fpw=", "password%3D",
            "password =", "u=a&p=", "password:", "pin=", "sid=", "session=", "jwt=", "sig=", "code=", "credential=",
            "password=a;", "password=a_b="]  # fmt: skip
MISTYPED = ["rtsp ://u:{}@h", "rtsp.//u:{}@h", "rtspu:/u:{}@h", "rstp:/u:{}@h", "onvif:/u:{}@h", "//u:{}@h", "/u:{}@h",
            "file://u:{}@h", "rtsp\uff1a//u:{}@h", "rtsp://u:{}%40h/x", "rtsp://u:{}\uff20h"]  # fmt: skip
USER = st.text(WORD + ".-", min_size=1, max_size=8)
HOST = st.sampled_from(["10.0.0.9", "cam-1.local:554", "[fe80::1]:8554"])
TYPED = st.sampled_from(
    ["rtsp://", "RTSP://", "rtsps://", "rtsp:/", "rtsp:", "rtsp//", "rtsp;//", "rtps://", "http://", "srt://", "rtsp:///"]
)


@pytest.mark.requirement("S-10")
@settings(max_examples=300, deadline=None)
@given(start=TYPED, user=USER, before=AROUND, after=AROUND, host=HOST, path=st.sampled_from(["", "/s", "/live/1.sdp?ch=1"]))
def test_a_password_before_the_host(start: str, user: str, before: str, after: str, host: str, path: str) -> None:
    shown = redact(f"{start}{user}:{before}{CORE}{after}@{host}{path}")
    assert CORE not in shown and host.split(":")[0] in shown


@pytest.mark.requirement("S-10")
@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from(["password", "Password", "pass", "passwd", "pwd", "PSW", "token", "apikey", "auth", "user_pass"]),
    lead=st.sampled_from(["/user=admin_", "?user=admin&", "/user=admin&", "/live?ch=1;", "/a/", "/cam,"]),
    after=IN_A_SETTING, host=HOST, tail=st.sampled_from(["", "_channel=1_stream=0.sdp?real_stream", "&ch=1"]),
)  # fmt: skip
def test_a_password_in_path_or_query(key: str, lead: str, after: str, host: str, tail: str) -> None:
    shown = redact(f"rtsp://{host}{lead}{key}={CORE}{after}{tail}")
    assert CORE not in shown and host in shown and shown.endswith(tail)


@pytest.mark.requirement("S-10")
@pytest.mark.parametrize(
    "text",
    [
        f"nurse:{CORE}@10.0.0.9/s",
        f"unrecognized arguments: rtsp://nurse:{CORE} pw@10.0.0.9/s",
        f"gst:rtspsrc location=rtsp://nurse:{CORE}@h/s user-pw='{CORE} x' ! appsink",
        f"lost rtsp://nurse:{CORE}@a/s and http://nurse:{CORE}@b/s",
        f"cannot open 'rtsp://h/?password=a {CORE}'",
        f'gst:rtspsrc location=rtsp://h/s user-pw="a\\"{CORE}" cookies="sid={CORE}" ! appsink',
        *(f"http://h/?{setting}{CORE}" for setting in SETTINGS),
        *(typed.format(CORE) for typed in MISTYPED),
    ],
)
def test_a_password_in_a_sentence(text: str) -> None:
    assert CORE not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "file:/data/a:b@c.mp4", "file:///data/a:b@c.mp4", "images:/x/a@b", "rtsp://host/a@b", "rtsp://10.0.0.9:554/s?ch=1",
        "v4l2:/dev/v4l/by-path/pci-0000:00:14.0-usb@0", "exam 3: suspected nuchal collection: refer (evidence 3.43)",
        "room 1", "dicom:/x/study.dcm", "no picture for 5 s; check the address, the path, the credentials and the network",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.requirement("S-10")
@pytest.mark.parametrize(
    "uri",
    [f"rtsp:/nurse:{CORE}@h", f"rtsp;//nurse:{CORE}@h", f"nurse:{CORE}@h/s", f"http://nurse:{CORE}@h/s", f"rtsp:nurse:{CORE}@h",
     f"rtsp://nurse:pw {CORE}@h/s", f"rtsp://nurse:pw/{CORE}@h/s", f"rtsp://h/user=u_password={CORE}"],
)  # fmt: skip
def test_no_message_or_name_of_a_source_shows_it(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert CORE not in parse_uri(uri).name
    except HygromaError as error:
        assert CORE not in str(error)
    assert main(["run", "--source", uri, "--no-status", "--as-fast-as-possible"]) == 78
    with pytest.raises(SystemExit):
        main(["run", uri])  # the option was forgotten
    said = capsys.readouterr()
    assert CORE not in said.out + said.err


@pytest.mark.requirement("S-10")
def test_no_message_about_a_configuration_shows_it() -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_config({"source": {"uri": [f"rtsp://nurse:{CORE}@h"]}}, "c.yaml")
    assert CORE not in str(wrong.value) and "source.uri" in str(wrong.value)


LONG = ["rtsp://", "a:b", "&pass=", " rtsp://a:b@", "user=_", "1", "_", "/", "/:", "a.", "://a", "//:", "'", " user-id="]


@pytest.mark.parametrize("text", [unit * 100_000 for unit in LONG], ids=LONG)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 1.0


@given(st.integers(min_value=READ - 400, max_value=READ + 10))
def test_a_password_at_the_end_of_what_is_read(lead: int) -> None:
    told = redact("x" * lead + f" rtsp://nurse:{CORE}@10.0.0.9/live" + "y" * READ)
    assert not any(CORE[:n] in told for n in range(3, len(CORE) + 1)) and told.startswith("xxx")


@pytest.mark.requirement("S-11")
@given(st.binary(max_size=40))
def test_any_name_can_be_written_anywhere(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    assert printable(text).encode("utf-8").decode("utf-8") == printable(text)
    assert printable(printable(text)) == printable(text)
    logging.getLogger("test").debug("%s", printable(text))
