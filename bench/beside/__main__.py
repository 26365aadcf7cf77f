"""Tollgate beside what one would take instead: started by bench/peers."""

import argparse
import random
import subprocess
import tempfile
import time
from pathlib import Path

import check
import data as given
import envoy
import haproxy
import nginx
import ours
import report
from load import JOBS, Load
from world import Running, free_port, ports, redis, upstream

#: Time for what is written behind to be written, after a warm-up.
SETTLE_S = 3
WITH_CHECKS = ("plain", "key", "tlsplain", "tls")


class Peer:
    """A peer that runs: its listeners, and what it can do."""

    def __init__(self, name, at, process, can):
        self.name, self.ports, self.process, self.can = name, at, process, can
        self.for_redis = None

    def running(self, job):
        return self.for_redis if job == "redis" and self.for_redis else self.process


def start(name, target, folder, up, redis_port, data):
    at = ports(upstream=up, redis=redis_port)
    log = Path(folder) / f"{name}.log"
    lists = {"plain": at.plain, "key": at.key, "jwt": at.jwt, "tlsplain": at.tlsplain, "tls": at.tls, "redis": at.redis_lim}
    if name == "tollgate":
        lists.update(plain=at.key, jwt=at.key, tlsplain=at.tls)
        peer = Peer(name, lists, Running(ours.tollgate(target, at, data), at.key, log), (*WITH_CHECKS, "jwt", "redis"))
        store = f"redis://127.0.0.1:{redis_port}"
        given.copy_keys(target, data, store)
        peer.for_redis = Running(ours.tollgate_redis(target, at, data), at.redis_lim, Path(folder) / "tollgate-redis.log")
        return peer
    if name == "as-shipped":
        lists.update(plain=at.key, jwt=at.key, tlsplain=at.tls)
        return Peer(name, lists, Running(ours.as_shipped(target, at, data), at.key, log), (*WITH_CHECKS, "jwt"))
    if name == "hyper":
        return Peer(name, lists, Running([target / "hyper_proxy", at.plain, up], at.plain, log), ("plain",))
    make, can = {
        "nginx": (nginx.nginx, WITH_CHECKS), "nginx-lua": (nginx.nginx_lua, (*WITH_CHECKS, "jwt", "redis")),
        "haproxy": (haproxy.haproxy, (*WITH_CHECKS, "jwt")), "envoy": (envoy.envoy, (*WITH_CHECKS, "jwt")),
    }[name]
    return Peer(name, lists, Running(make(Path(folder) / name, at, data), at.tls, log), can)


def arguments():
    parse = argparse.ArgumentParser(prog="bench/peers", description=__doc__)
    parse.add_argument("--target", type=Path, required=True, help=argparse.SUPPRESS)
    parse.add_argument("--rounds", type=int, default=5, help="rounds of each job (5)")
    parse.add_argument("--seconds", type=int, default=3, help="seconds of each measurement (3)")
    parse.add_argument("--jobs", default=",".join(JOBS), help=f"of {','.join(JOBS)}")
    parse.add_argument("--peers", default=",".join(report.ORDER), help=f"of {','.join(report.ORDER)}")
    parse.add_argument("--together", action="store_true", help="all jobs in each round: for the difference between jobs")
    parse.add_argument("--routes", type=int, default=0, help="further routes in Tollgate's policy")
    parse.add_argument("--keys", type=int, default=given.KEYS, help=f"keys of all peers ({given.KEYS})")
    parse.add_argument("--json", type=Path, help="where to write every measurement")
    parse.add_argument("--plot", type=Path, help="where to draw the medians, as SVG")
    return parse.parse_args()


def half_of_the_slowest(peers, load):
    """Requests a second of which every peer can do twice as many."""
    able = [peer for peer in peers if "key" in peer.can]
    return min(load.run("key", peer.ports["key"])[0] for peer in able for _ in range(2)) / load.seconds / 2


def measure(peers, load, options):
    """Job by job, each in rounds; or, together, all jobs in each round."""
    jobs, rows = options.jobs.split(","), []
    if "half" in jobs:
        load.rate = half_of_the_slowest(peers, load)
    for group in [jobs] if options.together else [[job] for job in jobs]:
        able = [(job, peer) for job in group for peer in peers if JOBS[job][1] in peer.can]
        for job, peer in able:  # caches fill, connections open
            load.run(job, peer.ports[JOBS[job][1]])
        time.sleep(SETTLE_S)
        for number in range(options.rounds):
            for job, peer in random.sample(able, len(able)):
                rows.append(load.measure(job, peer) | {"round": number})
        for job in group:
            report.job(job, rows)
    return rows


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        started = []
        try:
            up, jwks, redis_port = free_port(), free_port(), free_port()
            policy = lambda data: ours.policy(data, up, options.routes)
            data = given.make(folder, options.target, policy, jwks, options.keys)
            started.append(upstream(folder, data, up, jwks))
            started.append(redis(folder, redis_port))
            peers = []
            for name in options.peers.split(","):
                peer = start(name, options.target, folder, up, redis_port, data)
                started += [peer.process] + ([peer.for_redis] if peer.for_redis else [])
                peers.append(peer)
            time.sleep(1)
            for peer in peers:
                count, missing = check.run(peer, data)
                print(f"{peer.name}: {count} answers as they should be" + (f"; cannot say: {', '.join(missing)}" if missing else ""), flush=True)
            rows = measure(peers, Load(folder, data, options.seconds), options)
        finally:
            for process in reversed(started):
                process.stop()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True).stdout.strip()
    report.all(rows, options, commit)


main()
