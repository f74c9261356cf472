"""What boto3 raises as errors of a remote. Exceptions are told apart by name, so that boto3 need not be loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ckstore.errors import Auth, CkstoreError, InvalidInput, NotFound, RemoteFailed
from ckstore.remote.interface import Transient, Unclear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_CREDENTIALS = "check `aws sts get-caller-identity`: the environment, ~/.aws/credentials, or ?profile= in the URL"
_EXPIRED = "log in anew (`aws sso login`), or export fresh credentials, then run this again"
_RIGHTS = "ask for s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on that bucket and prefix"
_NO_CHAIN = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}
    | {"TokenRetrievalError", "SSOError", "LoginError", "UnknownTokenProviderError", "RefreshWithMFAUnsupportedError"}
)
_NOT_SENT = frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"})
_NETWORK = frozenset(
    {"HTTPClientError", "ConnectionError", "ResponseParserError", "FlexibleChecksumError", "IncompleteReadError"}
    | {"ChecksumError", "HTTPError", "TimeoutError", "OSError"}
)
_SETTING = frozenset(
    {"ProfileNotFound", "ConfigParseError", "NoRegionError", "InvalidRegionError", "ParamValidationError"}
    | {"InvalidEndpointConfigurationError", "EndpointProviderError", "ValidationError", "InvalidConfigError"}
)
_WRONG_KEY = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"})
_OLD_KEY = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "InvalidDigest"})
_BUSY = frozenset({"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"})
_WRONG_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})


def status_of(error: BaseException) -> int:
    """The HTTP status of an answer that is an error; 0 where there was no answer."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


def code_of(error: BaseException) -> str:
    """The S3 code of an answer that is an error; its status where it names none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def headers_of(error: BaseException) -> dict[str, str]:
    """The headers of an answer that is an error, their names in lower case."""
    headers = _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {str(key).lower(): str(value) for key, value in headers.items()}


def typed(error: Exception, action: str, url: str, *, moves_root: bool = False) -> CkstoreError:
    """The error to raise for `error`; of a move of the root, `Unclear` where it may have happened."""
    if isinstance(error, CkstoreError):
        return error
    what = f"cannot {action} {url}"
    names = {cls.__name__ for cls in type(error).__mro__}
    if "ClientError" in names:
        return _answered(error, what, url, moves_root)
    why = _clean(f"{type(error).__name__}: {error}")
    if names & _NO_CHAIN:
        return Auth(what, why=why, hint=_CREDENTIALS)
    if names & _SETTING:
        return InvalidInput(what, why=why, hint="mend the URL (?endpoint= ?region= ?profile=) or ~/.aws/config")
    if "SSLError" in names and "certificate" in str(error).lower():
        return RemoteFailed(what, why=why, hint="check the endpoint, and AWS_CA_BUNDLE for a certificate of your own")
    if names & _NOT_SENT:
        return Transient(what, why=why, hint="check the network and the endpoint in the URL")
    if names & _NETWORK:
        if moves_root:
            return Unclear(what, why=why, hint="look what is there, then try again")
        return Transient(what, why=why, hint="check the network, then run this again: it goes on where it was")
    return RemoteFailed(what, why=why)


def not_deleted(said: Sequence[Mapping[str, str]], url: str) -> CkstoreError:
    """The error for the objects that an otherwise good answer says could not be deleted."""
    first = said[0]
    what = f"cannot delete {len(said)} objects from {url}"
    why = _clean(f"it said {first.get('Code')}: {first.get('Message', '')}")
    if first.get("Code") == "AccessDenied":
        return Auth(what, why=why, hint=_RIGHTS)
    kind = Transient if first.get("Code") in _BUSY | {"InternalError", "ServiceUnavailable"} else RemoteFailed
    return kind(what, why=why, hint="try again later")


def _answered(error: Exception, what: str, url: str, moves_root: bool) -> CkstoreError:
    code, status = code_of(error), status_of(error)
    said = str(_response(error).get("Error", {}).get("Message", ""))
    why = _clean(f"it said {status} {code}{': ' if said and said != code else ''}{said if said != code else ''}")
    if code == "NoSuchBucket":
        return NotFound(f"there is no bucket at {url}", why=why, hint="make it first, or mend the URL")
    if code in _WRONG_REGION or status == 301:
        region = headers_of(error).get("x-amz-bucket-region") or _response(error).get("Error", {}).get("Region")
        return RemoteFailed(what, why=why, hint=f"the bucket is in another region: add ?region={region or 'REGION'}")
    if code in ("RequestTimeTooSkewed", "RequestInTheFuture"):
        return RemoteFailed(what, why=why, hint="set the clock of this machine")
    if code in _OLD_KEY:
        return Auth(what, why=why, hint=_EXPIRED)
    if code in _WRONG_KEY or status == 401:
        return Auth(what, why=why, hint=_CREDENTIALS)
    if status == 403:
        return Auth(what, why=why, hint=_RIGHTS)
    if status == 429 or code in _DAMAGED or (code in _BUSY and not moves_root):
        return Transient(what, why=why, hint="try again later", retry_after_s=_retry_after_s(error))
    if status == 501 or code == "NotImplemented":
        return RemoteFailed(what, why=why, hint="this server cannot do that: `ckstore remote test` says what it can")
    if status >= 500 or status in (408, 409) or code in _BUSY:
        kind = Unclear if moves_root else Transient
        return kind(what, why=why, hint="try again later", retry_after_s=_retry_after_s(error))
    if status == 404:
        return NotFound(what, why=why)
    return RemoteFailed(what, why=why)


def _retry_after_s(error: BaseException) -> float | None:
    said = headers_of(error).get("retry-after", "")
    return float(said) if said.isdecimal() and len(said) < 6 else None


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _clean(text: str) -> str:
    """One short line without ids of keys."""
    return _KEY_ID.sub("(key id)", " ".join(text.split()))[:300]
