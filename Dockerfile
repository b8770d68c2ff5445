# The server with the dashboard built in. It brings no Postgres: give it PGHOST or DATABASE_URL (docker-compose.yml does).
# It listens to everybody, so it does not start before there is a key (`newcycle keys create`) or NEWCYCLE_AUTHENTICATION=off.

FROM node:20-bookworm-slim AS dashboard
WORKDIR /newcycle/dashboard
COPY dashboard/package.json dashboard/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm \
    npm ci --no-audit --no-fund
COPY dashboard ./
RUN npm run build

FROM rust:1.95-bookworm AS server
WORKDIR /newcycle
COPY Cargo.toml Cargo.lock build.rs ./
COPY migrations migrations
COPY src src
COPY --from=dashboard /newcycle/dashboard/dist dashboard/dist
# The target directory is a cache too, and not part of the image: the binary is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/newcycle/target \
    cargo build --locked --release --bin newcycle \
    && cp target/release/newcycle /usr/local/bin/newcycle

FROM debian:bookworm-slim
# Whom to trust with certificates: identity providers have their keys at https addresses.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin newcycle \
    && install --directory --owner=newcycle --group=newcycle /var/lib/newcycle
COPY --from=server /usr/local/bin/newcycle /usr/local/bin/newcycle
# By number: Kubernetes can tell that it is not root.
USER 10001
WORKDIR /var/lib/newcycle
ENV SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8080 \
    DASHBOARD_PORT=8082 \
    NEWCYCLE_DATA_DIR=/var/lib/newcycle
EXPOSE 8080 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["sh", "-c", "newcycle ready --url http${NEWCYCLE_TLS_CERTIFICATE:+s}://127.0.0.1:$SERVER_PORT"]
ENTRYPOINT ["newcycle"]
CMD ["serve"]
