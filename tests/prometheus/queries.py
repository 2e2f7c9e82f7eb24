"""Asks a Prometheus that scrapes a live node everything that the dashboard asks, and looks at its rules.

    queries.py http://127.0.0.1:9090 deploy/grafana/fanfare.json

Fails if a query is refused, a rule could not be evaluated or fires, or a metric that every node has from its start gives
nothing.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

DEADLINE = 30


def get(base, path, **query):
    """The `data` of an answer; its error as text where the query is bad."""
    url = f"{base}{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{query}: {json.load(error)['error']}") from None


def until(what, is_so):
    end = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"not within {DEADLINE} s: {what}")
        time.sleep(0.2)


def rules(base):
    return [rule for group in get(base, "/api/v1/rules")["groups"] for rule in group["rules"]]


def main(base, dashboard):
    instant = lambda query: get(base, "/api/v1/query", query=query)["result"]
    until("two scrapes of the node", lambda: instant('count_over_time(up{job="fanfare"}[1m]) >= 3 and up{job="fanfare"} == 1'))
    until("every rule is evaluated", lambda: all(rule["health"] != "unknown" for rule in rules(base)))
    for rule in rules(base):
        assert rule["health"] == "ok", f"{rule['name']}: {rule.get('lastError')}"
        assert rule["state"] == "inactive", f"{rule['name']} is {rule['state']} on a healthy node"
    with open(dashboard) as file:
        panels = json.load(file)["panels"]
    asked, empty = 0, []
    for panel in panels:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            asked += 1
            if not instant(query):
                empty.append(f"{panel['title']}: {target['expr']}")
    # What only a failure, a handshake or a backend makes is not there yet.
    print(f"{len(rules(base))} rules are evaluated, none fires; {asked} queries work, {asked - len(empty)} find something:")
    for query in empty:
        print(f"  nothing yet: {query}")
    assert asked - len(empty) >= asked * 2 // 3, "most of what is asked for is not there"


if __name__ == "__main__":
    main(*sys.argv[1:])
