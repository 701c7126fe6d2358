"""What may be shown of a text that somebody typed: its secrets replaced by ***, and letters that nobody can encode written out.

People type passwords with spaces, slashes and at-signs into addresses, and mistype the address. So more is taken away than a
URI's grammar asks for: a piece of a path too much is a pity, a piece of a password is not to be had back.
"""

from __future__ import annotations

import re

LONGEST = 300  # characters of user and password together; without an end a made-up text would take seconds
READ = 4096  # characters of a text that are read, as many as the longest path has; some patterns take their square in time
_NETWORK = r"(?:rtsps?|rtps|rtmps?|https?|srt|ftps?|smb|mms[ht]?|udp|tcp|ws|wss)"
_START = rf"\b(?:{_NETWORK}[:;]?/{{1,3}}|{_NETWORK}:|file://(?!/)|(?!file:)\w[\w+.-]*://)"  # of an address, as people write it
_NEXT = rf"\s[\"'(]?{_NETWORK}[:;]?//"  # another address later on the line
# User and password: as FFmpeg takes them, to the last @ before the first slash. Where a colon stands before an @, all to the last
# one of the address: a password may hold a slash or a space.
_USERINFO = re.compile(rf"({_START})[^/\s]*@")
_TO_THE_LAST_AT = re.compile(rf"({_START})(?=[^\n@]{{0,{LONGEST}}}:)(?:(?!{_NEXT})[^\n]){{0,{LONGEST}}}@", re.IGNORECASE)
# The same without any scheme: nurse:hunter2@host. A path may hold an @ too: what is read from disk is left alone.
_BARE = re.compile(r"(?<![\w:/@.+-])(?!(?:file|v4l2|images|dicom|gst):)[\w.%+-]+:(?!/)[^\s@]+@(?=[\w\[])")
# Mistyped beyond its scheme: "rtsp ://", "rtsp.//", "//", "/". A colon stands before the @, which some write as %40.
_AT = "(?:@|%40|\uff20)"
_HERE = rf"(?:(?!{_NEXT}|\*\*\*)[^\n]){{0,{LONGEST}}}"  # no further address, and nothing that is hidden already
_LOOSE = re.compile(rf"(/{{1,3}})(?={_HERE}:){_HERE}{_AT}")
_ON_DISK = re.compile(r"(?:file|v4l2|images|dicom):", re.IGNORECASE)
# A setting within an address, in its query or its path: user=u_password=x.sdp. It ends where the next one begins.
_SECRET = (
    r"(?:[\w.\[\]%-]{0,64}?(?:pass|pwd|psw|token|key|secret|auth|user|usr|login|cred|cookie)[\w.\[\]%-]{0,64}?"
    r"|p|pw|u|pin|sid|sess\w*|jwt|sig\w*|code|streamid)"
)
_NEXT_SETTING = rf"(?:&|_(?:{_SECRET}|channel|stream|subtype|ch|proto\w*)=)"
_SIGN = r"\s?(?:=|:|%3D)\s?"
_SETTING = re.compile(rf"([?&;#/_,]{_SECRET}{_SIGN})((?:(?!{_NEXT_SETTING})[^\s\"'])*)", re.IGNORECASE)
_SETTING_OF_ADDRESS = re.compile(rf"([?&;#/_,]{_SECRET}{_SIGN})((?:(?!{_NEXT_SETTING})[^\n])*)", re.IGNORECASE)
_QUOTED = re.compile(r"""(["'])([^"'\n]*)\1""")
# Properties of GStreamer's network elements, bare or quoted.
_PROPERTY = re.compile(
    r"""(\s(?:(?:user|proxy)-(?:id|pw)|cookies|extra-headers|[\w-]*(?:password|passphrase|token|secret)[\w-]*)=)"""
    r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s!]+)""",
    re.IGNORECASE,
)
_IS_ADDRESS = re.compile(rf"{_START}", re.IGNORECASE)


def redact(text: str) -> str:
    """Any text with the credentials of every address in it replaced by ***, and printable: see `printable`. For each name, log
    line, message and record. Of a text over `READ` characters only its begin is given back, less the last `LONGEST`: a password
    that the cut falls into is among them."""
    if len(text) > READ:
        return redact(text[:READ])[:-LONGEST] + "..."
    text = _PROPERTY.sub(r"\1***", text)
    text = _QUOTED.sub(lambda found: found[1] + _of_address(found[2]) + found[1] if _address_in(found[2]) else found[0], text)
    return printable(_of_address(text) if _address_in(text) else _BARE.sub("***@", _hidden(text, _SETTING)))


def _address_in(text: str) -> bool:
    """Whether a text is an address and nothing else: a value in it may hold spaces; in a sentence it ends with its word."""
    return bool(_IS_ADDRESS.match(text))


def _of_address(text: str) -> str:
    return _BARE.sub("***@", _hidden(text, _SETTING_OF_ADDRESS))


def _hidden(text: str, setting: re.Pattern[str]) -> str:
    text = _USERINFO.sub(r"\1***@", _TO_THE_LAST_AT.sub(r"\1***@", text))
    if not _ON_DISK.match(text):
        text = _LOOSE.sub(r"\1***@", text)
    return setting.sub(r"\1***", text)


def is_text(text: str) -> bool:
    """Whether it can be encoded: a file's name need not be."""
    return printable(text) == text


def printable(text: str) -> str:
    """What of a file's name is no UTF-8 (Python keeps such bytes as lone surrogates) written as \\udcfc: any file, database,
    terminal and page can take it then."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
