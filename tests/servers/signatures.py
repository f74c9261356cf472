"""What moto does not check of a request to S3: its signature (SigV4) and its checksums."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GOOGLE: Any = google_crc32c  # has no types
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request,\s*"
    r"SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})"
)
_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: int(_GOOGLE.value(data)).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


def refused(environ: Mapping[str, Any], body: bytes, secrets: Mapping[str, str], region: str) -> str | None:
    """The S3 code for a request that is not signed with one of `secrets` for `region`, or whose body was damaged."""
    return _unsigned(environ, body, secrets, region) or _damaged(environ, body)


def key_of(environ: Mapping[str, Any]) -> str:
    """The id of the key that signed a request."""
    match = _AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
    return match[1] if match else ""


def _unsigned(environ: Mapping[str, Any], body: bytes, secrets: Mapping[str, str], region: str) -> str | None:
    match = _AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
    if match is None:
        return "AccessDenied"
    key, day, said_region, service, signed_names, signature = match.groups()
    if key not in secrets:
        return "InvalidAccessKeyId"
    if said_region != region:
        return "AuthorizationHeaderMalformed"
    target = environ.get("RAW_URI") or environ["REQUEST_URI"]
    path, _, query = re.sub(r"^https?://[^/]+", "", target).partition("?")
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    payload = _header(environ, "x-amz-content-sha256")
    request = "\n".join(
        (
            environ["REQUEST_METHOD"],
            quote(unquote(path), safe="/-_.~"),
            "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs),
            "".join(f"{name}:{' '.join(_header(environ, name).split())}\n" for name in signed_names.split(";")),
            signed_names,
            payload,
        )
    )
    secret = f"AWS4{secrets[key]}".encode()
    for part in (day, said_region, service, "aws4_request"):
        secret = _hmac(secret, part)
    scope = f"{day}/{said_region}/{service}/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", _header(environ, "x-amz-date"), scope, digest))
    if not hmac.compare_digest(_hmac(secret, text).hex(), signature):
        return "SignatureDoesNotMatch"
    if re.fullmatch(r"[0-9a-f]{64}", payload) and hashlib.sha256(body).hexdigest() != payload:
        return "XAmzContentSHA256Mismatch"
    return None


def _damaged(environ: Mapping[str, Any], body: bytes) -> str | None:
    trailers: dict[str, str] = {}
    if "aws-chunked" in environ.get("HTTP_CONTENT_ENCODING", "") or _header(environ, "x-amz-content-sha256").startswith(
        "STREAMING"
    ):
        body, trailers = _unchunked(body)
        if str(len(body)) != _header(environ, "x-amz-decoded-content-length"):
            return "IncompleteBody"
    md5 = environ.get("HTTP_CONTENT_MD5")
    if md5 and base64.b64encode(hashlib.md5(body).digest()).decode() != md5:
        return "BadDigest"
    for name, function in _CHECKSUMS.items():
        said = _header(environ, f"x-amz-checksum-{name}") or trailers.get(f"x-amz-checksum-{name}")
        if said and base64.b64encode(function(body)).decode() != said:
            return "BadDigest"
    return None


def _unchunked(body: bytes) -> tuple[bytes, dict[str, str]]:
    data = bytearray()
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        length = int(body[at:end].split(b";")[0], 16)
        at = end + 2
        if not length:
            lines = (line.decode().partition(":") for line in body[at:].split(b"\r\n") if b":" in line)
            return bytes(data), {name.strip().lower(): value.strip() for name, _, value in lines}
        data += body[at : at + length]
        at += length + 2


def _header(environ: Mapping[str, Any], name: str) -> str:
    plain = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
    return str(environ.get(plain.get(name, f"HTTP_{name.upper().replace('-', '_')}"), ""))


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
