"""Asks each peer the questions whose cost is measured, and looks at every answer, before it is measured."""

import re
import subprocess
import time
from types import SimpleNamespace

from data import UNLIMITED, token

LIMIT, REMAINING, RESET = "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"
#: What a peer has no means to say: (peer, check).
CANNOT = {
    ("nginx", "200: remaining and reset"), ("nginx", "429: remaining and reset"), ("nginx", "remaining counts down"),
}
#: The field in which a peer tells the upstream who is calling.
IDENTITY = {"tollgate": "x-tollgate-key-id", "as-shipped": "x-tollgate-key-id"}


def ask(port, data, path="/v1/items", credential=None, method="GET", tls=None, fields=()):
    """One request by curl: status, protocol, fields in lower case, body."""
    argv = ["curl", "-sS", "-i", "-m", "10", "-X", method, "-H", "see: 1", "-H", "host: api.localhost"]
    for field in fields:
        argv += ["-H", field]
    if credential is not None:
        argv += ["-H", f"authorization: {credential}"]
    if method == "POST":
        argv += ["-d", '{"a":1}']
    if tls:
        argv += ["--cacert", str(data.ca), "--tlsv1.3", tls]
    url = f"{'https' if tls else 'http'}://localhost:{port}{path}"
    for _ in range(6):
        done = subprocess.run(argv + ["--resolve", f"localhost:{port}:127.0.0.1", url], check=False, capture_output=True)
        if done.returncode != 92:  # curl's word for an answer over HTTP/2 that came before the body was sent
            break
    text = done.stdout.decode("latin1")
    while re.match(r"HTTP/\S+ 1\d\d", text):
        text = text.split("\r\n\r\n", 1)[1]
    if not text.startswith("HTTP/"):
        return SimpleNamespace(status=0, protocol="", fields={}, body=done.stderr.decode())
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return SimpleNamespace(status=int(first.split()[1]), protocol=first.split()[0], fields=found, body=body)


class Checks:
    """Collects what a peer did not do as asked."""

    def __init__(self, peer, data):
        self.peer, self.data, self.count, self.faults, self.missing = peer, data, 0, [], []

    def expect(self, what, is_good, answer):
        self.count += 1
        if is_good:
            return
        if (self.peer, what.split(" (")[0]) in CANNOT:
            self.missing.append(what.split(" (")[0])
        else:
            self.faults.append(f"{what}: {answer.status} {answer.fields} {answer.body[:160]}")

    def refused(self, what, status, answer):
        is_json = "json" in answer.fields.get("content-type", "")
        challenged = status != 401 or answer.fields.get("www-authenticate", "").startswith("Bearer")
        self.expect(what, answer.status == status and is_json and challenged, answer)

    def plain(self, port, tls=None):
        answer = ask(port, self.data, "/plain", tls=tls)
        self.expect("plain 200", answer.status == 200 and len(answer.body) == 200, answer)

    def keys(self, port, protocol, tls=None):
        bearer = lambda n: f"Bearer {self.data.keys[n][0]}"
        say = lambda what: f"{what} ({protocol})"
        q = lambda **more: ask(port, self.data, tls=tls, **more)
        good = q(credential=bearer(0))
        self.expect(say("protocol"), good.protocol == protocol, good)
        self.expect(say("200 and its body"), good.status == 200 and len(good.body) == 200, good)
        self.expect(say("200: limit"), good.fields.get(LIMIT) == str(UNLIMITED), good)
        self.expect(say("200: remaining and reset"), all(re.fullmatch(r"\d+", good.fields.get(x, "")) for x in (REMAINING, RESET)), good)
        self.expect(say("the upstream is told who, not the credential"), self.told(good), good)
        forged = q(credential=bearer(0), fields=(f"{IDENTITY.get(self.peer, 'x-key-id')}: forged",))
        self.expect(say("a forged identity is replaced"), forged.status == 200 and self.told(forged), forged)
        self.expect(say("200 of the last key"), (last := q(credential=bearer(-1), path="/v1/items?x=1")).status == 200, last)
        self.expect(say("200 of a POST"), (post := q(credential=bearer(0), method="POST")).status == 200, post)
        key = self.data.keys[0][0]
        wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
        for what, credential in (("none", None), ("unknown", f"Bearer {wrong}"), ("Basic", "Basic eDp5"), ("other case", f"Bearer tk_live_{key[8:].swapcase()}")):
            self.refused(say(f"401, {what}"), 401, q(credential=credential))
        self.refused(say("403"), 403, q(credential=bearer(1)))
        self.expect(say("200 of its own scope"), (own := q(credential=bearer(1), path="/v1/orders")).status == 200, own)
        self.refused(say("404, path"), 404, q(credential=bearer(0), path="/v1/other"))
        self.limit(q, bearer(2), say)

    def limit(self, q, credential, say):
        if time.time() % 60 > 55:
            time.sleep(60.2 - time.time() % 60)  # some count in windows of a minute
        first = q(credential=credential)
        got = [first] + [q(credential=credential) for _ in range(3)]
        over = got[-1]
        if first.status != 429:  # an earlier protocol's check may have spent it
            self.expect(say("429 after three"), [a.status for a in got] == [200, 200, 200, 429], over)
            self.expect(say("remaining counts down"), [a.fields.get(REMAINING) for a in got[:3]] == ["2", "1", "0"], over)
        self.refused(say("429"), 429, over)
        self.expect(say("429: retry-after and limit"), over.fields.get("retry-after", "").isdigit() and over.fields.get(LIMIT) == "3", over)
        self.expect(say("429: remaining and reset"), REMAINING in over.fields and RESET in over.fields, over)

    def tokens(self, port):
        bearer = lambda **change: f"Bearer {token(self.data, 0, **change)}"
        good = ask(port, self.data, credential=bearer())
        self.expect("token 200", good.status == 200 and len(good.body) == 200 and self.told(good), good)
        self.refused("token 403", 403, ask(port, self.data, "/v1/orders", credential=bearer()))
        past = int(time.time()) - 600
        for what, change in (("iss", {"iss": "https://evil.test"}), ("aud", {"aud": "else"}), ("exp", {"exp": past})):
            self.refused(f"token 401, {what}", 401, ask(port, self.data, credential=bearer(**change)))
        spoiled = bearer()
        spoiled = spoiled[:-20] + ("A" if spoiled[-20] != "A" else "B") + spoiled[-19:]
        self.refused("token 401, signature", 401, ask(port, self.data, credential=spoiled))

    @staticmethod
    def told(answer):
        seen = answer.fields.get("seen-key", "")
        return answer.fields.get("seen-auth") == "[]" and len(seen) > 2 and "forged" not in seen


def run(peer, data):
    """Checks one running peer; gives what it cannot say, or ends the run."""
    checks, at, can = Checks(peer.name, data), peer.ports, peer.can
    if "plain" in can:
        checks.plain(at["plain"])
    if "tlsplain" in can:
        checks.plain(at["tlsplain"], "--http1.1")
        checks.plain(at["tlsplain"], "--http2")
    if "key" in can:
        checks.keys(at["key"], "HTTP/1.1")
    if "tls" in can:
        checks.keys(at["tls"], "HTTP/1.1", "--http1.1")
        checks.keys(at["tls"], "HTTP/2", "--http2")
    if "jwt" in can:
        checks.tokens(at["jwt"])
    if "redis" in can:
        checks.keys(at["redis"], "HTTP/1.1")
    if checks.faults:
        raise SystemExit(f"{peer.name} does not do the job:\n  " + "\n  ".join(checks.faults))
    return checks.count, sorted(set(checks.missing))
