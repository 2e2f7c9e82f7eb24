#!/usr/bin/env python3
"""Publishes one notification through RabbitMQ, and waits until RabbitMQ has it safely.

    python3 examples/publish_amqp.py amqp://backend:PASSWORD@127.0.0.1:5672/fanfare alice "Your order is on its way"

Needs pika (Debian: python3-pika). The publisher is the RabbitMQ user of the URL.
"""
import argparse
import json
import sys
import uuid

import pika

EXCHANGE = "fanfare.notifications"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="amqp://user:password@host:port/vhost")
    parser.add_argument("user", help="whom it is for")
    parser.add_argument("title")
    parser.add_argument("--lane", choices=["high", "normal", "low"], default="normal")
    parser.add_argument("--ttl", type=int, metavar="SECONDS", help="not worth delivering later than this")
    parser.add_argument("--id", default=str(uuid.uuid4()), help="idempotency key: the same one is stored once")
    arguments = parser.parse_args()

    parameters = pika.URLParameters(arguments.url)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    notification = {"to": {"users": [arguments.user]}, "type": "example", "title": arguments.title}
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # persistent
        message_id=arguments.id,
        # Checked by RabbitMQ against the login, so that nobody can publish as somebody else.
        user_id=parameters.credentials.username,
        expiration=str(arguments.ttl * 1000) if arguments.ttl else None,
    )
    try:
        # Returns when RabbitMQ has confirmed it.
        channel.basic_publish(EXCHANGE, arguments.lane, json.dumps(notification).encode(), properties, mandatory=True)
    except pika.exceptions.UnroutableError:
        print("no queue takes it: has a Fanfare node been started on this vhost?", file=sys.stderr)
        return 1
    except pika.exceptions.NackError:
        print("the lane is full: try again later, with the same --id", file=sys.stderr)
        return 1
    finally:
        if connection.is_open:
            connection.close()
    print(f"confirmed {arguments.id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
