#!/bin/sh
# Start of the pod image: sshd for people, beside the server. Started as root; the server is not.
#
# Who may log in (as root): the key in SSH_PUBLIC_KEY, else the one in PUBLIC_KEY (RunPod sets it);
# only if there is neither, the password in SSH_PASSWORD. Without any of them there is no sshd.
# POD_ROOT is a folder to write below instead of /, for trying this script out.
set -eu
umask 077
root=${POD_ROOT:-}
here=$(cd "$(dirname "$0")" && pwd)

key=${SSH_PUBLIC_KEY:-${PUBLIC_KEY:-}}
password=${SSH_PASSWORD:-}
unset SSH_PASSWORD

configure_sshd() { # root's login, password login
    mkdir -p "$root/etc/ssh/sshd_config.d" "$root/run/sshd"
    # Read before the rest of sshd_config, and the first value of an option holds.
    cat >"$root/etc/ssh/sshd_config.d/00-serve-hathora.conf" <<CONFIG
PermitRootLogin $1
PasswordAuthentication $2
KbdInteractiveAuthentication no
X11Forwarding no
CONFIG
    ssh-keygen -A >/dev/null
}

# What a login shell needs to find the GPU and the caches. Names are allowed one by one, so that no
# key or token of the server's comes along; RunPod's own variables do, but for its API key.
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
    # Through a pipe: a command line could be read by everybody.
    printf 'root:%s\n' "$password" | chpasswd
    configure_sshd yes yes
    echo "start-pod: sshd takes the given password; a key (SSH_PUBLIC_KEY) is safer"
else
    echo "start-pod: neither SSH_PUBLIC_KEY, PUBLIC_KEY nor SSH_PASSWORD is set; no sshd"
fi

if [ -n "$key$password" ]; then
    write_environment
    # It puts itself into the background, so it is no child of the server, which may end all of its
    # own. It gets none of this environment.
    env -i PATH="$PATH" "$(command -v sshd)"
fi

# Models on a volume are for others to read, too.
umask 022
exec "$here/entrypoint.sh" "$@"
