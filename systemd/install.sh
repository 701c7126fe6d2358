#!/bin/sh
# Installs hygroma-edge as a service, or updates it, from the folder that holds this one: JetPack 6 and 7, or any Linux with systemd
# and Python >= 3.10.   sudo systemd/install.sh
# DESTDIR: another root than / (images, tests); then systemd is not told. PYTHON: another interpreter than python3.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
root=${DESTDIR:-}
venv=$root/opt/hygroma
python=${PYTHON:-python3}

fail() { echo "install.sh: $1" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  fail "$python: Python 3.10 or newer is needed; set PYTHON=/usr/bin/python3.12 or the like"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv; apt install python3-venv"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "not root; run it with sudo"

# The system's packages are seen: a Jetson's TensorRT comes from apt, and its OpenCV has GStreamer, which no wheel has.
[ -x "$venv/bin/python" ] || "$python" -m venv --system-site-packages "$venv"
rm -rf "$source/build" # what an earlier version left there would go into the wheel
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall "$source"
"$venv/bin/python" "$source/systemd/device_packages.py" >"$venv/requirements.txt"
pip_rest() { "$venv/bin/python" -m pip "$1" install --disable-pip-version-check -r "$venv/requirements.txt"; }
pip_rest -qqq || pip_rest -q # told only where it fails: pip takes the system's OpenCV for missing, and says so
"$venv/bin/hygroma" --version
if [ -n "$root" ]; then # once the image runs, its programs find their Python without it
  grep -rlIF "$venv" "$venv/bin" | while read -r script; do sed -i "s|$venv|/opt/hygroma|g" "$script"; done
fi

install -d "$root/usr/local/bin" "$root/etc/systemd/system" "$root/etc/udev/rules.d" "$root/etc/tmpfiles.d" "$root/etc/hygroma"
ln -sfn /opt/hygroma/bin/hygroma "$root/usr/local/bin/hygroma"
install -d "$root/usr/local/share/man/man1" "$root/usr/share/bash-completion/completions"
install -m 644 "$source/systemd/hygroma.1" "$root/usr/local/share/man/man1/"
"$venv/bin/register-python-argcomplete" hygroma >"$root/usr/share/bash-completion/completions/hygroma"
install -d "$root/usr/local/lib/hygroma"
install -m 755 "$source/systemd/restart-when-idle" "$root/usr/local/lib/hygroma/"
for unit in "$source"/systemd/*.service "$source"/systemd/*.path; do
  install -m 644 "$unit" "$root/etc/systemd/system/"
done
install -m 644 "$source/systemd/60-hygroma.rules" "$root/etc/udev/rules.d/"
install -m 644 "$source/systemd/hygroma.tmpfiles.conf" "$root/etc/tmpfiles.d/hygroma.conf"
if [ -z "$(find "$root/etc/hygroma" -name '*.yaml' -print -quit)" ]; then
  install -m 644 "$source/edge/config.example.yaml" "$root/etc/hygroma/room1.yaml"
fi
if [ -z "$root" ]; then
  systemctl daemon-reload
  systemd-tmpfiles --create hygroma.conf
  udevadm control --reload && udevadm trigger --subsystem-match=video4linux
fi
cat <<END
Installed in $venv. What is left to do:
  1. name the grabber in $root/etc/hygroma/room1.yaml (source.uri; ls /dev/v4l/by-id lists them)
  2. sudo hygroma doctor --config /etc/hygroma/room1.yaml
  3. sudo systemctl enable --now hygroma@room1 hygroma-update@room1.path
END
