# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, never run.
# shellcheck disable=SC2034  # whoever sources this uses the variables

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache="$repo/.cache"
venv="$repo/.venv"
collections="$repo/.ansible/collections"

say() { printf '==> %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The daemon of this machine's docker CLI, whatever it is, or the one that setup started.
docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Every command of the project runs with the project's own tools and collections first.
use_venv() {
  [ -x "$venv/bin/ansible-playbook" ] || die "no virtual environment here: run script/setup"
  export PATH="$venv/bin:$PATH"
  export ANSIBLE_CONFIG="$repo/ansible.cfg"
  export ANSIBLE_HOME="$repo/.ansible"
  # Ansible refuses to start where the locale has no UTF-8.
  case "${LC_ALL:-${LANG:-}}" in *[Uu][Tt][Ff]*) ;; *) export LC_ALL=C.UTF-8 ;; esac
}
