#!/usr/bin/env bash
# Backs up a folder with restic, BorgBackup and casync, as far as they are installed: MB (10^6) per second of CPU time
# of the tool and its children, medians of 3 rounds, and bytes of the repository by bytes in.
# usage: benches/large/peers.sh CORPUS/real        (needs GNU time; repositories go below TMPDIR)
#
# All read from the page cache and keep nothing of an earlier run: "again" is the same folder once more, hashed anew.
# restic compresses as it does by default, encrypts and cannot be told not to. borg: zstd 1, not encrypted. casync:
# zstd, which it compresses with by default.
set -euo pipefail
from=$(realpath "${1:?usage: peers.sh FOLDER}")
room=$(mktemp -d "${TMPDIR:-/tmp}/large-peers.XXXXXX")
trap 'rm -rf "$room"' EXIT
export RESTIC_PASSWORD=bench RESTIC_REPOSITORY="$room/repo" BORG_REPO="$room/repo" BORG_BASE_DIR="$room/borg"
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
bytes=$(cat "$from"/* | wc -c)

restic_begin() { restic init --quiet; }
restic_ingest() { restic backup --quiet --no-cache --force "$from"; }
borg_begin() { borg init --encryption none; }
borg_ingest() { borg create --compression zstd,1 --files-cache disabled "::$1" "$from"; }
casync_begin() { mkdir "$room/repo"; }
casync_ingest() { casync make --store="$room/repo/chunks.castr" "$room/repo/$1.caidx" "$from" > "$room/said"; }

# Runs a verb of a tool, and prints MB per second of CPU time.
rate() {
    command time -f '%U %S' -o "$room/time" bash -c "$1_ingest $2" >&2
    awk -v bytes="$bytes" '{ printf "%.1f\n", bytes / 1e6 / ($1 + $2) }' "$room/time"
}
median() { sort -n | sed -n 2p; }
export -f restic_ingest borg_ingest casync_ingest
export from room

echo "| $(basename "$from"), beside | ingest | again | stored / in |"
echo "| --- | --: | --: | --: |"
for tool in restic borg casync; do
    command -v "$tool" > /dev/null || { echo "| $tool is not installed | | | |"; continue; }
    : > "$room/ingest" > "$room/again"
    for _ in 1 2 3; do
        rm -rf "$room/repo" "$room/borg"
        "${tool}_begin"
        rate "$tool" first >> "$room/ingest"
        stored=$(du -sb "$room/repo" | cut -f1)
        rate "$tool" second >> "$room/again"
    done
    version=$("$tool" --version 2> /dev/null || "$tool" version)
    version=$(head -1 <<< "$version" | cut -d' ' -f1,2)
    share=$(awk -v stored="$stored" -v bytes="$bytes" 'BEGIN { printf "%.3f", stored / bytes }')
    echo "| $version | $(median < "$room/ingest") | $(median < "$room/again") | $share |"
done
