"""Walks the whole flow with a Python client library: authlib or requests-oauthlib.

Prints `AUTHORIZE <url>`, reads where the user was sent back to, and goes on: code, API, refresh,
reuse, revocation. Prints `OK` when all of it went as the library expects it to.
"""

import os
import sys

import requests

library = sys.argv[1]
issuer, client_id, secret = os.environ["ISSUER"], os.environ["CLIENT_ID"], os.environ.get("CLIENT_SECRET")
callback, api, ca = os.environ["CALLBACK"], os.environ["API"], os.environ["CA"]
metadata = requests.get(issuer + "/.well-known/oauth-authorization-server", verify=ca).json()
assert metadata["issuer"] == issuer
scope = "packs:read downloads:read"


def ask_user(url):
    print("AUTHORIZE", url, flush=True)
    return sys.stdin.readline().strip()


if library == "authlib":
    from authlib.common.security import generate_token
    from authlib.integrations.requests_client import OAuth2Session

    method = "client_secret_basic" if secret else "none"
    client = OAuth2Session(
        client_id, secret, scope=scope, redirect_uri=callback, code_challenge_method="S256",
        token_endpoint_auth_method=method, revocation_endpoint_auth_method=method,
    )
    client.verify = ca
    verifier = generate_token(48)
    url, state = client.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier)
    back = ask_user(url)
    token = client.fetch_token(metadata["token_endpoint"], authorization_response=back, code_verifier=verifier)
    first = dict(token)
    assert client.get(api).status_code == 200
    token = client.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"])
    assert token["refresh_token"] != first["refresh_token"]
    assert client.get(api).status_code == 200
    if secret:
        seen = client.introspect_token(metadata["introspection_endpoint"], token=token["access_token"]).json()
        assert seen["active"] is True and seen["client_id"] == client_id, seen
    answer = client.revoke_token(metadata["revocation_endpoint"], token=token["refresh_token"])
    assert answer.status_code == 200, answer
    assert requests.get(api, headers={"Authorization": "Bearer " + token["access_token"]}, verify=ca).status_code == 401
else:
    from oauthlib.oauth2 import InvalidGrantError
    from requests_oauthlib import OAuth2Session

    client = OAuth2Session(client_id, scope=scope.split(), redirect_uri=callback, pkce="S256")
    client.verify = ca
    url, state = client.authorization_url(metadata["authorization_endpoint"])
    back = ask_user(url)
    login = {"client_secret": secret} if secret else {"include_client_id": True}
    token = client.fetch_token(metadata["token_endpoint"], authorization_response=back, **login)
    assert set(token["scope"]) == set(scope.split()), token
    assert client.get(api).status_code == 200
    auth = (client_id, secret) if secret else None
    extra = {} if secret else {"client_id": client_id}
    newer = client.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"], auth=auth, **extra)
    assert client.get(api).status_code == 200
    newest = client.refresh_token(metadata["token_endpoint"], refresh_token=newer["refresh_token"], auth=auth, **extra)
    try:
        client.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"], auth=auth, **extra)
        raise AssertionError("a stolen refresh token worked")
    except InvalidGrantError:
        pass
    assert requests.get(api, headers={"Authorization": "Bearer " + newest["access_token"]}, verify=ca).status_code == 401

print("OK", flush=True)
