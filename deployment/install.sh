#!/bin/sh
# Installs the daemon on a Linux with systemd, or brings an installation up to date; may be run again at any time.
# DESTDIR puts everything below another directory, for a look at it, and leaves users and systemd alone.
set -eu

user=trading-monitor
source=$(cd "$(dirname "$0")/.." && pwd)
root=${DESTDIR:-}
home=$root/opt/trading-monitor
settings=$root/etc/trading-monitor
units=$root/etc/systemd/system

say() { printf '%s\n' "$*"; }

if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || { say "install.sh: run it as root: sudo sh deployment/install.sh" >&2; exit 1; }
    if ! id "$user" >/dev/null 2>&1; then
        useradd --system --home-dir /opt/trading-monitor --shell /usr/sbin/nologin "$user"
        say "Made the account $user."
    fi
fi

mkdir -p "$home" "$settings" "$units"
if [ "$source" != "$home" ]; then
    # What is gone from the source goes here too; what belongs to this place stays.
    find "$home" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .env ! -name audit_anchors.txt -exec rm -rf {} +
    (cd "$source" && tar -cf - --exclude=./.git --exclude=./.venv --exclude=./.local --exclude=./.env \
        --exclude=./audit_anchors.txt --exclude=__pycache__ --exclude='./.*_cache' \
        --exclude='./.coverage*' --exclude=./.hypothesis .) | (cd "$home" && tar -xf - --no-same-owner)
fi
chmod -R go-w "$home"
chmod 755 "$home"
chmod 700 "$settings"

if [ ! -e "$settings/env" ]; then
    # The one place that the daemon may write, and that the next installation leaves alone.
    (umask 077 && sed "s|^AUDIT_ANCHOR_FILE=.*|AUDIT_ANCHOR_FILE=/var/lib/$user/audit_anchors.txt|" \
        "$home/.env.example" > "$settings/env")
    say "Made $settings/env: fill it in."
fi
chmod 600 "$settings/env"

if [ "${SKIP_VENV:-}" != yes ]; then
    (cd "$home" && sh scripts/bootstrap.sh)
fi

cp "$home/deployment/trading-monitor.service" "$units/trading-monitor.service"
chmod 644 "$units/trading-monitor.service"
if [ -z "$root" ]; then
    systemctl daemon-reload
    say "Next: fill in /etc/trading-monitor/env, then: systemctl enable --now trading-monitor"
    say "A daemon that is running goes on with the old programs until: systemctl restart trading-monitor"
fi
say "Installed in $home."
