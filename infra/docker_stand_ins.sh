#!/bin/sh
# A Docker engine and the images the tests want, on a machine that may reach no image registry.
#
#   infra/docker_stand_ins.sh start DIR   start an engine if none answers; have or make each image
#   infra/docker_stand_ins.sh stop DIR    stop the engine if (and only if) this DIR started it
#
# An image that is here or can be pulled is the official one. Otherwise a stand-in is made under the
# same name from Debian packages: same program, same environment variables, nothing else of it.
set -eu

command=${1:?start or stop}
state=${2:?a folder for pid, log and build contexts}
root=$(cd "$(dirname "$0")/.." && pwd)

POSTGRES_IMAGE=${DAYBOOK_TEST_POSTGRES_IMAGE:-postgres:15}
KAFKA_IMAGE=${DAYBOOK_KAFKA_IMAGE:-apache/kafka:4.1.1}
PYTHON_IMAGE=${DAYBOOK_TEST_PYTHON_IMAGE:-python:3.11-slim-bookworm}
BASE_IMAGE=debian:bookworm-slim
PULL_TIMEOUT_S=${DAYBOOK_PULL_TIMEOUT_S:-60}

say() { printf 'docker: %s\n' "$*" >&2; }

start_engine() {
    if docker info >/dev/null 2>&1; then
        say "an engine answers already"
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
        say "no engine answers, and none can be started here (dockerd and root are needed)"
        exit 1
    fi
    dockerd --ip=127.0.0.1 >"$state/dockerd.log" 2>&1 &
    echo $! >"$state/dockerd.pid"
    tries=0
    until docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ] || ! kill -0 "$(cat "$state/dockerd.pid")" 2>/dev/null; then
            say "the engine did not start:"
            tail -n 20 "$state/dockerd.log" >&2
            exit 1
        fi
        sleep 1
    done
    say "engine started"
}

stop_engine() {
    [ -f "$state/dockerd.pid" ] || return 0
    pid=$(cat "$state/dockerd.pid")
    kill "$pid" 2>/dev/null || true
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 30 ]; do
        tries=$((tries + 1))
        sleep 1
    done
    rm -f "$state/dockerd.pid"
}

have() { docker image inspect "$1" >/dev/null 2>&1; }

# One failed pull says that no registry is in reach; the rest need not wait for it.
pull() {
    [ ! -e "$state/no-registry" ] || return 1
    timeout "$PULL_TIMEOUT_S" docker pull --quiet "$1" >/dev/null 2>&1 && return 0
    touch "$state/no-registry"
    return 1
}

want() {  # image, function that makes its stand-in
    if have "$1"; then
        say "$1 is here"
    elif pull "$1"; then
        say "$1 pulled"
    else
        say "$1 cannot be pulled; making a stand-in"
        "$2" "$1"
    fi
}

make_base() {
    if [ ! -e "$state/base/etc/debian_version" ]; then
        debootstrap --variant=minbase --include=ca-certificates bookworm "$state/base" \
            >"$state/debootstrap.log" 2>&1 || { tail -n 20 "$state/debootstrap.log" >&2; exit 1; }
    fi
    # What this machine needs to reach its package sources, the image needs too.
    cp /etc/ssl/certs/ca-certificates.crt "$state/base/etc/ssl/certs/ca-certificates.crt"
    [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$state/base/etc/pip.conf"
    tar -C "$state/base" -c . | docker import - "$1" >/dev/null
    rm -rf "$state/base"
}

build() {  # tag, folder
    chmod -f 755 "$2/entry.sh" || true
    docker build --network=host --tag "$1" "$2" >"$2.log" 2>&1 || { tail -n 30 "$2.log" >&2; exit 1; }
}

make_postgres() {
    mkdir -p "$state/postgres"
    cat >"$state/postgres/entry.sh" <<'ENTRY'
#!/bin/sh
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
    mkdir -p "$data" && chown postgres "$data" && chmod 700 "$data"
    printf '%s' "${POSTGRES_PASSWORD:?}" >/tmp/password && chmod 644 /tmp/password
    setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/initdb" --pgdata "$data" \
        --username "${POSTGRES_USER:-postgres}" --pwfile /tmp/password --encoding UTF8 --locale C.UTF-8
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\";" | setpriv --reuid=postgres --regid=postgres \
            --clear-groups "$bin/postgres" --single -D "$data" postgres >/dev/null
    fi
    echo "PostgreSQL init process complete; ready for start up."
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups \
    "$bin/postgres" -D "$data" -c listen_addresses='*' "$@"
ENTRY
    cat >"$state/postgres/Dockerfile" <<DOCKERFILE
FROM $BASE_IMAGE
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends \
    postgresql postgresql-client && mkdir -p /var/run/postgresql && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY entry.sh /entry.sh
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/entry.sh"]
DOCKERFILE
    build "$1" "$state/postgres"
}

make_kafka() {
    mkdir -p "$state/kafka"
    (cd "$root" && make --no-print-directory kafka-jars)
    cp -r "$root/.daybook/kafka/libs" "$state/kafka/"
    cat >"$state/kafka/entry.sh" <<'ENTRY'
#!/bin/sh
# KAFKA_NODE_ID=1 becomes node.id=1, as in the official image.
set -eu
data=/tmp/kraft-combined-logs
env | sed -n 's/^KAFKA_\([A-Z_]*\)=\(.*\)/\1=\2/p' | while IFS='=' read -r name value; do
    printf '%s=%s\n' "$(printf '%s' "$name" | tr 'A-Z_' 'a-z.')" "$value"
done >/tmp/server.properties
echo "log.dirs=$data" >>/tmp/server.properties
if [ ! -e "$data/meta.properties" ]; then
    id=$(java -cp '/libs/*' kafka.tools.StorageTool random-uuid)
    java -cp '/libs/*' kafka.tools.StorageTool format -t "$id" -c /tmp/server.properties
fi
exec java -Xms256m -Xmx512m -cp '/libs/*' kafka.Kafka /tmp/server.properties
ENTRY
    cat >"$state/kafka/Dockerfile" <<DOCKERFILE
FROM $BASE_IMAGE
RUN mkdir -p /usr/share/man/man1 && apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends \
    openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/*
COPY libs /libs
COPY entry.sh /entry.sh
ENTRYPOINT ["/entry.sh"]
DOCKERFILE
    build "$1" "$state/kafka"
}

make_python() {
    mkdir -p "$state/python"
    cat >"$state/python/Dockerfile" <<DOCKERFILE
FROM $BASE_IMAGE
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends \
    python3 python3-venv && rm -rf /var/lib/apt/lists/*
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
DOCKERFILE
    build "$1" "$state/python"
}

mkdir -p "$state"
case $command in
start)
    rm -f "$state/no-registry"
    start_engine
    if ! { have "$POSTGRES_IMAGE" && have "$KAFKA_IMAGE" && have "$PYTHON_IMAGE"; }; then
        pull "$BASE_IMAGE" || have "$BASE_IMAGE" || make_base "$BASE_IMAGE"
    fi
    want "$POSTGRES_IMAGE" make_postgres
    want "$KAFKA_IMAGE" make_kafka
    want "$PYTHON_IMAGE" make_python
    ;;
stop)
    stop_engine
    ;;
*)
    say "start or stop, not $command"
    exit 2
    ;;
esac
