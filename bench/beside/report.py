"""What was measured, in words and as a plot."""

import json
import os
import platform
import statistics
from pathlib import Path

from load import JOBS

ORDER = ("tollgate", "as-shipped", "nginx", "nginx-lua", "haproxy", "envoy", "hyper")
COLOURS = {"tollgate": "#0b6e4f", "as-shipped": "#5c9e87", "hyper": "#c7a76c", "nginx": "#b9c0c8", "nginx-lua": "#98a3ae", "haproxy": "#6c7a89", "envoy": "#48525c"}


def of(rows, job, peer, field):
    return [row[field] for row in rows if row["job"] == job and row["peer"] == peer and row[field] is not None]


def median(rows, job, peer, field):
    values = of(rows, job, peer, field)
    return statistics.median(values) if values else None


def ratio(rows, job, peer):
    """Median of same-round ratios: Tollgate's CPU per request over the peer's."""
    ours = {row["round"]: row["cpu_us"] for row in rows if row["job"] == job and row["peer"] == "tollgate"}
    theirs = {row["round"]: row["cpu_us"] for row in rows if row["job"] == job and row["peer"] == peer}
    shared = [ours[n] / theirs[n] for n in ours if n in theirs]
    return statistics.median(shared) if shared else None


def able(rows, job):
    return [peer for peer in ORDER if of(rows, job, peer, "cpu_us")]


def number(value, form):
    return "–" if value is None else format(value, form)


def job(name, rows):
    """One job's medians, as soon as it is measured."""
    print(f"\n{name}: {JOBS[name][0]}")
    print(f"  {'':10} {'CPU µs':>8} {'best':>7} {'per CPU-s':>10} {'per s':>8} {'p50 µs':>8} {'p99 µs':>8} {'MiB':>6}  tollgate / it")
    for peer in able(rows, name):
        cpu = median(rows, name, peer, "cpu_us")
        line = f"  {peer:10} {cpu:8.1f} {min(of(rows, name, peer, 'cpu_us')):7.1f} {1e6 / cpu:10.0f} {median(rows, name, peer, 'per_s'):8.0f}"
        line += f" {number(median(rows, name, peer, 'p50_us'), '8.0f'):>8} {number(median(rows, name, peer, 'p99_us'), '8.0f'):>8}"
        print(line + f" {median(rows, name, peer, 'resident_mib'):6.0f}  {number(ratio(rows, name, peer), '.2f')}", flush=True)


def table(rows, jobs):
    """Medians of CPU µs per request, as Markdown."""
    peers = [peer for peer in ORDER if any(of(rows, j, peer, "cpu_us") for j in jobs)]
    lines = ["| job | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for name in jobs:
        cells = []
        for peer in peers:
            cpu, times = median(rows, name, peer, "cpu_us"), ratio(rows, name, peer)
            cells.append("–" if cpu is None else f"{cpu:.1f}" + (f" ({times:.2f})" if times and peer != "tollgate" else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine():
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release().split('-')[0]}"


def all(rows, options, commit):
    jobs = options.jobs.split(",")
    what = f"{machine()}; commit {commit}; {options.rounds} rounds of {options.seconds} s"
    print(f"\nMedians of CPU µs per request; in brackets Tollgate's over that peer's, the median of same-round ratios.\n{what}\n")
    print(table(rows, jobs))
    if options.together:
        floors(rows, jobs)
    if options.json:
        options.json.write_text(json.dumps({"machine": what, "rows": rows}))
    if options.plot:
        options.plot.write_text(plot(rows, jobs, what))


def floors(rows, jobs):
    """What each job costs over the first, from the same rounds."""
    cost = {(row["peer"], row["job"], row["round"]): row["cpu_us"] for row in rows}
    for peer in ORDER:
        for name in jobs[1:]:
            pairs = [(cost[peer, name, n], cost.get((peer, jobs[0], n))) for (p, j, n) in cost if (p, j) == (peer, name)]
            over = [one - floor for one, floor in pairs if floor is not None]
            if over:
                print(f"{peer}: {name} over {jobs[0]} {statistics.median(over):+.1f} µs (from {min(over):+.1f} to {max(over):+.1f})")


def plot(rows, jobs, what):
    """Bars of CPU per request, job by job; each job has its own scale."""
    jobs = [name for name in jobs if able(rows, name)]
    wide, bar, left, gap = 880, 15, 250, 26
    body, y = [], 62
    for name in jobs:
        peers = able(rows, name)
        most = max(median(rows, name, peer, "cpu_us") for peer in peers)
        body.append(f'<text x="16" y="{y + 12}" font-weight="600">{name}</text><text x="16" y="{y + 28}" fill="#5b6570">{JOBS[name][0]}</text>')
        for peer in peers:
            cpu = median(rows, name, peer, "cpu_us")
            length = max(2, cpu / most * (wide - left - 190))
            body.append(f'<text x="{left + 70}" y="{y + 12}" text-anchor="end" fill="#333">{peer}</text>')
            body.append(f'<rect x="{left + 78}" y="{y + 1}" width="{length:.1f}" height="{bar - 2}" rx="2" fill="{COLOURS[peer]}"/>')
            body.append(f'<text x="{left + 84 + length:.1f}" y="{y + 12}" fill="#333">{cpu:.1f}</text>')
            y += bar
        y += max(gap, 34 - bar * len(peers))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y}" width="{wide}" height="{y}" font-family="system-ui, sans-serif" font-size="12">'
    title = f'<rect width="{wide}" height="{y}" fill="#fff"/><text x="16" y="26" font-size="16" font-weight="600">CPU of the proxy, µs per request (less is better)</text>'
    return "\n".join([head, title, f'<text x="16" y="44" fill="#5b6570">{what}</text>', *body, "</svg>\n"])
