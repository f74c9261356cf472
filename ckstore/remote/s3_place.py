"""Where an S3 remote is: what its URL says. It holds no credentials; those come from boto3's standard chain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ckstore.errors import InvalidInput

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_FORM = "s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION&profile=PROFILE"


@dataclass(frozen=True)
class S3Place:
    """A bucket, the prefix of all keys without slashes at its ends, and what to reach it by."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    @property
    def url(self) -> str:
        said = {"endpoint": self.endpoint, "region": self.region, "profile": self.profile}
        query = urlencode({key: value for key, value in said.items() if value}, safe=":/")
        path = f"/{quote(self.prefix)}" if self.prefix else ""
        return f"s3://{self.bucket}{path}{'?' * bool(query)}{query}"

    def key(self, name: str) -> str:
        """The key of what is called `name` in this place; of the empty name, what all keys begin with."""
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_s3(url: str) -> S3Place:
    """The place that a URL names. Raises `InvalidInput`; the message repeats nothing of what may be secret."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise InvalidInput(f"this is no S3 URL: {error}", hint=f"write {_FORM}") from None
    if "@" in parts.netloc or "@" in query.get("endpoint", ""):
        raise InvalidInput(
            "a URL of a remote holds no credentials",
            hint="put them where every AWS tool finds them: AWS_ACCESS_KEY_ID, ~/.aws/credentials, or ?profile=NAME",
        )
    unknown = sorted(set(query) - {"endpoint", "region", "profile"})
    if unknown:
        raise InvalidInput(f"an S3 URL has no {', '.join(unknown)}", hint=f"write {_FORM}")
    if parts.scheme != "s3" or parts.fragment or _BUCKET.fullmatch(parts.netloc) is None:
        raise InvalidInput(f"{parts.netloc!r} is no name of a bucket", hint=f"write {_FORM}")
    endpoint = query.get("endpoint") or None
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise InvalidInput(f"the endpoint {endpoint!r} is no URL", hint=f"write {_FORM}")
    prefix = unquote(parts.path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InvalidInput(f"the prefix {prefix!r} has empty parts or dots", hint=f"write {_FORM}")
    return S3Place(parts.netloc, prefix, endpoint, query.get("region") or None, query.get("profile") or None)
