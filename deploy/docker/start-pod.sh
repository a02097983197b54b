#!/bin/sh
# Start the pod image: sshd for its users, beside the server. Runs as root; the server does not.
#
# Login is as root, by the key in SSH_PUBLIC_KEY, else by the one in PUBLIC_KEY (RunPod sets it); only
# without both by the password in SSH_PASSWORD. Without any of them sshd is not started.
# POD_ROOT is a folder that is written to instead of /, for tests of this script.
set -eu
umask 077
root=${POD_ROOT:-}
here=$(cd "$(dirname "$0")" && pwd)

key=${SSH_PUBLIC_KEY:-${PUBLIC_KEY:-}}
password=${SSH_PASSWORD:-}
unset SSH_PASSWORD

configure_sshd() { # root's login, password login
    mkdir -p "$root/etc/ssh/sshd_config.d" "$root/run/sshd"
    # sshd reads this file before the rest of sshd_config, and the first value of an option counts.
    cat >"$root/etc/ssh/sshd_config.d/00-serve-hathora.conf" <<CONFIG
PermitRootLogin $1
PasswordAuthentication $2
KbdInteractiveAuthentication no
X11Forwarding no
CONFIG
    ssh-keygen -A >/dev/null
}

# Write what a login shell needs to find the GPU and the caches. Only listed names are written, so no
# key or token of the server is among them; of RunPod's variables all but its API key.
write_environment() {
    mkdir -p "$root/etc" "$root/root"
    awk 'BEGIN {
        quote = sprintf("%c", 39)
        for (name in ENVIRON) {
            if (name !~ /^(PATH|LD_LIBRARY_PATH|LIBRARY_PATH|HF_HOME|XDG_CACHE_HOME|PORT)$/ &&
                name !~ /^(CUDA|NVIDIA|RUNPOD)_[A-Z0-9_]+$/) continue
            if (name ~ /KEY|TOKEN|SECRET|PASSWORD/) continue
            value = ENVIRON[name]
            gsub(quote, quote "\\" quote quote, value)
            print "export " name "=" quote value quote
        }
    }' >"$root/etc/rp_environment"
    grep -qs rp_environment "$root/root/.bashrc" ||
        echo '[ -r /etc/rp_environment ] && . /etc/rp_environment' >>"$root/root/.bashrc"
}

if [ -n "$key" ]; then
    mkdir -p "$root/root/.ssh"
    printf '%s\n' "$key" >"$root/root/.ssh/authorized_keys"
    configure_sshd prohibit-password no
    echo "start-pod: sshd takes the given key; passwords are refused"
elif [ -n "$password" ]; then
    # Through a pipe: every user can read the command line of a process.
    printf 'root:%s\n' "$password" | chpasswd
    configure_sshd yes yes
    echo "start-pod: sshd takes the given password; a key (SSH_PUBLIC_KEY) is safer"
else
    echo "start-pod: neither SSH_PUBLIC_KEY, PUBLIC_KEY nor SSH_PASSWORD is set; no sshd"
fi

if [ -n "$key$password" ]; then
    write_environment
    # sshd becomes a daemon, so it is no child of the server, which may kill all of its children. It
    # gets none of this environment.
    env -i PATH="$PATH" "$(command -v sshd)"
fi

# Other users may read the models on a volume.
umask 022
exec "$here/entrypoint.sh" "$@"
