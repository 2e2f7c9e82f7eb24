# Two stages: the compiler stays behind.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# curl is for the health check.
RUN apt-get update -q \
    && apt-get install -qy --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/fanfare fanfare
COPY --from=build /src/target/release/fanfare /usr/local/bin/fanfare
USER fanfare
# Where an embedded node keeps its data: ./data.
WORKDIR /var/lib/fanfare
EXPOSE 8080 9191
STOPSIGNAL SIGTERM
ENTRYPOINT ["fanfare"]
CMD ["serve"]
