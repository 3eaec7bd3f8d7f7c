# SPDX-License-Identifier: Apache-2.0
"""What an object store refuses, in words: nothing there, nobody let in, or nobody reached."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lmi.api import ArtifactError
from lmi.config.names import shown

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_CAUSE = re.compile(r'(?:message|error): "([^"]{3,200})"')
_NO_CREDENTIALS = (
    "Missing AccessKeyId",
    "Missing SecretAccessKey",
    "169.254.169.254",
    "metadata.google.internal",
    "latest/api/token",
    "169.254.170.",
    "AssumeRoleWithWebIdentity",
)
_REFUSED = {
    "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "redirect without LOCATION", "TemporaryRedirect")
_NETWORK = "Check the URL, the region (AWS_REGION) and the network"
_NETWORK_OF_OTHERS = "Check the URL and the network"
_ACCOUNT = "Set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or another of AZURE_STORAGE_..."
_NO_ACCOUNT = "Account must be specified"
_ASKED = re.compile(r"https?://[^/\s?\"]+")
_BUSY = "Try again later: the store has too much to do, or a fault of its own"


class StoreError(OSError):
    """A file in an object store cannot be read.

    Args:
        error: what to tell.
        is_final: another try would fail too.
    """

    def __init__(self, error: ArtifactError, *, is_final: bool = True) -> None:
        super().__init__(str(error))
        self.error, self.is_final = error, is_final


def status_of(error: BaseException) -> int:
    """The HTTP status that an error tells of; 0 where there was no answer."""
    if isinstance(error, FileNotFoundError):
        return 404
    match = _STATUS.search(str(error))
    return int(match[1]) if match else 0


def is_other_region(error: BaseException) -> bool:
    """Whether the bucket is in another region than it was asked for in."""
    text = str(error)
    return status_of(error) in (301, 307) or any(word in text for word in _OTHER_REGION)


def is_final(error: Exception) -> bool:
    """Whether the store gave an answer that it will give again."""
    from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

    if isinstance(error, FileNotFoundError | PermissionDeniedError | PreconditionError | UnauthenticatedError):
        return True
    return 400 <= status_of(error) < 500 and status_of(error) not in (408, 429) and "RequestTimeout" not in str(error)


def is_panic(error: BaseException) -> bool:
    """Whether obstore broke down; what it raises then is no Exception, and would end a thread without a word."""
    return type(error).__name__ == "PanicException"


def explained(error: BaseException, url: str, environ: Mapping[str, str]) -> ArtifactError:
    """The error to tell for what obstore raised.

    Args:
        error: of obstore, or an ArtifactError, which is told as it is.
        url: of what was asked for.
        environ: AWS's variables, to say which of them are set.
    """
    from obstore.exceptions import (
        InvalidPathError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    if isinstance(error, ArtifactError):
        return error
    text, status = str(error), status_of(error)
    match = _CODE.search(text)
    code = match[1] if match else ""
    if _NO_ACCOUNT in text:
        told = _failed("model.access-denied", f"nothing says whose account {url} is in", _ACCOUNT)
    elif any(word in text for word in _NO_CREDENTIALS):
        told = _nobody(url, environ)
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403) or code in _REFUSED:
        told = _refused(url, code, status, text, environ)
    elif isinstance(error, InvalidPathError):
        message = f"{url} holds an object that cannot be a file: {text.partition(chr(10))[0]}"
        told = _failed("artifacts.unsafe-name", message, "Rename or delete the object")
    elif code == "NoSuchBucket":
        bucket = "/".join(url.split("/")[:3])
        told = _failed("model.not-found", f"there is no bucket {bucket}", "Check the spelling")
    elif status == 404:
        told = _failed("model.not-found", f"there is no {url}", "Check the spelling")
    elif isinstance(error, PreconditionError):
        told = changed(url)
    elif is_other_region(error):
        hint = "Set AWS_REGION to the region of the bucket"
        told = _failed("model.unreachable", f"{url} cannot be read: its bucket is in another region", hint)
    else:
        network = _NETWORK if url.startswith("s3:") else _NETWORK_OF_OTHERS
        hint = _BUSY if status >= 500 or status == 429 else network
        told = _failed("model.unreachable", f"{url} cannot be read: {_reason(error)}", hint)
    return told


def changed(url: str) -> ArtifactError:
    """A file is another one than it was when the model's files were listed."""
    message = f"{url} was changed while the model was read"
    return _failed("model.changed", message, "Start again when nobody writes there any more")


def _nobody(url: str, environ: Mapping[str, str]) -> ArtifactError:
    if not url.startswith("s3:"):
        hint = "Set GOOGLE_APPLICATION_CREDENTIALS" if url.startswith("gs:") else "Set the variables AZURE_STORAGE_..."
        return _failed("model.access-denied", f"there are no credentials for {url}", hint)
    half = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if environ.get(name)]
    only = f"; of the two keys only {half[0]} is set" if len(half) == 1 else ""
    looked = (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE and ~/.aws, AWS_WEB_IDENTITY_TOKEN_FILE with "
        "AWS_ROLE_ARN, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI, the instance's role"
    )
    return _failed(
        "model.access-denied",
        f"there are no credentials for {url}{only}; looked for: {looked}",
        "Set one of these, or AWS_SKIP_SIGNATURE=true for a public bucket",
    )


def _refused(url: str, code: str, status: int, text: str, environ: Mapping[str, str]) -> ArtifactError:
    said = _MESSAGE.search(text)
    answer = " ".join(part for part in (str(status or ""), code) if part) or "a refusal"
    reason = f" ({' '.join(said[1].split())})" if said else ""
    if environ.get("AWS_ACCESS_KEY_ID"):
        who = "AWS_ACCESS_KEY_ID"
    elif environ.get("AWS_PROFILE"):
        who = f"AWS_PROFILE={environ['AWS_PROFILE']}"
    else:
        who = "the role of this machine"
    hint = f"Whoever {who} stands for needs s3:GetObject and s3:ListBucket on the bucket, and kms:Decrypt for its key"
    if not url.startswith("s3:"):
        hint = "Check the credentials, and that they may list and read there"
    elif environ.get("AWS_SKIP_SIGNATURE"):
        hint = "AWS_SKIP_SIGNATURE is set, so nobody's credentials were sent; unset it where the bucket is not public"
    elif "Expired" in code or code in ("InvalidToken", "TokenRefreshRequired"):
        hint = f"The credentials that {who} stands for have ended, or lack AWS_SESSION_TOKEN; get new ones"
    elif code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        hint = f"Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {who} was used"
    elif code == "RequestTimeTooSkewed":
        hint = "Set this machine's clock"
    return _failed("model.access-denied", f"{url} may not be read: the store answers {answer}{reason}", hint)


def _reason(error: BaseException) -> str:
    """What went wrong, out of what obstore writes: an answer, or the innermost cause there is."""
    text, status = str(error), status_of(error)
    if status:
        code, said = _CODE.search(text), _MESSAGE.search(text)
        answer = " ".join(part for part in (str(status), code[1] if code else "") if part)
        return f"the store answers {answer}" + (f" ({said[1].strip()})" if said else "")
    asked = _ASKED.search(text)
    at = f" at {shown('', asked[0].rpartition('@')[2])}" if asked else ""
    causes = _CAUSE.findall(text)
    if causes:
        return f"{causes[-1]}{at}"
    if "TimedOut" in text:
        return f"no answer in time{at}"
    return text.partition("\n")[0][:300]


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, " ".join(message.split()), [], hint)
