#!/usr/bin/env bash
# Builds the Collector of builder.yaml and prints the path of the binary, below bin. Everything else goes to stderr.
#
# The generated sources are kept until the manifest, this script or what go.mod requires changes. What has to be compiled
# is up to Go's build cache: the receiver is built from this repository, and the binary is never older than it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
out=$root/bin/otelcol-connspan
version=$(sed -n 's/^  version: //p' "$here/builder.yaml")
hash=$(cat "$here/builder.yaml" "$here/build.sh" "$root/go.mod" "$root/go.sum" | sha256sum)

mkdir -p "$out"
exec 9>"$out/lock"
flock 9 # one call builds, the others wait for it

export GOWORK=off CGO_ENABLED=0
if [[ $(cat "$out/hash" 2>/dev/null) != "$hash" ]]; then
    export TMPDIR=$out/tmp # the builder leaves a directory behind in it
    mkdir -p "$TMPDIR"
    trap 'rm -rf "$out/tmp"' EXIT
    (
        cd "$here" # what the manifest's paths are relative to
        # -e lets `go mod tidy` go on without the modules that only the tests of the components need: not every module
        # proxy has all of them. Strict: the versions built are those of the manifest.
        GOFLAGS="-e -buildvcs=false" go run "go.opentelemetry.io/collector/cmd/builder@v$version" \
            --config builder.yaml --skip-compilation --skip-strict-versioning=false
    ) >&2 9>&-
    echo "$hash" >"$out/hash"
fi
go -C "$out" build -buildvcs=false -trimpath -ldflags '-s -w' -o otelcol-connspan . >&2 9>&-

echo "$(cd "$out" && pwd)/otelcol-connspan"
