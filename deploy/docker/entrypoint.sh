#!/bin/sh
# Start the server, or another of its modes, inside the image: entrypoint.sh [mode] [--flags].
#
# Started as root (the runpod and pod images; `docker run --user 0` for folders of the host) it gives
# the cache folders to uid 10001 and continues as that user. A model baked into the image is served
# unless the settings name another one.
set -eu

SERVE_UID=10001
cd "$(dirname "$0")/../.."
caches="$HOME $XDG_CACHE_HOME $CACHE_DIR $TRITON_CACHE_DIR $TORCHINDUCTOR_CACHE_DIR \
    $FLASHINFER_WORKSPACE_BASE $SGLANG_CACHE_DIR"

if [ "$(id -u)" = 0 ]; then
    for folder in $caches "$HF_HOME"; do
        # Recursively only the first time: a volume may hold many files.
        if ! mkdir -p "$folder" || ! { [ "$(stat -c %u "$folder")" = "$SERVE_UID" ] ||
            chown -R "$SERVE_UID:$SERVE_UID" "$folder"; }; then
            echo "entrypoint: cannot give $folder to uid $SERVE_UID; what is there is only read" >&2
        fi
    done
    exec setpriv --reuid "$SERVE_UID" --regid "$SERVE_UID" --clear-groups --no-new-privs \
        "$PWD/deploy/docker/entrypoint.sh" "$@"
fi

# HF_HOME is not checked: a read-only volume that already holds the model is enough.
for folder in $caches; do
    if ! mkdir -p "$folder" 2>/dev/null || ! [ -w "$folder" ]; then
        echo "entrypoint: uid $(id -u) cannot write $folder; give it the volume (chown" \
            "$SERVE_UID:$SERVE_UID, in Kubernetes fsGroup: $SERVE_UID) or start with --user 0" >&2
        exit 78
    fi
done

if [ -f "${BAKED_MODEL:-}" ]; then
    exports=$(python3 -m deploy.docker.baked "$BAKED_MODEL" "$@")
    eval "$exports"
fi
exec python3 serve_hathora.py "$@"
