"""Who a caller is: the operator, a tenant, or nobody.

    on loopback, no KELM_API_KEY, no key ever made    everybody is the operator, tenant ``local``
    else, with KELM_API_KEY or the daemon's token     the operator, tenant ``local``
          with a key of `kelm key create TENANT`      that tenant: every door but the operator's
          with anything else                          nobody: 401

The token is in KELM_HOME/run/daemon.json, which only the user who runs the daemon can read; so the command line needs
no key on its own machine, whoever else does.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from kelm.errors import Forbidden, Unauthorized
from kelm.kernel.keys import Keys

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Identity:
    """``operator``: may use the admin doors, see all tenants' figures and ask for priorities below 0."""

    tenant: str = LOCAL
    operator: bool = True


class Access:
    """``api_key`` and ``token`` are the operator's; ``trusting``: without any key, everybody is."""

    def __init__(self, api_key: str | None, keys: Keys | None, token: str | None, *, trusting: bool) -> None:
        self._operators = [_digest(secret.encode()) for secret in (api_key, token) if secret]
        self._keys = keys
        self._trusting = trusting and not api_key

    def identify(self, given: bytes | None, path: str) -> Identity:
        """``given``: the bearer's key; None where none came. Raises Unauthorized, Forbidden, StoreError."""
        digest = _digest(given or b"")
        if sum(hmac.compare_digest(digest, one) for one in self._operators):  # all are compared, whichever it is
            return Identity()
        if self._trusting and not (self._keys is not None and self._keys.exist):
            return Identity()
        if given is None:
            raise Unauthorized("a valid API key is needed: send the header Authorization: Bearer KEY")
        if self._keys is None:
            raise Unauthorized("this API key is unknown here: send the daemon's own (KELM_API_KEY)")
        tenant = self._keys.check(given).tenant
        if is_operators(path):
            raise Forbidden(
                f"this door is the operator's, the key is tenant {tenant}'s: send the daemon's own key (KELM_API_KEY)"
            )
        return Identity(tenant, operator=False)


def is_operators(path: str) -> bool:
    """Doors that act on everybody's work, or tell of it."""
    return path == "/metrics" or path.startswith("/admin/")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
