#!/usr/bin/env python3
"""Publishes one notification over HTTP, and tries again until it is accepted.

    FANFARE_KEY=ffk_... python3 examples/publish_http.py http://127.0.0.1:8080 alice "Your order is on its way"

Needs nothing but Python. All attempts carry one Idempotency-Key, so it is stored once.
"""
import argparse
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

ATTEMPTS = 8


def post(url: str, api_key: str, idempotency_key: str, notification: dict) -> dict:
    request = urllib.request.Request(
        url + "/v1/notifications",
        data=json.dumps(notification).encode(),
        headers={
            "Authorization": "Bearer " + api_key,
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where Fanfare is, such as http://127.0.0.1:8080")
    parser.add_argument("user", help="whom it is for")
    parser.add_argument("title")
    arguments = parser.parse_args()
    api_key = os.environ.get("FANFARE_KEY")
    if not api_key:
        parser.error("put a publisher's key into FANFARE_KEY")

    idempotency_key = str(uuid.uuid4())
    notification = {"to": {"users": [arguments.user]}, "type": "example", "title": arguments.title}
    for attempt in range(ATTEMPTS):
        try:
            answer = post(arguments.url, api_key, idempotency_key, notification)
            print(json.dumps(answer))
            return 0
        except urllib.error.HTTPError as error:
            # Below 500 the request itself is wrong; 409 means that the first attempt is still under way.
            if error.code < 500 and error.code not in (409, 429):
                print(f"{error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
                return 1
            print(f"{error.code}, trying again", file=sys.stderr)
        except (urllib.error.URLError, TimeoutError) as error:
            print(f"{error}, trying again", file=sys.stderr)
        # Full jitter: publishers that failed together do not come back together.
        time.sleep(random.uniform(0, min(10, 0.2 * 2**attempt)))
    print("not accepted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
