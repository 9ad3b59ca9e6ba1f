#!/usr/bin/env bash
# Builds the Collector of builder.yaml, once, and prints the path of the binary. Everything else goes to stderr.
#
# The binary is kept in ${CONNSPAN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/connspan}, under a name made of the contents of
# the manifest and of this script: a change of either builds anew. Any number of calls may run at the same time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CONNSPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/connspan}
hash=$(cat "$here/builder.yaml" "$here/build.sh" | sha256sum | cut -c 1-16)
target=$cache/otelcol-$hash

if [[ ! -x $target/otelcol ]]; then
    mkdir -p "$target"
    exec 9>"$target/lock"
    flock 9 # one call builds, the others wait for its result
fi

if [[ ! -x $target/otelcol ]]; then
    build=$(mktemp -d "$target/build.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    (
        export GOWORK=off CGO_ENABLED=0
        export TMPDIR=$build/tmp # the builder leaves a directory behind in it
        mkdir "$TMPDIR"
        # -e lets `go mod tidy` go on without the modules that only the tests of the components need: not every module
        # proxy has all of them. Whatever the Collector itself lacks still fails the build.
        export GOFLAGS="-e -buildvcs=false"
        go -C "$here/../internal/tools" build -o "$build/builder" go.opentelemetry.io/collector/cmd/builder
        cd "$build"
        # Builds with -trimpath -ldflags="-s -w" of its own accord. Strict: the versions built are those of the manifest.
        ./builder --config "$here/builder.yaml" --skip-strict-versioning=false
    ) >&2 9>&-
    mv "$build/otelcol-connspan-test" "$target/otelcol" # in one step: nobody sees half a binary
fi

echo "$target/otelcol"
