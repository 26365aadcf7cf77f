"""What all peers are given: a certificate, 10,000 keys, and tokens of an issuer."""

import base64
import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

KEYS = 10_000
TOKENS = 256
UNLIMITED = 1_000_000_000
ALL = ("items:read", "items:write", "orders:read")


def run(*argv, **more):
    done = subprocess.run([str(a) for a in argv], check=False, capture_output=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(a) for a in argv)}:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def make(folder, target, policy, jwks_port, keys=KEYS):
    """Certificates and the store come from `tollgate init`, keys from the bench's `seed`."""
    home = Path(folder) / "tollgate"
    run(target / "tollgate", "init", home, "--host", "api.localhost")
    data = SimpleNamespace(
        home=home, cert=home / "cert.pem", tls_key=home / "key.pem", ca=home / "ca.pem", jwks=Path(folder) / "jwks.json",
        jwt_key=Path(folder) / "jwt_key.pem", jwt_public_pem=Path(folder) / "jwt_public.pem",
        issuer=f"https://localhost:{jwks_port}", audience="bench",
    )
    (home / "policy.yaml").write_text(policy(data))
    data.keys = seed(target, home, f"sqlite://{home}/tollgate.db", keys)
    run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", data.jwt_key)
    run("openssl", "pkey", "-in", data.jwt_key, "-pubout", "-out", data.jwt_public_pem)
    modulus = run("openssl", "rsa", "-in", data.jwt_key, "-noout", "-modulus").decode().strip().split("=")[1]
    key = {"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": base64url(bytes.fromhex(modulus)).decode()}
    data.jwks.write_text(json.dumps({"keys": [key]}))
    data.tokens = [token(data, n) for n in range(TOKENS)]
    return data


def seed(target, home, store, which):
    """Puts keys into a store, so many new ones or those of a file; the second may only read orders, the third has a limit of 3."""
    settings = home / "seed.yaml"
    text = (home / "tollgate.yaml").read_text().replace("store: sqlite://tollgate.db", f'store: "{store}"')
    settings.write_text(text)
    run(target / "tollgate", "--config", settings, "orgs", "create", "peers", "--permissions", " ".join(ALL))
    lines = run(target / "seed", store, home / "pepper", "peers", which).decode().split()
    scopes = lambda n: ("orders:read",) if n == 1 else ALL
    return [(key, scopes(n), 3 if n == 2 else UNLIMITED) for n, key in enumerate(lines)]


def token(data, number, **change):
    claims = {"iss": data.issuer, "aud": data.audience, "sub": f"user-{number}", "client_id": "bench", "jti": f"t{number}",
              "exp": int(time.time()) + 86_400, "scope": "items:read items:write"}
    claims.update(change)
    head = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    signed = base64url(json.dumps(head).encode()) + b"." + base64url(json.dumps(claims).encode())
    signature = run("openssl", "dgst", "-sha256", "-sign", data.jwt_key, input=signed)
    return (signed + b"." + base64url(signature)).decode()


def copy_keys(target, data, store):
    """Puts the keys of all peers into another store as well."""
    listed = data.home / "keys.txt"
    listed.write_text("".join(f"{key}\n" for key, _, _ in data.keys))
    seed(target, data.home, store, listed)
